"""``edgelora evaluate``: measure a base on a recipe's held-out data, with or without an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Command, rank_option, set_option, threads_option
from edgelora_cli.console import emit, note, settings, warn

if TYPE_CHECKING:
    from edgelora.engine.past_sites import Past
    from edgelora.plan import Plan
    from edgelora.protocols import Measurement

GATE = re.compile(r"\s*(?P<metric>[^<>=\s]+)\s*(?P<sign>>=|<=)\s*(?P<bar>[-+0-9.eE]+)\s*")


@click.command(
    cls=Command,
    short_help="Measure a base, with or without an adapter.",
    examples="""
    edgelora evaluate recipe.yaml
    edgelora evaluate recipe.yaml --adapter runs/first/adapter
    edgelora evaluate recipe.yaml --adapter acme/decimals --gate "main.exact_match>=0.9"
    """,
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--adapter", metavar="REF", help="A folder or a reference; left out, the base alone is measured."
)
@rank_option
@click.option(
    "--gate", "gates", multiple=True, metavar="METRIC>=BAR", help="Exit 10 unless it holds (repeatable)."
)
@set_option
@threads_option
def evaluate(
    recipe: Path,
    adapter: str | None,
    rank: int | None,
    gates: tuple[str, ...],
    changes: tuple[str, ...],
    threads: int | None,
) -> None:
    """Run the evaluators of RECIPE on its held-out rows."""
    if rank is not None and adapter is None:
        raise click.UsageError("--rank is of an adapter: name it with --adapter")
    from edgelora.errors import PlanError, WrongBase
    from edgelora.plan import make_plan
    from edgelora.recipe import read_recipe
    from edgelora.registry import Registry
    from edgelora_cli.dependencies import need_train_extra

    bars = [_parse_gate(gate) for gate in gates]
    registry = Registry.discover()
    plan = make_plan(read_recipe(recipe, changes), registry)
    if not plan.evaluators:
        raise PlanError(
            f"{recipe} has an empty list of evaluators, so there is nothing to measure",
            fix="name some: --set evaluators=[loss,exact-match]; see: edgelora plugins list",
        )
    need_train_extra("measuring")

    from edgelora.engine.base import locate_base
    from edgelora.engine.data import load_dataset
    from edgelora.engine.evaluate import evaluate as measure
    from edgelora.engine.past_factors import read_past, taken_off
    from edgelora.engine.source import source_weights
    from edgelora_cli.measurements import measurement_table
    from edgelora_cli.models import open_adapted, open_base, use_threads

    wanted = plan.recipe
    use_threads(threads or wanted.train.threads)
    if adapter is None:
        opened = open_base(plan)
    else:
        try:
            opened = open_adapted(
                adapter, registry, base=wanted.base, revision=wanted.revision, dtype=wanted.train.dtype,
                rank=rank,
            )  # fmt: skip
        except WrongBase as error:
            # Which base, it says; here it stands in the recipe.
            fix = error.fix.replace("--base FOLDER", "--set base=FOLDER")
            raise WrongBase(error.problem, fix=fix) from error
    over = opened.plan or plan
    _tell_other_weights(plan, over)
    past: Past = {}
    if plan.past:
        with taken_off(opened.model, opened.layers) as bare:
            past = read_past(bare, plan)
    dataset = load_dataset(
        wanted.data, opened.tokenizer, max_length=wanted.train.max_length, tasks=opened.tasks
    )
    for line in dataset.report.lines():
        note(line)
    found = measure(
        opened.model,
        opened.layers,
        plan,
        tokenizer=opened.tokenizer,
        dataset=dataset,
        source=source_weights(locate_base(opened.base, wanted.revision)),
        past=past,
        tell=note,
    )
    document = {
        "base": opened.base,
        "quantizer": over.parts["quantizer"].name,
        "adapter": adapter,
        "measurements": {name: asdict(value) for name, value in found.items()},
    }
    if settings().json:
        _check_gates(found, bars)
    emit(document, measurement_table(found, {}))
    _check_gates(found, bars)


def _tell_other_weights(asked: Plan, over: Plan) -> None:
    """Say so where an adapter was trained over other weights than the recipe's quantizer makes."""
    from edgelora.plan.prepared import base_form, base_in_words

    if base_form(asked) != base_form(over):
        warn(
            f"measured over {base_in_words(over)}, which the adapter was trained over; the recipe's "
            f"{base_in_words(asked)} is not used"
        )


def _parse_gate(text: str) -> tuple[str, str, float]:
    match = GATE.fullmatch(text)
    if match is None:
        raise click.UsageError(f"--gate {text!r} is not of the form METRIC>=BAR or METRIC<=BAR")
    try:
        return match["metric"], match["sign"], float(match["bar"])
    except ValueError as error:
        raise click.UsageError(f"--gate {text!r}: {match['bar']!r} is not a number") from error


def _check_gates(found: Mapping[str, Measurement], bars: list[tuple[str, str, float]]) -> None:
    from edgelora.errors import GateFailed

    for metric, sign, bar in bars:
        if metric not in found:
            known = ", ".join(found) or "none"
            raise GateFailed(f"nothing measured {metric!r}", fix=f"measured were: {known}")
        value = found[metric].value
        if not (value >= bar if sign == ">=" else value <= bar):
            raise GateFailed(
                f"{metric} is {value:.4g} (n = {found[metric].n}), and it had to be {sign} {bar:g}",
                fix="train longer or on more data, or lower the bar",
            )
