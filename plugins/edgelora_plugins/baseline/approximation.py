"""What is lost where an adapter is folded into weights that cannot compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import ApproximatelyLowRank
from edgelora.digests import tokens_digest
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenLinear, frozen_part
from edgelora.protocols import Evaluation, Factors, Measurement

ROWS = 4
"""Held-out rows of each task that are looked at."""

_Computed = Mapping[str, Callable[[FrozenLinear, Tensor], Tensor]]
"""By site what is computed there, instead of what the layer computes."""


@torch.no_grad()
def approximation_errors(run: Evaluation) -> dict[str, Measurement]:
    """``"<task>.merge_error_<way>"``: ‖folded − adapted‖ / ‖adapted − base‖ of the logits; n counts tokens.

    All layers that fold approximately are folded at the same time, on held-out rows of the task. Where it has
    none it is ``"<task>.probe_error_<way>"``, of eight tokens spread over the vocabulary: they are no text,
    and norms seen in training say little of them. Nothing where layers have seen no training.
    """
    layers = {name: each for name, each in run.layers.items() if isinstance(each, ApproximatelyLowRank)}
    try:
        folds: dict[str, _Computed] = {
            way: {name: partial(_folded, each.approximate_factors(way)) for name, each in layers.items()}
            for way in next(iter(layers.values())).approximations()
        }
    except ExportUnsupported as unseen:
        run.tell(unseen.problem)
        return {}
    alone: _Computed = {name: FrozenLinear.__call__ for name in layers}
    rows, measurements = _rows(run), {}
    for task in run.tasks:
        chosen = rows.get(task) or [_probe(run.model)]
        adapted = _logits(run, task, chosen, {})
        name = "merge_error" if task in rows else "probe_error"
        digest = tokens_digest((row.tolist(), []) for row in chosen)
        change = (adapted - _logits(run, task, chosen, alone)).norm()
        for way, fold in folds.items():
            lost = (_logits(run, task, chosen, fold) - adapted).norm()
            error = float(lost / (change if change else adapted.norm()))
            measurements[f"{task}.{name}_{way}"] = Measurement(
                error, len(adapted), error, error, split_digest=digest
            )
    return measurements


def _folded(factors: Factors, base: FrozenLinear, x: Tensor) -> Tensor:
    A, B, scaling = factors
    y: Tensor = base(x)
    return y + scaling * (x @ A.to(x.dtype).T @ B.to(x.dtype).T)


def _logits(run: Evaluation, task: str, rows: list[Tensor], computed: _Computed) -> Tensor:
    """Of all tokens of ``rows``, (tokens, vocabulary), float32, with other functions at some sites."""

    def replace(compute: Any, layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        replaced: Tensor = compute(frozen_part(layer), given[0])
        return replaced

    with ExitStack() as hooks:
        for site, compute in computed.items():
            handle = run.layers[site].register_forward_hook(partial(replace, compute))
            hooks.callback(handle.remove)
        run.route(task)
        logits = [run.model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
    return torch.cat(logits).float()


def _rows(run: Evaluation) -> dict[str, list[Tensor]]:
    """The first held-out rows of each task without their padding."""
    rows: dict[str, list[Tensor]] = {}
    for batch in run.batches:
        mask = batch.attention_mask.bool()
        for row, task in enumerate(batch.task_ids.tolist()):
            of_task = rows.setdefault(run.tasks[task], [])
            if len(of_task) < ROWS:
                of_task.append(batch.input_ids[row, mask[row]])
    return rows


def _probe(model: Any) -> Tensor:
    embeddings = model.get_input_embeddings().weight
    return torch.linspace(0, len(embeddings) - 1, 8, device=embeddings.device).long()
