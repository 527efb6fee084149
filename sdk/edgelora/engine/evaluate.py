"""Runs the plan's evaluators without leaving a trace."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.batches import PaddedBatches
from edgelora.engine.data import Dataset
from edgelora.engine.past_sites import Past
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import PluginBug
from edgelora.plan import Plan
from edgelora.protocols import Evaluation, Example, Measurement
from edgelora.recipe import Recipe

EVALUATED_ROWS = 16
"""Held-out rows in a batch."""


def evaluate(
    model: Any,
    layers: Mapping[str, nn.Module],
    plan: Plan,
    *,
    tokenizer: Any,
    dataset: Dataset,
    source: Callable[[str], Tensor] | None = None,
    past: Past = MappingProxyType({}),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Measurement]:
    """Measure ``model`` with the plan's evaluators on the held-out rows of ``dataset``.

    Args:
        model: A transformers causal language model, adapted or bare.
        layers: Its adapted layers by site name; empty for a bare base, and where no site is adapted.
        plan: Names the evaluators.
        tokenizer: The model's.
        dataset: Its held-out rows are measured.
        source: Reads unquantized weights by the linear's name, where there are files to read.
        past: Factors of the plan's earlier adapters, by site.
        tell: Called with a line for each evaluator that had nothing to measure, or not all of it.

    Raises:
        PluginBug: An evaluator returned something else than measurements, or two used one name.
    """
    if source is not None and isinstance(layers, WholeModel):
        source = layers.by_present_names(source)
    run = Evaluation(
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        batches=PaddedBatches(
            dataset.held_out, layers, tokenizer, _device(model), _rows_at_a_time(plan.recipe)
        ),
        tasks=dataset.tasks,
        plan=plan,
        seed=plan.recipe.train.seed,
        examples=_examples(dataset),
        split_digest=dataset.held_out_digest,
        source=source,
        past=past,
    )
    measurements: dict[str, Measurement] = {}
    with as_found(model):
        for part in plan.evaluators:
            reasons: list[str] = []
            found = part.build()(dataclasses.replace(run, tell=reasons.append))
            for name, measurement in found.items():
                if not isinstance(measurement, Measurement) or name in measurements:
                    raise PluginBug(
                        f"evaluator {part.name!r} gave {name!r} as {type(measurement).__name__}"
                        + (", which another evaluator gave already" if name in measurements else ""),
                        fix="return each Measurement under a name of its own",
                    )
            measurements |= found
            if reasons or not found:
                what = "left something out" if found else "measured nothing"
                tell(f"evaluator {part.name!r} {what}: {'; '.join(reasons or _reasons(dataset))}")
    return measurements


def _reasons(dataset: Dataset) -> list[str]:
    """Why an evaluator that says nothing itself measured nothing."""
    if dataset.held_out:
        return ["it found nothing of its kind in this model and in the held-out rows"]
    return ["no row is held out; hold some out with data: [{path: ..., held_out: 0.1}]"]


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards mode and random state are what they were."""
    training = [module for module in model.modules() if module.training]
    python_state = random.getstate()
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        for module in training:
            module.training = True


def _examples(dataset: Dataset) -> list[Example]:
    return [
        Example(dataset.tasks[row.task], row.prompt, row.response)
        for row in dataset.held_out
        if row.prompt is not None and row.response is not None
    ]


def _rows_at_a_time(recipe: Recipe) -> int:
    """Under a memory budget no more than training takes, which was predicted to fit."""
    return EVALUATED_ROWS if recipe.memory_budget is None else min(EVALUATED_ROWS, recipe.train.batch_size)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
