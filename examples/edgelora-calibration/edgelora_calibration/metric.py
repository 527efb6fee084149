import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgelora.intervals import mean_interval
from edgelora.protocols import Batch, Evaluation, Measurement

from .options import CalibrationOptions


class CalibrationError:
    """ECE = Σ_bins n_b / n · |accuracy_b - confidence_b|, equation 3; n counts labelled tokens."""

    def __init__(self, options: CalibrationOptions) -> None:
        self.options = options

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.calibration_error"``, with a bootstrap interval over rows, the independent units."""
        tallies: dict[str, list[Tensor]] = {task: [] for task in run.tasks}
        for batch in run.batches:
            tally = self._tally(run, batch)
            for number, task in enumerate(run.tasks):
                tallies[task].append(tally[batch.task_ids.cpu() == number])
        measurements = {}
        for task, found in tallies.items():
            rows = torch.cat(found) if found else torch.empty(0, 3, self.options.bins)
            if len(rows):
                measurements[f"{task}.calibration_error"] = self._measure(rows, run)
        return measurements

    def _tally(self, run: Evaluation, batch: Batch) -> Tensor:
        """Tokens, right ones and summed confidence by row and bin: float64 (batch, 3, bins), on the CPU."""
        logits = run.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        confidence, guess = logits[:, :-1].float().softmax(dim=-1).max(dim=-1)
        labels = batch.labels[:, 1:]
        bin_of = (confidence * self.options.bins).long().clamp_max(self.options.bins - 1)
        counted = one_hot(bin_of, self.options.bins) * (labels != -100)[..., None]
        of_token = torch.stack([torch.ones_like(confidence), guess == labels, confidence], dim=1)
        return (of_token.double() @ counted.double()).cpu()

    def _measure(self, rows: Tensor, run: Evaluation) -> Measurement:
        value = float(_error(rows.sum(dim=0)))
        generator = torch.Generator().manual_seed(run.seed)
        drawn = torch.randint(len(rows), (self.options.resamples, len(rows)), generator=generator)
        errors = torch.stack([_error(rows[sample].sum(dim=0)) for sample in drawn])
        # Resampling adds noise, which only ever raises the error: its spread is used, not its quantiles.
        low, high = mean_interval(value, float(errors.std()), 1)
        tokens = int(rows[:, 0].sum())
        return Measurement(value, tokens, max(low, 0.0), min(high, 1.0), run.split_digest)


def _error(tally: Tensor) -> Tensor:
    tokens, right, confidence = tally
    error: Tensor = (right - confidence).abs().sum() / tokens.sum().clamp_min(1)
    return error
