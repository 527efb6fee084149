"""What is measured on held-out rows: for evaluators that measure it under conditions of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edgelora.digests import questions_digest, tokens_digest
from edgelora.intervals import mean_interval, wilson_interval
from edgelora.layers.answers import answered_right, examples_of
from edgelora.layers.loss import row_losses
from edgelora.options import AnswerOptions
from edgelora.protocols import Batch, Evaluation, Measurement


@torch.no_grad()
def held_out_losses(run: Evaluation) -> dict[str, Measurement]:
    """Mean cross-entropy in nats per labelled token, by task; n counts labelled tokens.

    The model is measured as it stands: its mode, its adapter's ranks. Tasks without rows are left out.
    """
    sums: list[list[Tensor]] = [[] for _ in run.tasks]
    counts: list[list[Tensor]] = [[] for _ in run.tasks]
    measured: list[list[tuple[list[int], list[int]]]] = [[] for _ in run.tasks]
    for batch in run.batches:
        losses, tokens = row_losses(run.model, batch, run.plan.recipe.train.loss_rows)
        for task_id, ids, labels in _unpadded(batch):
            measured[task_id].append((ids, labels))
        for task in range(len(run.tasks)):
            chosen = batch.task_ids == task
            sums[task].append(losses[chosen].double().cpu())
            counts[task].append(tokens[chosen].cpu())
    return {
        name: _mean_per_token(torch.cat(task_sums), torch.cat(task_counts), tokens_digest(rows))
        for name, task_sums, task_counts, rows in zip(run.tasks, sums, counts, measured, strict=True)
        if rows
    }


def exact_matches(run: Evaluation, options: AnswerOptions) -> dict[str, Measurement]:
    """Fraction of questions answered letter by letter, greedily, by task; n counts questions."""
    measurements = {}
    for task in run.tasks:
        examples = examples_of(run, task, options)
        if not examples:
            continue
        right = sum(answered_right(run, task, examples, options))
        low, high = wilson_interval(right, len(examples))
        digest = questions_digest((example.prompt, example.response) for example in examples)
        measurements[task] = Measurement(right / len(examples), len(examples), low, high, digest)
    return measurements


def _unpadded(batch: Batch) -> Iterator[tuple[int, list[int], list[int]]]:
    """Task, token ids and labels of each row."""
    mask = batch.attention_mask.bool()
    for row, task_id in enumerate(batch.task_ids.tolist()):
        yield task_id, batch.input_ids[row, mask[row]].tolist(), batch.labels[row, mask[row]].tolist()


def _mean_per_token(sums: Tensor, counts: Tensor, digest: str) -> Measurement:
    # Rows are the independent units: the interval is that of a ratio of row sums.
    tokens = int(counts.sum())
    mean = float(sums.sum()) / tokens
    residuals = (sums - mean * counts) * len(sums) / tokens
    low, high = mean_interval(mean, float(residuals.std()) if len(sums) > 1 else math.inf, len(sums))
    return Measurement(mean, tokens, max(low, 0.0), high, digest)
