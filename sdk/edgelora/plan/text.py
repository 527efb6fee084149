"""A plan in words, as ``edgelora plan`` prints it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgelora.bases import prepared_at
from edgelora.plan.on_base import left_to_training
from edgelora.plan.part import PlannedPart
from edgelora.sizes import size_text

if TYPE_CHECKING:
    from edgelora.plan import Plan
    from edgelora.plan.past import PastAdapter
    from edgelora.recipe import DataSource, Recipe, TrainSettings

_LABEL_WIDTH = 16


def describe_plan(plan: Plan) -> str:
    """One line per decision: method, base, each part with its options, defaults included, and data."""
    derivative = plan.origin.derivative
    about = "; ".join(text for text in (derivative.summary, derivative.paper) if text)
    origin = f"from {plan.origin.plugin}, {plan.origin.distribution} {plan.origin.version}"
    lines = [
        _line("derivative", f"{plan.derivative} ({origin})" + (f": {about}" if about else "")),
        _line("base", _base(plan.recipe)),
    ]
    lines += [_line(kind.replace("_", " "), _part(part)) for kind, part in plan.parts.items()]
    lines += _many("evaluators", [_part(evaluator) for evaluator in plan.evaluators])
    lines += _many("data", [_source(source) for source in plan.recipe.data])
    lines.append(_line("tasks", ", ".join(plan.tasks)))
    lines.append(_line("train", _training(plan.recipe.train)))
    if plan.recipe.memory_budget is not None:
        lines.append(_line("memory budget", _budget(plan.recipe.memory_budget)))
    if plan.recipe.skip_modules:
        lines.append(_line("not quantized", ", ".join(plan.recipe.skip_modules)))
    if plan.past:
        lines += _many("past", [_past(past) for past in plan.past])
    lines.append(_line("out", str(plan.recipe.out)))
    lines.append(_line("left to train", left_to_training(plan)))
    if notes := plan.notes:  # reads the headers of the base's files
        lines += _many("note", list(notes))
    return "\n".join(lines)


def _base(recipe: Recipe) -> str:
    if recipe.revision:
        return f"{recipe.base} @ {recipe.revision}"
    record = prepared_at(recipe.base)
    return (
        f"{recipe.base} (prepared: {record.source.repo} in {record.quantizer.name})"
        if record
        else recipe.base
    )


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"


def _many(label: str, texts: list[str]) -> list[str]:
    if not texts:
        return [_line(label, "none")]
    return [_line(label if index == 0 else "", text) for index, text in enumerate(texts)]


def _part(part: PlannedPart) -> str:
    options = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in part.options.model_dump(mode="json").items()
        if value not in ({}, [])
    )
    name = f"{part.name} (from {part.plugin}, {part.distribution} {part.version})"
    return f"{name}: {options}" if options else name


def _past(past: PastAdapter) -> str:
    earlier = len(past.weights) - 1
    held = f", with the {earlier} it went on from" if earlier else ""
    return f"{past.reference} ({past.component.derivative.name}, manifest {past.digest[:19]}…{held})"


def _source(source: DataSource) -> str:
    held_out = f", {source.held_out:.1%} held out" if source.held_out else ""
    return f"{source.path} as task {source.task}, format {source.format}{held_out}"


def _budget(size: int) -> str:
    return f"{size_text(size)}: the base is resident, checkpointed or streamed, whichever fits first"


def _training(train: TrainSettings) -> str:
    if train.max_steps is not None:
        length = f"{train.max_steps} steps"
    elif train.epochs is not None:
        length = f"{train.epochs:g} epochs"
    else:
        length = "one epoch"
    placed = "streamed" if train.streamed else "checkpointed" if train.gradient_checkpointing else ""
    extra = "".join(f", {word}" for word in ("packed" if train.packing else "", placed) if word)
    return (
        f"{length} of {train.batch_size} rows × {train.accumulation}, {train.optimizer} at "
        f"{train.learning_rate:g} {train.schedule}, at most {train.max_length} tokens, "
        f"seed {train.seed}{extra}"
    )
