"""The model card of an adapter, for people and for the Hub's search."""

from __future__ import annotations

import yaml

from edgelora.card_front import front_matter
from edgelora.manifest import Base, Component, EvaluationEntry, TrainingDataset


def model_card(
    *,
    title: str,
    base: Base,
    component: Component,
    evaluation: tuple[EvaluationEntry, ...],
    license: str,
    languages: tuple[str, ...],
    peft: bool,
    datasets: tuple[TrainingDataset, ...] = (),
) -> str:
    """Markdown with the Hub's front matter.

    Args:
        title: First heading.
        base: The base model.
        component: The adapter's only component.
        evaluation: Measurements to list.
        license: SPDX expression.
        languages: BCP 47 tags.
        peft: Whether stock PEFT can load the adapter.
        datasets: What it was trained on.
    """
    front = front_matter(
        title=title,
        base=base,
        derivative=component.derivative.name,
        evaluation=evaluation,
        datasets=datasets,
        license=license,
        languages=languages,
        peft=peft,
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"An adapter for `{base.repo}` ({base.architecture}), trained with {_how(component)}.\n\n"
        f"The base is recognised by its weights: `{base.tensors_digest}`.\n\n"
        f"{_table(evaluation)}## Use\n\n"
        '```console\n$ edgelora verify .\n$ edgelora generate --adapter . "your question"\n```\n'
    )


def _how(component: Component) -> str:
    parts = ", ".join(f"{kind.replace('_', ' ')} `{part.name}`" for kind, part in component.parts.items())
    paper = f" ({component.derivative.paper})" if component.derivative.paper else ""
    return f"{component.derivative.name}{paper}: {parts}"


def _table(evaluation: tuple[EvaluationEntry, ...]) -> str:
    if not evaluation:
        return ""
    rows = "".join(
        f"| {entry.metric} | {entry.phase or ''} | {_short(entry.value)} "
        f"| {_short(entry.low)} – {_short(entry.high)} | {entry.n} |\n"
        for entry in evaluation
    )
    return f"## Measurements\n\n| metric | of | value | 95 % interval | n |\n|---|---|---|---|---|\n{rows}\n"


def _short(value: str | None) -> str:
    return "" if value is None else f"{float(value):.4g}"
