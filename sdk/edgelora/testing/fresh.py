"""A fresh process: what listing a plugin imports, and what its packed adapters compute there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("fresh_child.py")
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Packed:
    """An adapter to be applied: where it is, and where its logits go.

    Attributes:
        name: Of the base it was trained over.
        folder: The adapter directory.
        base: Folder of the unquantized base.
        logits: File that ``torch.save`` writes, by task.
    """

    name: str
    folder: str
    base: str
    logits: str


class FreshProcess:
    """Runs once, when it is made.

    Attributes:
        listed: ``state`` and ``cause`` of the plugin, and the ``heavy`` packages that listing it imported.
        failed: Why an adapter could not be applied, by name; those that could are not in it.
    """

    def __init__(self, plugin: str, adapters: Iterable[Packed] = ()) -> None:
        with tempfile.TemporaryDirectory(prefix="edgelora-fresh-") as folder:
            answer = Path(folder) / "answer.json"
            task = {
                "plugin": plugin,
                "adapters": [asdict(each) for each in adapters],
                "answer": str(answer),
            }
            # What this process can import, the fresh one can; -P keeps the child's own folder out of it.
            path = os.pathsep.join(each for each in sys.path if each)
            environment = {**os.environ, "PYTHONPATH": path, "EDGELORA_HOME": folder}
            environment.pop("EDGELORA_ONLY", None)
            environment.pop("EDGELORA_BLOCK", None)
            done = subprocess.run(
                [sys.executable, "-P", str(_CHILD)],
                input=json.dumps(task),
                env=environment,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if not answer.exists():
                raise AssertionError(
                    f"a fresh process that lists plugin {plugin!r} ended with {done.returncode}: "
                    f"{done.stderr.strip()[-500:]}"
                )
            found: dict[str, Any] = json.loads(answer.read_text())
        self.listed: dict[str, Any] = found["listed"]
        self.failed: dict[str, str] = found["failed"]
