"""The inside of an arm: calls one function of a benchmark in a fresh process and writes what it answers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from harness.phases import finished


def call(path: Path, function: str, settings: dict[str, Any]) -> Any:
    """Import the file at ``path`` under its own name and call its function."""
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return getattr(module, function)(**settings)


def main() -> None:
    path, function, settings, out = sys.argv[1:]
    result = call(Path(path), function, json.loads(settings))
    Path(out).write_text(json.dumps({"result": result, "phases": finished}))


if __name__ == "__main__":
    main()
