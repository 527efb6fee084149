"""A tiny model with the adapter under test in it, and the few steps of training it gets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgelora.capabilities import Calibrated, HasAuxLosses, LowRank, TaskAware
from edgelora.engine.apply import probe_logits
from edgelora.engine.base import load_base
from edgelora.engine.batches import PaddedBatches
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.conditions import seed_everything
from edgelora.engine.data import Dataset, Row, collate
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.optimizer import make_optimizer
from edgelora.engine.past_sites import Past
from edgelora.engine.source import SourceWeights
from edgelora.engine.whole_model import WholeModel, adapted_model
from edgelora.layers import FrozenEmbedding, FrozenLinear
from edgelora.layers.authoring import SummingCombiner
from edgelora.layers.generate import pad_id
from edgelora.layers.loss import row_losses
from edgelora.options import Options
from edgelora.plan import Plan
from edgelora.protocols import Batch, TrainingRun
from edgelora.testing import tiny
from edgelora.testing.check import require

CPU = torch.device("cpu")


@dataclass(slots=True)
class Subject:
    """An adapted model.

    Attributes:
        plan: What it was made by.
        model: The tiny base with the adapter in place.
        adapter: The object of the adapter part.
        layers: Adapted layers by site name.
        dataset: Rows of the plan's tasks.
        base_tensors: Copies of all tensors of the base, before anything was adapted.
        base_logits: Of a probe, before anything was adapted.
        start_logits: Of the same probe with the adapter in place, by task.
        losses: Of each step trained.
        moved: Names of the adapter's parameters that ever had a gradient that is not zero.
        strangers: Names of parameters outside the adapter that ever had a gradient.
        held: The base's own tensors, of an adapter that changes the model as a whole.
    """

    plan: Plan
    model: Any
    adapter: Any
    layers: Mapping[str, nn.Module]
    dataset: Dataset
    base_tensors: dict[str, Tensor]
    base_logits: Tensor
    start_logits: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    held: dict[str, Tensor] = field(default_factory=dict)

    @property
    def routed(self) -> list[TaskAware]:
        """Layers that tell tasks apart."""
        return [layer for layer in self.layers.values() if isinstance(layer, TaskAware)]

    def route(self, task_ids: Tensor) -> None:
        """Tell those layers which task each row is of."""
        for layer in self.routed:
            layer.route(task_ids)

    def routes(self) -> Iterator[str]:
        """Each task in turn, all rows routed to it; ``""`` once where no layer tells tasks apart."""
        for number, task in enumerate(self.plan.tasks if self.routed else ("",)):
            self.route(torch.tensor(number))
            yield task

    def training_run(self, total_steps: int) -> TrainingRun:
        """What schedulers and combiners are told."""
        return TrainingRun(total_steps, self.plan.recipe.train.seed, self.plan.tasks)

    def logits(self) -> dict[str, Tensor]:
        """Of the probe in evaluation mode, by task."""
        self.model.eval()
        return {task: probe_logits(self.model) for task in self.routes()}

    def batch(self, rows: Sequence[Row] | None = None) -> Batch:
        """Some rows as the engine batches them; by default one batch with rows of all tasks."""
        chosen = self.rows() if rows is None else rows
        return collate(chosen, pad_id(tiny.tokenizer()), CPU)

    def rows(self, per_task: int = 3) -> list[Row]:
        """The first rows of each task."""
        tasks = range(len(self.dataset.tasks))
        return [row for task in tasks for row in [r for r in self.dataset.train if r.task == task][:per_task]]

    def loss(self, batch: Batch, *, with_aux: bool = True) -> Tensor:
        """Mean per labelled token, and the adapter's auxiliary losses."""
        self.route(batch.task_ids)
        sums, counts = row_losses(self.model, batch)
        total = sums.sum() / counts.sum()
        for layer in self.layers.values() if with_aux else ():
            if isinstance(layer, HasAuxLosses):
                for auxiliary in layer.aux_losses().values():
                    total = total + auxiliary
        return total

    @torch.no_grad()
    def held_loss(self) -> float:
        """The loss of the training batch in evaluation mode, without auxiliary losses."""
        self.model.eval()
        return float(self.loss(self.batch(), with_aux=False))

    def train(self, steps: int) -> None:
        """Optimizer steps on one batch, with the engine's optimizer."""
        optimizer = self.optimizer()
        for step in range(steps):
            self.step(step, optimizer)

    def optimizer(self) -> Optimizer:
        """The one the plan asks for, a group per site."""
        return make_optimizer(self.layers, SummingCombiner(Options()), self.plan.recipe.train)

    def step(
        self, step: int, optimizer: Optimizer, around: Mapping[str, Callable[[int], None]] | None = None
    ) -> None:
        """One optimizer step; ``around`` holds a rank scheduler's hooks, called as the engine calls them."""
        hooks = around or {}
        seed_everything(self.plan.recipe.train.seed, step)
        self.model.train()
        hooks.get("before_forward", _nothing)(step)
        loss = self.loss(self.batch())
        loss.backward()
        self.losses.append(float(loss.detach()))
        own = trainable_parameters(self.layers)
        mine = {id(parameter) for parameter in own.values()}
        self.moved |= {name for name, each in own.items() if each.grad is not None and bool(each.grad.any())}
        self.strangers |= {
            name
            for name, each in self.model.named_parameters()
            if id(each) not in mine and each.grad is not None
        }
        nn.utils.clip_grad_norm_(own.values(), 1.0)
        hooks.get("before_update", _nothing)(step)
        optimizer.step()
        # As the engine does: kernels of bitsandbytes write without telling autograd.
        torch.autograd.graph.increment_version(list(own.values()))
        hooks.get("after_update", _nothing)(step)
        optimizer.zero_grad(set_to_none=True)

    def gradients(self, *batches: Batch) -> dict[str, Tensor]:
        """Of the adapter's parameters in training mode; none stay behind. All forwards come first."""
        self.model.train()
        own = trainable_parameters(self.layers)
        losses = []
        for batch in batches:
            seed_everything(self.plan.recipe.train.seed, step=0)
            losses.append(self.loss(batch))
        torch.stack(losses).sum().backward()
        found = {
            name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in own.items()
        }
        self.model.zero_grad(set_to_none=True)
        return found

    @torch.no_grad()
    def observe(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Input and output of each adapted layer in one forward of the model, as its mode and route are.

        Where no site is adapted, ids (batch, tokens, 1) and logits of the model as a whole.
        """
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def note(site: str, _: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            seen[site] = (given[0], answer)

        handles = [layer.register_forward_hook(partial(note, site)) for site, layer in self.layers.items()]
        try:
            output = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )
        finally:
            for handle in handles:
                handle.remove()
        if self.held:
            ids = batch.input_ids
            seen["the model"] = ids[..., None], output.logits[:, -ids.shape[1] :]
        return seen

    def base_of(self, site: str) -> FrozenLinear:
        """The frozen linear in a layer; the output head of a model that is adapted as a whole."""
        if self.held:
            head: FrozenLinear = self.model.get_output_embeddings()
            return head
        return next(part for part in self.layers[site].modules() if isinstance(part, FrozenLinear))

    def tensors_of_base(self) -> dict[str, Tensor]:
        """All tensors of the base by the names they had before it was adapted."""
        return self.held or base_tensors(self.model, self.layers)


def make_subject(plan: Plan, past: Past = MappingProxyType({})) -> Subject:
    """Load the tiny base, adapt it as a run does, beside a past, and look at what it computes."""
    dataset = tiny.dataset(plan.tasks)
    model = load_base(plan, CPU)
    held = base_tensors(model, {})
    before = {name: tensor.clone() for name, tensor in held.items()}
    logits = probe_logits(model)
    adapter = plan.build("adapter")
    seed_everything(plan.recipe.train.seed, step=-1)
    layers = inject(model, plan, adapter, SourceWeights(tiny.base_folder()), past)
    require_factors(layers)
    model = adapted_model(model, layers)
    subject = Subject(plan, model, adapter, layers, dataset, before, logits)
    if isinstance(layers, WholeModel):
        subject.held = held
    if isinstance(adapter, Calibrated):
        adapter.calibrate(model, layers, iter(PaddedBatches(dataset.train, layers, tiny.tokenizer(), CPU)))
    return subject


def require_factors(layers: Mapping[str, nn.Module]) -> None:
    """Layers that have factors have them in the form that forward, merging and publishing read."""
    for site, layer in layers.items():
        held = [part for part in layer.modules() if isinstance(part, FrozenLinear)]
        if not isinstance(layer, LowRank) or len(held) != 1:
            continue
        given = layer.factors()
        form = f"(A, B, scaling), A of (rank, {held[0].in_features}) and B of ({held[0].out_features}, rank)"
        require(
            isinstance(given, tuple) and len(given) == 3,
            f"factors() of {site} gave {type(given).__name__}; return Factors{form}",
        )
        A, B, _ = given
        require(
            A.dim() == B.dim() == 2
            and (A.shape[1], B.shape[0]) == (held[0].in_features, held[0].out_features)
            and A.shape[0] == B.shape[1],
            f"factors() of {site} gave A of {tuple(A.shape)} and B of {tuple(B.shape)}; return {form}",
        )


def base_tensors(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of a model without those of its adapter."""
    sites = {id(part): site for site, layer in layers.items() for part in layer.modules()}
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if id(module) in sites and not isinstance(module, FrozenLinear | FrozenEmbedding):
            continue
        place = sites.get(id(module), name)
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        found |= {f"{place}.{each}": tensor for each, tensor in own}
    return found


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """With gradient checkpointing, as runs that ask for it."""
    enable_checkpointing(model)
    try:
        yield
    finally:
        with warnings.catch_warnings():  # renamed in transformers 5.2x; the old name lives until 6
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()


def _nothing(step: int) -> None:
    """Where there is no hook."""
