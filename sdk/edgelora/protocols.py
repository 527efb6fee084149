"""What the object behind each hook can do: five protocols, one per hook, and the records they exchange.

What an adapter can do beyond its protocol is in `edgelora.capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edgelora.capabilities import TaskAware

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from edgelora.layers import FrozenLinear
    from edgelora.plan import Plan


class Factors(NamedTuple):
    """A low-rank change of one weight: ΔW = scaling · B A, W being (out, in)."""

    A: Tensor
    """(rank, in)"""
    B: Tensor
    """(out, rank)"""
    scaling: float


@dataclass(frozen=True, slots=True)
class Site:
    """One place in the base model that gets adapted. May gain defaulted fields."""

    name: str
    """Path of the linear, or embedding, in the base model: ``"model.layers.0.self_attn.q_proj"``."""
    depth: int
    """Index among the adapted sites, from 0."""
    kind: str
    """Last component of the name: ``"q_proj"``."""
    rank: int
    """Resolved from ``rank`` and ``rank_pattern``; 0 where the adapter has no such option."""
    alpha: float
    """Resolved from ``alpha`` and ``alpha_pattern``; 0 where the adapter has no such option."""
    task_names: tuple[str, ...] = ()
    past: tuple[Factors, ...] = ()
    """Factors of the recipe's ``past`` adapters at this site, oldest first: float32, scaling 1, nothing that
    learns. What an adapter went on from is in its own. Read by layers that are `HasPast`."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What rank schedulers and loss combiners are told of the run. May gain defaulted fields."""

    total_steps: int
    """Optimizer steps."""
    seed: int
    """For what draws at random; never the global random state, which belongs to the step."""
    tasks: tuple[str, ...]
    """Names, in the order of a batch's ``task_ids``."""


# The five protocols, one per hook.


class Quantizer(Protocol):
    """Turns the linears inside the blocks into frozen ones; never the output head."""

    def quantize(self, linear: nn.Linear, name: str) -> FrozenLinear:
        """Freeze ``linear``, whose weight (out, in) is on its device and freshly read."""
        ...

    def restore(
        self, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: torch.dtype
    ) -> FrozenLinear:
        """Rebuild a layer made by `quantize`.

        The tensors may come from a file that somebody made: one whose kernels do not check sizes refuses
        wrong ones, as `edgelora.layers.stored.require_shapes` does. On the meta device sizes are estimates.

        Args:
            tensors: Its ``state_dict``.
            name: Of the linear in the model.
            shape: (out, in) of the weight.
            dtype: Of the weight that was quantized: what ``dequantize()`` answers in by default.
        """
        ...


class Adapter(Protocol):
    """Wraps the sites of ``target_modules``.

    Its options must have ``target_modules``; ``rank``, ``alpha``, ``rank_pattern``, ``alpha_pattern`` and
    ``exclude_modules`` are honoured when present. An adapter with the capability
    `edgelora.capabilities.AdaptsModel` wraps no sites: it needs neither these options nor these methods.
    """

    def wrap(self, base: FrozenLinear, site: Site) -> nn.Module:
        """Return a module that takes and gives what ``base`` takes and gives: (..., in) -> (..., out)."""
        ...

    def link(self, layers: Mapping[str, nn.Module]) -> None:
        """Called once, after all sites are wrapped, with the layers by site name."""
        ...


class RankScheduler(Protocol):
    """Steers ranks or learning rates while training. Steps are optimizer steps, counted from 0."""

    def attach(self, layers: Mapping[str, nn.Module], optimizer: Optimizer, run: TrainingRun) -> None:
        """Called once before the first step; the optimizer has one parameter group per site."""
        ...

    def before_forward(self, step: int) -> None:
        """Before the first micro-batch of the step."""
        ...

    def before_update(self, step: int) -> None:
        """After clipping, before the optimizer's step."""
        ...

    def after_update(self, step: int) -> None:
        """After the optimizer's step; gradients are still present.

        ``group["lr"]`` of the optimizer's groups is the rate of the step since `before_forward`. One that
        `before_update` changes is to be put back here: the schedule goes on after it.
        """
        ...

    def rank_pattern(self) -> dict[str, int]:
        """Rank in use by site name; empty when no rank was changed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bitwise."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, called after `attach`."""
        ...


