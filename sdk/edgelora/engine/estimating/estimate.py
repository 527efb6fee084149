"""What a recipe will cost in memory, disk and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from edgelora.engine.base import default_device, load_tokenizer, locate_base, resolve_dtype
from edgelora.engine.conditions import fix_conditions
from edgelora.engine.data import Dataset, StepOrder, load_dataset
from edgelora.engine.estimating.budget import Choice, choose_placement
from edgelora.engine.estimating.memory import Memory, Surroundings, predict
from edgelora.engine.estimating.placement import alternatives, why_not_streamed
from edgelora.engine.estimating.rate import product_rate
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.estimating.step import Rows
from edgelora.engine.memory import resident_bytes, resident_file_bytes
from edgelora.engine.train import total_steps
from edgelora.errors import MemoryBudgetExceeded
from edgelora.manifest.base_identity import has_tokenizer
from edgelora.plan import Plan
from edgelora.prepared import prepared_base


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk."""

    base: int
    """Its files; where only a configuration is known, its weights."""
    prepared_base: int
    """Quantized by the recipe's quantizer, as `edgelora bases prepare` would write it."""
    checkpoints: int
    """Those kept, and the one being written."""
    adapter: int


@dataclass(frozen=True, slots=True)
class Duration:
    """Time of a run at the rate of bare matrix products.

    Attributes:
        step_s: Seconds of an optimizer step.
        steps: Of the recipe; None where neither ``max_steps`` nor data tell.
        rate: Floating-point operations per second, measured now.
        read_bytes: Read from the base's files in each optimizer step, where they are not in memory.
    """

    step_s: float
    steps: int | None
    rate: float
    read_bytes: int

    def hours(self, steps: int) -> float:
        """Of so many optimizer steps."""
        return steps * self.step_s / 3600


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take.

    Attributes:
        rows: The largest micro-batch.
        assumed: Where the length of its rows is from, in words.
        memory: For each placement the recipe leaves open, in the order of their speed.
        choice: What the recipe's memory budget would choose, or why it would refuse; None without one.
        why_not_streamed: What keeps this base from being streamed as it is; None where nothing does.
        disk: Bytes on disk.
        durations: By the name of the placement.
        parameters: Numbers in the base.
        trainable: Numbers that learn.
        device: ``"cpu"`` or ``"cuda"``.
    """

    rows: Rows
    assumed: str
    memory: Sequence[Memory]
    choice: Choice | MemoryBudgetExceeded | None
    why_not_streamed: str | None
    disk: Disk
    durations: Mapping[str, Duration]
    parameters: int
    trainable: int
    device: str

    @property
    def budget(self) -> str | None:
        """The choice, in words."""
        if self.choice is None:
            return None
        return self.choice.reason if isinstance(self.choice, Choice) else str(self.choice)

    @property
    def fits(self) -> bool | None:
        """Whether some placement is within the memory budget; None without one."""
        return None if self.choice is None else isinstance(self.choice, Choice)

    @property
    def chosen(self) -> str | None:
        """Name of the placement the budget would choose."""
        return self.choice.placement.name if isinstance(self.choice, Choice) else None

    def settled(self, plan: Plan) -> Plan:
        """The plan as training carries it out.

        Raises:
            MemoryBudgetExceeded: It has a memory budget, and would not be carried out.
        """
        if isinstance(self.choice, MemoryBudgetExceeded):
            raise self.choice
        return plan if self.choice is None else self.choice.placement.apply(plan)


def estimate(plan: Plan) -> Estimate:
    """Tell what a plan will cost, from the configuration of its base and the lengths of its rows.

    Raises:
        EdgeloraError: The base or the data cannot be found, or the base cannot run on shapes alone.
    """
    device = default_device()
    config = read_config(plan.recipe.base, plan.recipe.revision)
    fix_conditions(plan.recipe.train, device, processes=1)
    dataset = data_of(plan)
    rows, assumed = rows_of(plan, dataset)
    around = surroundings(plan, config, rows, device)
    memory = [predict(plan, around, placement) for placement in alternatives(plan)]
    return Estimate(
        rows=rows,
        assumed=assumed,
        memory=memory,
        choice=_choice(plan, around, memory),
        why_not_streamed=why_not_streamed(plan, prepared=around.prepared),
        disk=_disk(plan, memory[0]),
        durations=_durations(plan, dataset, around, memory, device),
        parameters=memory[0].base.parameters,
        trainable=memory[0].step.trainable,
        device=device.type,
    )


def rows_of(plan: Plan, dataset: Dataset | None) -> tuple[Rows, str]:
    """The largest micro-batch of a run, and where its length is from."""
    train = plan.recipe.train
    if train.packing:
        tokens = train.max_length if dataset is None else sum(len(row.input_ids) for row in dataset.train)
        length = min(train.max_length, tokens)
        return Rows(
            train.batch_size, length, padded=False
        ), f"rows are packed into sequences of {length} tokens"
    if dataset is None:
        assumed = f"every row has train.max_length = {train.max_length} tokens"
        return Rows(train.batch_size, train.max_length, padded=train.batch_size > 1), assumed
    lengths = sorted((len(row.input_ids) for row in dataset.train), reverse=True)[: train.batch_size]
    assumed = f"the longest of {len(dataset.train)} rows has {lengths[0]} tokens"
    return Rows(len(lengths), lengths[0], padded=lengths[-1] < lengths[0]), assumed


def surroundings(plan: Plan, config: Any, rows: Rows, device: torch.device) -> Surroundings:
    """What the memory of a run depends on besides its plan; the process is looked at as it is now."""
    plan.build("quantizer"), plan.build("adapter")  # imports what a run imports
    base = _folder(plan)
    return Surroundings(
        config=config,
        rows=rows,
        dtype=resolve_dtype(plan.recipe.train.dtype, device),
        prepared=base is not None and prepared_base(base) is not None,
        on_cpu=device.type == "cpu",
        runtime=resident_bytes(),
        program=resident_file_bytes(),
    )


def _folder(plan: Plan) -> Path | None:
    """The base's folder; None where the recipe names a configuration alone."""
    if Path(plan.recipe.base).expanduser().is_file():
        return None
    return locate_base(plan.recipe.base, plan.recipe.revision)


