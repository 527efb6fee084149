"""One training step of the engine's own code on tensors without memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.estimating.ledger import Ledger
from edgelora.engine.estimating.values import FlashAttention, on_shapes
from edgelora.engine.gradients import RowLosses
from edgelora.engine.inject import adapter_tensors, count_trainable, trainable_parameters
from edgelora.engine.optimizer import make_optimizer
from edgelora.layers import FrozenLinear
from edgelora.layers.authoring import SummingCombiner
from edgelora.options import Options
from edgelora.plan import Plan
from edgelora.protocols import Batch, LossCombiner, RankScheduler, TrainingRun
from edgelora.recipe import TrainSettings

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "scratch")
"""What memory is for. ``scratch``: dequantized weights, and what a backward pass makes on its way."""

MANY_STEPS = 10_000
"""Told to parts where a recipe leaves its steps open."""
SAMPLED_NUMBERS = 1 << 20
"""Of a parameter at most, to learn what an optimizer keeps of it: nothing large is made for an estimate."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The largest micro-batch of a run.

    Attributes:
        count: Rows in it.
        length: Tokens of each, all of them labelled.
        padded: Their lengths differ, so that attention takes a mask.
    """

    count: int
    length: int
    padded: bool

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.count * self.length


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes.

    Attributes:
        parts: Bytes of each of `PARTS` when most memory is in use.
        flops: Floating-point operations of the matrix products of one micro-batch.
        trainable: Numbers that learn.
    """

    parts: Mapping[str, int]
    flops: int
    trainable: int

    @property
    def total(self) -> int:
        """Bytes in use at the peak."""
        return sum(self.parts.values())


def step_cost(
    model: Any, layers: Mapping[str, nn.Module], plan: Plan, rows: Rows, *, on_cpu: bool = True
) -> StepCost:
    """Take one step of a model, and tell the peak of its memory.

    Args:
        model: On the meta device; a real one is computed with, and counted, just so.
        layers: Its adapted layers by site name.
        plan: Of the run.
        rows: The largest micro-batch.
        on_cpu: The optimizer updates one parameter after the other, not all at the same time.

    Raises:
        ModelError: The architecture's forward needs values.
        PlanError: Nothing of the adapter learns.
    """
    count_trainable(layers, plan)
    ledger = Ledger(_Shapes(model))
    learned = list(trainable_parameters(layers).values())
    model.train()
    cannot = f"a step of {type(model).__name__} cannot be taken on shapes alone"
    try:
        with (
            on_shapes(cannot, plan),
            _device(model),
            FlashAttention(),
            ledger,
            _labelled(ledger, learned),
        ):
            combiner: LossCombiner = plan.build("loss_combiner")
            run = TrainingRun(plan.recipe.train.max_steps or MANY_STEPS, plan.recipe.train.seed, plan.tasks)
            combiner.attach(run)
            kept = (
                _lay_out(ledger, model, layers, plan, learned),
                _scheduler(ledger, layers, plan, combiner, run),
            )
            loss = _loss(model, layers, plan, rows, combiner)
            with ledger.part("scratch"):
                loss.backward()
                del loss
                if plan.recipe.train.optimizer == "adamw":
                    _update(learned, on_cpu=on_cpu)
            del kept
    finally:
        ledger.close()
        for parameter in learned:
            parameter.grad = None
    parts = {part: ledger.at_peak.get(part, 0) for part in PARTS}
    return StepCost(parts, ledger.flops, sum(parameter.numel() for parameter in learned))


def _update(learned: list[nn.Parameter], *, on_cpu: bool) -> None:
    """Make what torch's AdamW makes: roots of second moments, and on a CPU their quotients beside them."""
    largest = max(learned, key=lambda parameter: parameter.numel())
    made = [torch.empty_like(each) for each in ([largest, largest] if on_cpu else learned)]
    del made


def _lay_out(
    ledger: Ledger, model: Any, layers: Mapping[str, nn.Module], plan: Plan, learned: list[nn.Parameter]
) -> Tensor:
    """Count what lives when a step begins that is not the first one; returns a stand-in for the optimizer."""
    ledger.claim([*model.parameters(), *model.buffers()], "weights")
    ledger.claim(adapter_tensors(layers).values(), "adapter")
    settings = plan.recipe.train
    states = torch.empty(optimizer_bytes(learned, settings), dtype=torch.uint8)
    ledger.claim([states], "optimizer")
    if settings.accumulation > 1:
        # From the second micro-batch on, the gradients of those before are there.
        for parameter in learned:
            parameter.grad = torch.empty_like(parameter)
            ledger.claim([parameter.grad], "gradients")
    return states


