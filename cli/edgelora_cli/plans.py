"""``edgelora plan``: what a recipe will do, resolved against the installed plugins, without torch."""

from __future__ import annotations

from pathlib import Path

import click

from edgelora_cli.commands import Command, set_option
from edgelora_cli.console import emit


@click.command(
    cls=Command,
    short_help="Show what a recipe will do, without doing it.",
    examples="""
    edgelora plan recipe.yaml
    edgelora plan recipe.yaml --set derivative=qlora --set adapter.rank=8 --json
    """,
)
@click.argument("recipe", type=click.Path(path_type=Path))
@set_option
def plan(recipe: Path, changes: tuple[str, ...]) -> None:
    """Show what RECIPE will do: every part with its plugin and options, defaults included.

    Misspelt names, options out of range, parts that cannot work together and missing files are refused here.
    Of the base no more than the names in its files is read: what only a loaded one tells is left to train.
    """
    from edgelora.bases import expanded, is_path, no_folder
    from edgelora.errors import MissingFile
    from edgelora.plan import make_plan
    from edgelora.recipe import read_recipe
    from edgelora.registry import Registry

    resolved = make_plan(read_recipe(recipe, changes), Registry.discover())
    base = resolved.recipe.base
    if is_path(base) and not expanded(base).exists():
        raise no_folder(base)
    missing = [source.path for source in resolved.recipe.data if not source.path.exists()]
    if missing:
        raise MissingFile(
            f"there is no data file {missing[0]}", fix="correct 'data' in the recipe, or put the file there"
        )
    emit({**resolved.as_document(), "notes": list(resolved.notes)}, resolved.describe())