class LossCombiner(Protocol):
    """Makes one scalar of the losses of each micro-batch; their weighted sum is the loss of the step.

    The weight of a micro-batch is its share: its labelled tokens / those of the step. The loss of a task in a
    micro-batch is its summed loss there / its labelled tokens in the step / the share, so that over the step
    each task's loss is its mean per labelled token, however the rows are split. That makes a weighted sum of
    the losses exact. A constant term counts once if it is always added; a term that a combiner adds per task
    (such as a learned log variance) counts with the shares of the micro-batches that have the task. What is
    not linear in the losses (a maximum, a ratio of tasks) is that of micro-batches, not of the step.
    """

    def attach(self, run: TrainingRun) -> None:
        """Called once before anything else.

        Options that do not suit the tasks are refused earlier, in `edgelora.Options.check`.
        """
        ...

    def __call__(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Combine ``"task.<task>"`` and ``"aux.<site>.<name>"`` losses into one scalar.

        A task without a labelled token in the micro-batch has no key; it is absent, not perfect.
        """
        ...

    def after_evaluation(self, measurements: Mapping[str, Measurement]) -> None:
        """Called after an evaluation during training, keys ``"<task>.<metric>"``."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Learned weights, possibly none: leaves made on the CPU, the same ones at each call.

        The engine moves their ``data`` to the model's device, optimizes them and clips their gradients
        together with the adapter's.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bitwise."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class Evaluator(Protocol):
    """Measures an adapted model."""

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """Measure; keys are ``"<task>.<metric>"`` or ``"<suite>.<row>"``, ``"@<setting>"`` after either.

        Leaves training mode, weights and the global random state as found.
        """
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number, with what is needed to judge it."""

    value: float
    n: int
    """Number of examples (or tokens, where the metric is per token) behind the value."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    split_digest: str = ""
    """``sha256:`` of the exact examples measured."""


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out question of a task, for evaluators that generate."""

    task: str
    prompt: str
    """Rendered with the chat template, ready to be tokenized without adding special tokens."""
    response: str


@dataclass(frozen=True, slots=True)
class Batch:
    """One padded micro-batch on the model's device. May gain defaulted fields.

    In a packed batch a sequence holds several rows of one task. Its ``attention_mask`` tells tokens from
    padding and does not keep rows apart: forwards on it are made by `edgelora.layers.loss.row_losses`.

    Attributes:
        input_ids: int64 (batch, tokens).
        attention_mask: int64 (batch, tokens), 1 on tokens, 0 on padding.
        labels: int64 (batch, tokens); -100 where no loss is taken; not shifted.
        task_ids: int64 (batch,), indices into the run's ``tasks``.
        rows: Where each row came from: ``"train.jsonl:17"``.
        position_ids: int64 (batch, tokens), from 0 in each row of a packed batch; None in others.
        row_lengths: Tokens of the rows of each sequence of a packed batch, in order.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    task_ids: Tensor
    rows: tuple[str, ...] = ()
    position_ids: Tensor | None = None
    row_lengths: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluator gets.

    Attributes:
        model: The base with its adapter in place; a transformers causal language model.
        tokenizer: Its tokenizer.
        layers: Adapted layers by site name; empty for the bare base, and where the model is adapted whole.
        batches: Held-out rows; iterating starts anew each time. May be empty.
        tasks: Names of the tasks, in the order of ``task_ids``.
        plan: The plan of the run.
        seed: For evaluators that sample; never the global RNG.
        examples: The same held-out rows as text, where they have a prompt.
        split_digest: ``sha256:`` of all held-out rows; measurements of some of them get the digest of those.
        source: Reads the unquantized weight (out, in) of a linear by its name; None where there are no files.
        past: Factors of the recipe's ``past`` adapters by site, as `Site.past` has them.
        tell: Called with a reason where there is nothing to measure.
    """

    model: Any
    tokenizer: Any
    layers: Mapping[str, nn.Module]
    batches: Iterable[Batch]
    tasks: Sequence[str]
    plan: Plan
    seed: int
    examples: Sequence[Example] = ()
    split_digest: str = ""
    source: Callable[[str], Tensor] | None = None
    past: Mapping[str, tuple[Factors, ...]] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda reason: None

    def route(self, task: str, rows: int | None = None) -> None:
        """Tell the layers that the next forward is of ``rows`` rows of ``task``; None: every row from now on.

        For forwards on anything but `batches`, which route by themselves:
        ``greedy(..., before_batch=partial(run.route, task))``. Without it, `edgelora.capabilities.TaskAware`
        layers would go on with the route of the last batch.
        """
        import torch

        routed = [layer for layer in self.layers.values() if isinstance(layer, TaskAware)]
        if routed:
            device = self.model.get_input_embeddings().weight.device
            shape = () if rows is None else (rows,)
            task_ids = torch.full(shape, self.tasks.index(task), dtype=torch.int64, device=device)
            for layer in routed:
                layer.route(task_ids)
