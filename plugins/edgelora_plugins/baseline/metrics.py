"""Loss, perplexity and exact match on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edgelora import Options
from edgelora.digests import questions_digest, tokens_digest
from edgelora.intervals import mean_interval, wilson_interval
from edgelora.layers.answers import answered_right, examples_of
from edgelora.layers.loss import row_losses
from edgelora.protocols import Batch, Evaluation, Measurement
from edgelora_plugins.baseline.options import ExactMatchOptions


class HeldOutLoss:
    """Mean cross-entropy in nats per labelled token, and its exponential, per task."""

    def __init__(self, options: Options) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.loss"`` and ``"<task>.perplexity"``; n counts labelled tokens."""
        sums: list[list[Tensor]] = [[] for _ in run.tasks]
        counts: list[list[Tensor]] = [[] for _ in run.tasks]
        measured: list[list[tuple[list[int], list[int]]]] = [[] for _ in run.tasks]
        for batch in run.batches:
            losses, tokens = row_losses(run.model, batch)
            for task_id, ids, labels in _unpadded(batch):
                measured[task_id].append((ids, labels))
            for task in range(len(run.tasks)):
                chosen = batch.task_ids == task
                sums[task].append(losses[chosen].double().cpu())
                counts[task].append(tokens[chosen].cpu())
        measurements = {}
        for name, task_sums, task_counts, rows in zip(run.tasks, sums, counts, measured, strict=True):
            if rows:
                measurements |= _loss_measurements(
                    name, torch.cat(task_sums), torch.cat(task_counts), tokens_digest(rows)
                )
        return measurements


def _unpadded(batch: Batch) -> Iterator[tuple[int, list[int], list[int]]]:
    """Task, token ids and labels of each row."""
    mask = batch.attention_mask.bool()
    for row, task_id in enumerate(batch.task_ids.tolist()):
        yield task_id, batch.input_ids[row, mask[row]].tolist(), batch.labels[row, mask[row]].tolist()


def _loss_measurements(task: str, sums: Tensor, counts: Tensor, digest: str) -> dict[str, Measurement]:
    # Rows are the independent units: the interval is that of a ratio of row sums.
    tokens = int(counts.sum())
    mean = float(sums.sum()) / tokens
    residuals = (sums - mean * counts) * len(sums) / tokens
    low, high = mean_interval(mean, float(residuals.std()) if len(sums) > 1 else math.inf, len(sums))
    low = max(low, 0.0)
    return {
        f"{task}.loss": Measurement(mean, tokens, low, high, digest),
        f"{task}.perplexity": Measurement(_exp(mean), tokens, _exp(low), _exp(high), digest),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


class ExactMatch:
    """Fraction of held-out questions whose greedy answer is the expected one, outer blanks aside."""

    def __init__(self, options: ExactMatchOptions) -> None:
        self.options = options

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.exact_match"``; n counts questions."""
        measurements = {}
        for task in run.tasks:
            examples = examples_of(run, task, self.options)
            if not examples:
                continue
            right = sum(answered_right(run, task, examples, self.options))
            low, high = wilson_interval(right, len(examples))
            digest = questions_digest((example.prompt, example.response) for example in examples)
            measurements[f"{task}.exact_match"] = Measurement(
                right / len(examples), len(examples), low, high, digest
            )
        return measurements
