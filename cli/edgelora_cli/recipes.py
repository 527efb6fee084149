"""``edgelora recipe``: write a recipe to start from, or the JSON Schema of recipes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, note

if TYPE_CHECKING:
    from edgelora.plan import PlannedPart

TEMPLATE = """\
# A recipe: one fine-tuning job. `edgelora plan {file}` shows what it will do.
derivative: {derivative}            # `edgelora plugins list` names those installed
base: {base}                  # a folder with a model, a cached Hub id, or micro (built in)
data:
{data}
{adapter}
train:
  max_steps: 300
  batch_size: 2
  accumulation: 4
  learning_rate: 2.0e-4
  max_length: 2048
  seed: 3407
evaluators: [loss, exact-match]
# memory_budget: 2GiB         # the base is then resident, checkpointed or streamed, whichever fits first
# about: {{license: Apache-2.0, languages: [en]}}   # without a licence nobody else may use the adapter
out: {out}
"""


@click.group(cls=Group, short_help="Write a recipe, or print the schema of recipes.")
def recipe() -> None:
    """Write a recipe to start from, or print the JSON Schema every recipe follows."""


@recipe.command(
    examples="""
    edgelora recipe new
    edgelora recipe new sensors.yaml --derivative qlora --base ./models/llama --data sensors.jsonl
    """
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("recipe.yaml"))
@click.option("--derivative", default="lora", show_default=True, help="A derivative, such as lora or qlora.")
@click.option("--base", default="micro", show_default=True, help="A model folder, a cached Hub id, or micro.")
@click.option(
    "--data",
    multiple=True,
    default=["train.jsonl"],
    show_default=True,
    help="A file with your rows; several files are several tasks, called as the files are.",
)
def new(path: Path, derivative: str, base: str, data: tuple[str, ...]) -> None:
    """Write a commented recipe to PATH (recipe.yaml), ready to be edited."""
    from edgelora.errors import TargetExists
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    if path.exists():
        raise TargetExists(f"{path} exists already", fix="choose another name, or delete it first")
    # JSON strings are YAML strings: names with spaces, colons or hashes stay what they are.
    values = {"derivative": derivative, "base": base, "out": f"runs/{path.stem}"}
    quoted = {key: _yaml_scalar(value) for key, value in values.items()}
    # The derivative's own, which are not the same for all: AdaLoRA starts with more than it keeps.
    plan = make_plan(make_recipe({"derivative": derivative, "base": base}), Registry.discover())
    text = TEMPLATE.format(
        file=path,
        data="\n".join(_source(each, is_task=len(data) > 1) for each in data),
        adapter=_adapter(plan.parts["adapter"]),
        **quoted,
    )
    make_recipe(yaml.safe_load(text), where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    note(f"next: edit it, then edgelora plan {path}")
    emit({"path": str(path)}, f"wrote {path}")


@recipe.command(
    examples="""
    edgelora recipe schema > recipe.schema.json
    """
)
def schema() -> None:
    """Print the JSON Schema of recipes, for editors that check YAML while one types."""
    from edgelora.recipe import Recipe

    document = Recipe.model_json_schema()
    emit(document, json.dumps(document, indent=2))


def _adapter(part: PlannedPart) -> str:
    options = part.options.model_dump()
    if "AdaptsModel" in part.part.abilities:
        return (
            f"adapter: {{}}                   # its options: edgelora plugins show {part.plugin}:{part.name}"
        )
    return f"adapter:\n  rank: {options['rank']}\n  alpha: {options['alpha']:g}\n  target_modules: all-linear"


def _source(path: str, *, is_task: bool) -> str:
    lines = [f"  - path: {_yaml_scalar(path)}         # JSONL, JSON, parquet or CSV; relative to this file"]
    if is_task:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-") or "main"
        lines.append(f"    task: {_yaml_scalar(name)}")
    lines.append("    held_out: 0.05            # share of the rows that is measured and never trained on")
    return "\n".join(lines)


def _yaml_scalar(value: str) -> str:
    plain = value and yaml.safe_load(f"[{value}]") == [value] if _is_simple(value) else False
    return value if plain else json.dumps(value)


def _is_simple(value: str) -> bool:
    return all(character.isalnum() or character in "-_./" for character in value)
