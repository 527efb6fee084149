"""``edgelora plugins new``: write a plugin to start from."""

from __future__ import annotations

from pathlib import Path

import click

from edgelora.parts import KINDS
from edgelora_cli.commands import Command
from edgelora_cli.console import emit, note


@click.command(
    cls=Command,
    examples="""
    edgelora plugins new my-method --kind adapter
    edgelora plugins new half-sum --kind loss-combiner --out plugins/half-sum
    """,
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice([kind.replace("_", "-") for kind in KINDS]),
    required=True,
    help="What the plugin offers.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write; by default edgelora-NAME in the current one.",
)
def new(name: str, kind: str, out: Path | None) -> None:
    """Write a distribution whose plugin offers the part NAME and passes the conformance kit as it is."""
    from edgelora.registry import Registry
    from edgelora.scaffold import PluginNames, name_defect, write_plugin

    names = PluginNames(name, next(each for each in KINDS if each.replace("_", "-") == kind))
    if defect := name_defect(names, Registry.discover()):
        raise click.BadParameter(defect, param_hint="NAME")
    folder = Path(names.distribution) if out is None else out
    written = write_plugin(names, folder)
    edited = f"{names.module}/{names.kind}.py"
    note(
        f"next: cd {folder} && pip install --no-build-isolation -e . && python -m pytest\nthen edit {edited}"
    )
    emit(
        {"folder": str(folder), "distribution": names.distribution, "files": list(written)},
        f"wrote {folder}: {', '.join(written)}",
    )
