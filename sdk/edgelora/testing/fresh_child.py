"""What `edgelora.testing.fresh` runs in another process: a file, so that nothing is imported before it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from edgelora.registry import HEAVY, Registry


def list_plugin(name: str) -> dict[str, Any]:
    """State of the plugin, and what listing it alone imported."""
    found = {status.name: status for status in Registry.discover(only=[name]).plugins}
    heavy = [module for module in HEAVY if module in sys.modules]
    if name not in found:
        return {"state": "missing", "cause": f"no plugin {name!r} is installed", "heavy": heavy}
    return {"state": found[name].state, "cause": found[name].cause, "heavy": heavy}


def apply_all(adapters: list[dict[str, str]]) -> dict[str, str]:
    """Apply each adapter; why not, by name, where that fails."""
    registry, failed = Registry.discover(), {}
    for adapter in adapters:
        try:
            apply_adapter(adapter, registry)
        # Whatever a plugin raises here is the finding.
        except (Exception, SystemExit) as error:
            failed[adapter["name"]] = f"{type(error).__name__}: {error}"
    return failed


def apply_adapter(adapter: dict[str, str], registry: Registry) -> None:
    """Write the logits that an adapter gives, by task; ``""`` where it tells no tasks apart."""
    import torch

    from edgelora.engine.apply import load_adapted, probe_logits

    torch.set_num_threads(1)
    adapted = load_adapted(adapter["folder"], registry, base=adapter["base"], device=torch.device("cpu"))
    logits = {}
    for task in adapted.tasks or ("",):
        adapted.route(task or None)
        logits[task] = probe_logits(adapted.model)
    torch.save(logits, adapter["logits"])


def main() -> None:
    """Answer each line of stdin, a task, with a line on stdout."""
    # What a plugin prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        answer = list_plugin(task["plugin"]) if "plugin" in task else apply_all(task["adapters"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
