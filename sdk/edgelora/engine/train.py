"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from edgelora.engine.conditions import seed_everything
from edgelora.engine.data import Dataset, Row, StepOrder
from edgelora.engine.gradients import Gradients, RowLosses
from edgelora.engine.inject import trainable_parameters
from edgelora.engine.interrupts import StopRequest, stop_request
from edgelora.engine.memory import peaks
from edgelora.engine.micro_batches import PackedRows, PaddedRows, check_packing
from edgelora.engine.optimizer import clipped_parameters, make_optimizer, make_schedule
from edgelora.engine.report import Reporter
from edgelora.engine.run_folder import RunFolder
from edgelora.engine.state import TrainingState
from edgelora.errors import DataError, Interrupted, NonFiniteLoss
from edgelora.layers.generate import pad_id
from edgelora.layers.loss import IGNORED
from edgelora.plan import Plan
from edgelora.protocols import Measurement, TrainingRun


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a training run uses besides the model, the plan and the data."""

    accelerator: Accelerator
    folder: RunFolder
    reporter: Reporter
    tokenizer: Any
    stamp: dict[str, Any]
    """Stored in every checkpoint, to be compared at resumption: conditions, plan, digest of the data."""
    evaluate: Callable[[], dict[str, Measurement]]
    """Measures the model as it stands."""
    check_base: Callable[[], None]
    """Raises `ModelError` if the base's files changed; its weights may be read from them at any time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished training run can tell."""

    steps: int
    tokens: int
    """Labelled tokens seen."""
    rank_pattern: dict[str, int]


def train(
    model: Any,
    layers: Mapping[str, nn.Module],
    plan: Plan,
    dataset: Dataset,
    around: Surroundings,
    checkpoint: dict[str, Any] | None = None,
) -> Outcome:
    """Train the adapter, from the start or from a checkpoint.

    Raises:
        NonFiniteLoss: The loss became NaN or infinite; names the step and the rows.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was saved.
        DiskFull: A checkpoint could not be written; the one before is intact.
        ModelError: The files of the base changed; no checkpoint was written since.
    """
    loop = TrainingLoop(model, layers, plan, dataset, around)
    # Only now does an earlier run give way: what is wrong with recipe, base or data was told before.
    if checkpoint is None and around.accelerator.is_main_process:
        around.folder.start(around.stamp["plan"])
    first = 0 if checkpoint is None else loop.restore(checkpoint)
    with stop_request() as stop:
        around.reporter.start(first, loop.total)
        try:
            for step in range(first, loop.total):
                record = loop.take(step)
                loop.tell(record)
                if loop.is_evaluation_due(step):
                    loop.evaluate(step)
                stopping = loop.agree(stop)
                if loop.is_save_due(step) or stopping:
                    loop.save(step)
                if stopping:
                    loop.give_way(step, stopping)
        finally:
            around.reporter.stop()
    model.eval()
    return Outcome(loop.total, loop.tokens, loop.state.rank_scheduler.rank_pattern())


