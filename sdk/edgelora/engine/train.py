"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from edgelora.capabilities import Calibrated
from edgelora.engine.conditions import seed_everything
from edgelora.engine.data import Dataset, Row, StepOrder
from edgelora.engine.evaluate import PaddedBatches, pad_id
from edgelora.engine.gradients import Gradients, RowLosses
from edgelora.engine.inject import trainable_parameters
from edgelora.engine.interrupts import stop_request
from edgelora.engine.memory import peaks
from edgelora.engine.optimizer import make_optimizer, make_schedule
from edgelora.engine.report import Reporter
from edgelora.engine.run_folder import RunFolder
from edgelora.engine.state import TrainingState
from edgelora.errors import DataError, Interrupted
from edgelora.layers.loss import IGNORED
from edgelora.plan import Plan
from edgelora.protocols import Measurement


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
    """
    settings = plan.recipe.train
    accelerator, folder, reporter = around.accelerator, around.folder, around.reporter
    if not dataset.train:
        raise DataError("there is no row to train on", fix="add rows to 'data', or lower 'held_out'")
    order = StepOrder(
        dataset.train,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        seed=settings.seed,
        processes=accelerator.num_processes,
    )
    total = total_steps(plan, order)
    state = _make_state(model, layers, plan, dataset, around, total)
    first = 0
    if checkpoint is not None:
        state.load(checkpoint["state"])
        first = checkpoint["step"]
    gradients = Gradients(
        accelerator.prepare(RowLosses(model, layers, settings.loss_rows)),
        layers,
        state.combiner,
        tasks=dataset.tasks,
        accelerator=accelerator,
        pad_id=pad_id(around.tokenizer),
    )
    save_every = settings.save_every or max(10, total // 10)
    labelled = [_labelled(row) for row in dataset.train]
    seen_tokens = 0 if checkpoint is None else checkpoint["tokens"]
    model.train()

    def save(step: int) -> None:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            content = {
                "step": step,
                "tokens": seen_tokens,
                "state": state.dump(),
                **around.stamp,
            }
            folder.save_checkpoint(step, content, keep=settings.keep_checkpoints)

    with stop_request() as stop:
        reporter.start(first, total)
        try:
            for step in range(first, total):
                began = time.perf_counter()
                seed_everything(settings.seed, step, accelerator.process_index)
                rows = order.step(step)
                mine = [
                    [dataset.train[index] for index in micro] for micro in rows[accelerator.process_index]
                ]
                tokens = _tokens_by_task(rows, dataset, labelled)
                state.rank_scheduler.before_forward(step)
                loss = gradients.accumulate(mine, tokens, step)
                norm = _clip(state, settings.max_gradient_norm)
                state.rank_scheduler.before_update(step)
                state.optimizer.step()
                rate = state.schedule.get_last_lr()[0]
                state.schedule.step()
                state.rank_scheduler.after_update(step)
                state.optimizer.zero_grad(set_to_none=True)
                seen_tokens += sum(tokens)
                if accelerator.is_main_process:
                    lengths = [
                        len(dataset.train[i].input_ids) for process in rows for m in process for i in m
                    ]
                    seconds = time.perf_counter() - began
                    record = {
                        "step": step,
                        "loss": loss,
                        "learning_rate": rate,
                        "gradient_norm": norm,
                        "tokens": sum(lengths),
                        "labelled_tokens": sum(tokens),
                        "longest": max(lengths),
                        "seconds": round(seconds, 4),
                        "tokens_per_second": round(sum(lengths) / seconds, 1),
                        "peak_bytes": peaks(),
                    }
                    folder.log(record)
                    accelerator.log({"loss": loss, "learning_rate": rate}, step=step)
                    reporter.step(record)
                done = step + 1
                if settings.evaluate_every and done % settings.evaluate_every == 0 and done < total:
                    _evaluate_midway(step, state, around)
                    model.train()
                if done % save_every == 0 or done == total or stop:
                    save(done)
                if stop and done < total:
                    raise Interrupted(
                        f"{stop.name} arrived; step {done} of {total} is saved in {folder.checkpoints}",
                        fix="go on with: edgelora train RECIPE --resume",
                    )
        finally:
            reporter.stop()
    model.eval()
    return Outcome(total, seen_tokens, state.rank_scheduler.rank_pattern())


def total_steps(plan: Plan, order: StepOrder) -> int:
    """Optimizer steps of the run."""
    settings = plan.recipe.train
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, round((settings.epochs or 1.0) * order.steps_per_epoch))


def _make_state(
    model: Any,
    layers: Mapping[str, nn.Module],
    plan: Plan,
    dataset: Dataset,
    around: Surroundings,
    total: int,
) -> TrainingState:
    settings = plan.recipe.train
    adapter = plan.build("adapter")
    if isinstance(adapter, Calibrated):
        device = around.accelerator.device
        adapter.calibrate(model, layers, iter(PaddedBatches(dataset.train, layers, around.tokenizer, device)))
    combiner = plan.build("loss_combiner")
    optimizer = make_optimizer(layers, combiner, settings)
    rank_scheduler = plan.build("rank_scheduler")
    rank_scheduler.attach(layers, optimizer, total)
    schedule = make_schedule(optimizer, settings, total)
    return TrainingState(layers, optimizer, schedule, rank_scheduler, combiner)


def _clip(state: TrainingState, limit: float | None) -> float:
    parameters = list(trainable_parameters(state.layers).values())
    return float(nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit))


def _evaluate_midway(step: int, state: TrainingState, around: Surroundings) -> None:
    measurements = around.evaluate()
    state.combiner.after_evaluation(measurements)
    if around.accelerator.is_main_process:
        values = {name: measurement.value for name, measurement in measurements.items()}
        around.folder.log({"step": step, "evaluation": values})
        around.reporter.message("  ".join(f"{name} {value:.4f}" for name, value in values.items()))


def _labelled(row: Row) -> int:
    return sum(label != IGNORED for label in row.labels[1:])


def _tokens_by_task(
    rows: Sequence[Sequence[Sequence[int]]], dataset: Dataset, labelled: Sequence[int]
) -> list[int]:
    tokens = [0] * len(dataset.tasks)
    for process in rows:
        for micro in process:
            for index in micro:
                tokens[dataset.train[index].task] += labelled[index]
    return tokens
