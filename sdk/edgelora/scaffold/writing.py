"""Filling in the templates: a folder that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template

from edgelora.errors import TargetExists
from edgelora.files import disk_full_is_an_error, fsync_dir, make_dirs, publish_directory, write_new
from edgelora.registry.admission import HOOK_OF_KIND
from edgelora.scaffold.names import PluginNames
from edgelora.version import __version__

_ABILITIES = {"adapter": '("Additive", "LowRank")'}
"""What the objects of a template can do, as its part says."""


def write_plugin(names: PluginNames, folder: Path) -> tuple[str, ...]:
    """Write the distribution into ``folder``, which must not exist.

    Returns:
        The files written, relative to the folder, sorted.

    Raises:
        TargetExists: There is something at ``folder``.
        DiskFull: No space is left; there is no ``folder`` then.
    """
    if os.path.lexists(folder):
        raise TargetExists(
            f"{folder} exists already", fix="choose another folder with --out, or delete it first"
        )
    texts = dict(_texts(names))
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(folder):
        make_dirs(staging)
        try:
            for path, text in texts.items():
                make_dirs((staging / path).parent)
                write_new(staging / path, text.encode())
                fsync_dir((staging / path).parent)
            publish_directory(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return tuple(sorted(texts))


def _texts(names: PluginNames) -> Iterator[tuple[str, str]]:
    """Path and content of each file."""
    module, kind = names.module, names.kind
    yield "pyproject.toml", _filled("plugin/pyproject.toml", names)
    yield "README.md", _filled("plugin/README.md", names)
    yield f"{module}/__init__.py", _filled("plugin/__init__.py", names)
    yield f"{module}/py.typed", ""
    yield f"{module}/options.py", _filled(f"{kind}/options.py", names)
    yield f"{module}/{kind}.py", _filled(f"{kind}/{kind}.py", names)
    yield f"tests/test_{names.name.replace('-', '_')}.py", _filled("plugin/test.py", names)


def _filled(template: str, names: PluginNames) -> str:
    text = (files(__package__) / "templates" / f"{template}.tmpl").read_text(encoding="utf-8")
    major, minor, *_ = __version__.split(".")
    return Template(text).substitute(
        name=names.name,
        distribution=names.distribution,
        module=names.module,
        stem=names.stem,
        kind=names.kind,
        kind_class=names.kind_class,
        kind_words=names.kind.replace("_", " "),
        hook=HOOK_OF_KIND[names.kind],
        abilities=_ABILITIES.get(names.kind, "()"),
        measured=names.name.replace("-", "_"),
        recipe=_recipe_line(names),
        oldest=f"{major}.{minor}",
        next_major=int(major) + 1,
    )


def _recipe_line(names: PluginNames) -> str:
    return f"evaluators: [loss, {names.name}]" if names.kind == "evaluator" else f"{names.kind}: {names.name}"