class TrainingLoop:
    """The optimizer steps of a run, one at a time. A step's order of events is that of `take`."""

    def __init__(
        self,
        model: Any,
        layers: Mapping[str, nn.Module],
        plan: Plan,
        dataset: Dataset,
        around: Surroundings,
    ) -> None:
        if not dataset.train:
            raise DataError("there is no row to train on", fix="add rows to 'data', or lower 'held_out'")
        self.settings = plan.recipe.train
        self.model, self.layers, self.dataset, self.around = model, layers, dataset, around
        accelerator = around.accelerator
        self.order = StepOrder(
            dataset.train,
            batch_size=self.settings.batch_size,
            accumulation=self.settings.accumulation,
            seed=self.settings.seed,
            processes=accelerator.num_processes,
        )
        self.total = total_steps(plan, self.order)
        self.micro_batches: PaddedRows | PackedRows = PaddedRows(dataset.train, self.settings)
        if self.settings.packing:
            self.micro_batches = packed = PackedRows(dataset.train, self.settings)
            check_packing(model, layers, accelerator.device)
            around.reporter.message(packed.report(self.order, self.total).line())
        self.state = self._make_state(plan)
        self.gradients = Gradients(
            # Everything is on its device already, but the part of a streamed base that is not to be there.
            accelerator.prepare(RowLosses(model, layers, self.settings.loss_rows), device_placement=[False]),
            self.state.combiner,
            tasks=dataset.tasks,
            accelerator=accelerator,
            pad_id=pad_id(around.tokenizer),
            collate=self.micro_batches.collate,
        )
        self.learned = list(trainable_parameters(layers).values())
        self.save_every = self.settings.save_every or max(10, self.total // 10)
        self.labelled = [sum(label != IGNORED for label in row.labels[1:]) for row in dataset.train]
        self.tokens = 0

    def restore(self, checkpoint: dict[str, Any]) -> int:
        """Return to a checkpoint; answers the step to go on with."""
        self.state.load(checkpoint["state"])
        self.tokens = checkpoint["tokens"]
        return int(checkpoint["step"])

    def take(self, step: int) -> dict[str, Any]:
        """One optimizer step; returns its line for ``metrics.jsonl``."""
        began = time.perf_counter()
        state, process = self.state, self.around.accelerator.process_index
        self.model.train()
        seed_everything(self.settings.seed, step, process)
        dealt = self.order.step(step)
        micro_batches = self.micro_batches.of_step(dealt)
        indices = [index for each in dealt for micro_batch in each for index in micro_batch]
        labelled = self._labelled_by_task(indices)

        state.rank_scheduler.before_forward(step)
        loss = self.gradients.accumulate(micro_batches[process], labelled, step)
        norm = self._clip(step, indices)
        state.rank_scheduler.before_update(step)
        state.optimizer.step()
        # Kernels of bitsandbytes write without telling autograd, and layers may keep what follows from
        # their weights.
        torch.autograd.graph.increment_version(self.learned)
        # Gradients are still present: AdaLoRA scores weight times gradient. So are the rates of this step.
        state.rank_scheduler.after_update(step)
        rate = state.schedule.get_last_lr()[0]
        state.schedule.step()
        state.optimizer.zero_grad(set_to_none=True)

        self.tokens += sum(labelled)
        seconds = time.perf_counter() - began
        rows: list[Row] = [self.dataset.train[index] for index in indices]
        lengths = [len(row.input_ids) for row in rows]
        return {
            "step": step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": sum(lengths),
            "labelled_tokens": sum(labelled),
            "longest": max(lengths),
            "sequences": sum(len(micro_batch) for each in micro_batches for micro_batch in each),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(sum(lengths) / seconds, 1),
            "peak_bytes": peaks(),
        }

    def tell(self, record: dict[str, Any]) -> None:
        """Log a step and show it."""
        if self.around.accelerator.is_main_process:
            self.around.folder.log(record)
            self.around.reporter.step(record)
            shown = {name: record[name] for name in ("loss", "learning_rate", "tokens_per_second")}
            self.around.accelerator.log(shown, step=record["step"])

    def is_evaluation_due(self, step: int) -> bool:
        """Whether to measure after this step; the end of the run is measured anyway."""
        every = self.settings.evaluate_every
        return every > 0 and (step + 1) % every == 0 and step + 1 < self.total

    def evaluate(self, step: int) -> None:
        """Measure on the way, and let the loss combiner know."""
        measurements = self.around.evaluate()
        self.state.combiner.after_evaluation(measurements)
        if self.around.accelerator.is_main_process:
            values = {name: measurement.value for name, measurement in measurements.items()}
            self.around.folder.log({"step": step, "evaluation": values})
            self.around.reporter.message("  ".join(f"{name} {value:.4f}" for name, value in values.items()))

    def is_save_due(self, step: int) -> bool:
        """Whether to write a checkpoint after this step."""
        return (step + 1) % self.save_every == 0 or step + 1 == self.total

    def save(self, step: int) -> None:
        """Write a checkpoint of everything that changes, if the base it belongs to did not.

        Raises:
            ModelError: The files of the base changed.
        """
        self.around.check_base()
        self.around.accelerator.wait_for_everyone()
        if self.around.accelerator.is_main_process:
            content = {
                "step": step + 1,
                "tokens": self.tokens,
                "state": self.state.dump(),
                **self.around.stamp,
            }
            self.around.folder.save_checkpoint(step + 1, content, keep=self.settings.keep_checkpoints)

    def agree(self, stop: StopRequest) -> str:
        """Name of the signal that any process got, read once per step; empty for none.

        Processes get signals at different steps; one that stopped alone would leave the others waiting.
        """
        accelerator, name = self.around.accelerator, stop.name or ""
        if accelerator.num_processes == 1:
            return name
        asked = torch.tensor(float(bool(name)), device=accelerator.device)
        return (name or "a signal") if float(accelerator.reduce(asked, reduction="sum")) else ""

    def give_way(self, step: int, signal: str) -> None:
        """End the run because a signal arrived.

        Raises:
            Interrupted: Steps are left.
        """
        if step + 1 < self.total:
            raise Interrupted(
                f"{signal} arrived; step {step + 1} of {self.total} is saved in "
                f"{self.around.folder.checkpoints}",
                fix="go on with: edgelora train RECIPE --resume",
            )

    def _make_state(self, plan: Plan) -> TrainingState:
        combiner = plan.build("loss_combiner")
        run = TrainingRun(self.total, self.settings.seed, tuple(self.dataset.tasks))
        combiner.attach(run)
        optimizer = make_optimizer(self.layers, combiner, self.settings)
        rank_scheduler = plan.build("rank_scheduler")
        rank_scheduler.attach(self.layers, optimizer, run)
        schedule = make_schedule(optimizer, self.settings, self.total)
        return TrainingState(self.layers, optimizer, schedule, rank_scheduler, combiner)

    def _labelled_by_task(self, indices: Sequence[int]) -> list[int]:
        labelled = [0] * len(self.dataset.tasks)
        for index in indices:
            labelled[self.dataset.train[index].task] += self.labelled[index]
        return labelled

    def _clip(self, step: int, indices: Sequence[int]) -> float:
        limit = self.settings.max_gradient_norm
        parameters = clipped_parameters(self.layers, self.state.combiner)
        norm = float(nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit))
        if not math.isfinite(norm):
            rows = ", ".join(self.dataset.train[index].origin for index in indices)
            raise NonFiniteLoss(
                f"the gradient at step {step} has norm {norm}, on rows {rows}",
                fix="lower train.learning_rate, or look at those rows; the last checkpoint is sound",
            )
        return norm


def total_steps(plan: Plan, order: StepOrder) -> int:
    """Optimizer steps of the run."""
    settings = plan.recipe.train
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, round((settings.epochs or 1.0) * order.steps_per_epoch))
