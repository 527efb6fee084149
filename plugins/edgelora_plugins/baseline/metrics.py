"""Loss, perplexity and exact match on held-out rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgelora import Options
from edgelora.intervals import mean_interval, wilson_interval
from edgelora.layers.generate import greedy
from edgelora.layers.loss import row_losses
from edgelora.protocols import Evaluation, Measurement
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
        for batch in run.batches:
            losses, tokens = row_losses(run.model, batch)
            for task in range(len(run.tasks)):
                chosen = batch.task_ids == task
                sums[task].append(losses[chosen].double().cpu())
                counts[task].append(tokens[chosen].cpu())
        measurements = {}
        for name, task_sums, task_counts in zip(run.tasks, sums, counts, strict=True):
            if task_sums and len(rows := torch.cat(task_sums)):
                measurements |= _loss_measurements(name, rows, torch.cat(task_counts), run.split_digest)
        return measurements


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
            examples = [example for example in run.examples if example.task == task][: self.options.samples]
            if not examples:
                continue
            answers = greedy(
                run.model,
                run.tokenizer,
                [example.prompt for example in examples],
                max_new_tokens=self.options.max_new_tokens,
                batch_size=self.options.batch_size,
            )
            right = sum(
                answer.strip() == example.response.strip()
                for answer, example in zip(answers, examples, strict=True)
            )
            low, high = wilson_interval(right, len(examples))
            measurements[f"{task}.exact_match"] = Measurement(
                right / len(examples), len(examples), low, high, run.split_digest
            )
        return measurements