def _scheduler(
    ledger: Ledger, layers: Mapping[str, nn.Module], plan: Plan, combiner: LossCombiner, run: TrainingRun
) -> RankScheduler:
    """The plan's rank scheduler with what it keeps of each parameter, counted as the optimizer's."""
    scheduler: RankScheduler = plan.build("rank_scheduler")
    # It gets the groups of the plan's optimizer; others than torch's fill codebooks when they are made.
    settings = plan.recipe.train.model_copy(update={"optimizer": "adamw"})
    with ledger.part("optimizer"):
        scheduler.attach(layers, make_optimizer(layers, combiner, settings), run)
    return scheduler


def _loss(
    model: Any, layers: Mapping[str, nn.Module], plan: Plan, rows: Rows, combiner: LossCombiner
) -> Tensor:
    shape = rows.count, rows.length
    mask = (rows.count, 1, rows.length, rows.length)
    batch = Batch(
        input_ids=torch.zeros(shape, dtype=torch.int64),
        attention_mask=torch.ones(mask, dtype=torch.bool)
        if rows.padded
        else torch.ones(shape, dtype=torch.int64),
        labels=torch.zeros(shape, dtype=torch.int64),
        task_ids=torch.zeros(rows.count, dtype=torch.int64),
    )
    sums, _, aux = RowLosses(model, layers, plan.recipe.train.loss_rows)(batch)
    losses = {f"task.{name}": sums.sum() / rows.tokens for name in plan.tasks}
    return combiner(losses | aux, 0)


@contextmanager
def _labelled(ledger: Ledger, learned: Iterable[nn.Parameter]) -> Iterator[None]:
    """Count gradients of what learns as such, the moment they are there."""
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda each: ledger.claim([each.grad], "gradients"))
        for parameter in learned
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device


class _Shapes:
    """Tells logits and dequantized weights by their shapes."""

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings()
        self.vocabulary = None if head is None else head.out_features
        linears = [module for module in model.modules() if isinstance(module, FrozenLinear)]
        shapes = {(each.out_features, each.in_features) for each in linears}
        self.weights: set[tuple[int, ...]] = {*shapes, *((out * in_,) for out, in_ in shapes)}

    def __call__(self, tensor: Tensor) -> str | None:
        """The part of a tensor; None where its shape does not tell."""
        if tensor.dtype == torch.uint8:
            return "scratch"  # the memory that `edgelora.layers.scratch` reuses
        if not tensor.is_floating_point():
            return None
        if tensor.dim() >= 2 and tensor.shape[-1] == self.vocabulary:
            return "logits"
        return "scratch" if tuple(tensor.shape) in self.weights else None


def optimizer_bytes(learned: Iterable[nn.Parameter], settings: TrainSettings) -> int:
    """Bytes of the optimizer's state, found by letting it take a step on parameters of the same shapes.

    Of one with more than `SAMPLED_NUMBERS` it is that of so many, as often as they are in it.
    """
    counts: dict[tuple[tuple[int, ...], torch.dtype], float] = {}
    for parameter in learned:
        sampled = parameter.numel() > SAMPLED_NUMBERS
        key = (SAMPLED_NUMBERS,) if sampled else tuple(parameter.shape), parameter.dtype
        counts[key] = counts.get(key, 0) + (parameter.numel() / SAMPLED_NUMBERS if sampled else 1)
    with torch.device("cpu"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        samples = {key: nn.Parameter(torch.zeros(key[0], dtype=key[1])) for key in counts}
        optimizer = make_optimizer(
            {"": nn.ParameterList(samples.values())}, SummingCombiner(Options()), settings
        )
        for sample in samples.values():
            sample.grad = torch.zeros_like(sample)
        optimizer.step()
    seen: set[int] = set()
    total = 0.0
    for key, sample in samples.items():
        storages = {
            value.untyped_storage()._cdata: value.untyped_storage().nbytes()
            for value in optimizer.state[sample].values()
            if isinstance(value, Tensor)
        }
        # Codebooks are shared by all states.
        own = {storage: size for storage, size in storages.items() if storage not in seen}
        seen |= own.keys()
        total += counts[key] * sum(own.values())
    return round(total)