def data_of(plan: Plan) -> Dataset | None:
    """The recipe's rows; None where it names none, or there is no tokenizer to measure them with."""
    folder = _folder(plan)
    if not plan.recipe.data or folder is None or not has_tokenizer(folder):
        return None
    return load_dataset(plan.recipe.data, load_tokenizer(folder), max_length=plan.recipe.train.max_length)


def _choice(
    plan: Plan, around: Surroundings, memory: Sequence[Memory]
) -> Choice | MemoryBudgetExceeded | None:
    if plan.recipe.memory_budget is None:
        return None
    try:
        return choose_placement(plan, around, memory)
    except MemoryBudgetExceeded as error:
        return error


def _durations(
    plan: Plan, dataset: Dataset | None, around: Surroundings, memory: Sequence[Memory], device: torch.device
) -> dict[str, Duration]:
    rows, train = around.rows, plan.recipe.train
    width = around.config.get_text_config().hidden_size
    rate = product_rate(around.dtype, device, rows=min(rows.tokens, 512), width=width)
    share, steps = 1.0, train.max_steps
    if dataset is not None:
        share = fmean(len(row.input_ids) for row in dataset.train) / rows.length
        order = StepOrder(
            dataset.train, batch_size=train.batch_size, accumulation=train.accumulation, seed=train.seed
        )
        steps = total_steps(plan, order)
    return {
        each.placement.name: Duration(
            step_s=each.step.flops * train.accumulation * share / rate,
            steps=steps,
            rate=rate,
            # Once forward and once backward. The head, read for each piece of the loss, counts no more often:
            # from one piece to the next it is likely to stay in the page cache.
            read_bytes=2 * each.base.kept_bytes * train.accumulation if each.placement.streamed else 0,
        )
        for each in memory
    }


def _disk(plan: Plan, memory: Memory) -> Disk:
    folder = _folder(plan)
    files = [] if folder is None else [file for file in folder.iterdir() if file.is_file()]
    has_weights = any(file.suffix == ".safetensors" for file in files)
    adapter, optimizer = memory.parts["adapter"], memory.parts["optimizer"]
    return Disk(
        base=sum(file.stat().st_size for file in files) if has_weights else memory.base.source_bytes,
        prepared_base=memory.base.kept_bytes,
        checkpoints=(plan.recipe.train.keep_checkpoints + 1) * (adapter + optimizer),
        adapter=adapter,
    )
