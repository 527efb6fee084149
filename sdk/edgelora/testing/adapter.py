"""What holds for every adapter, tried in a tiny model and over each base it can work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch

from edgelora.capabilities import WantsSource
from edgelora.engine.inject import adapter_tensors, trainable_parameters
from edgelora.engine.source import SourceWeights
from edgelora.layers import FrozenLinear, merge_into
from edgelora.parts import Kind
from edgelora.protocols import Batch
from edgelora.testing import tiny
from edgelora.testing.adapter_change import ChangeChecks, can_merge, layers_with_base
from edgelora.testing.adapter_embeddings import EmbeddingChecks
from edgelora.testing.adapter_forwards import ForwardChecks
from edgelora.testing.adapter_past import PastChecks
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ, distance
from edgelora.testing.random_state import random_state_left_as_found
from edgelora.testing.subject import Subject

BFLOAT16_STEP = 2.0**-8
"""Relative distance of neighbours in bfloat16: what rounding an adapter to it may move the start."""


class AdapterConformance(ChangeChecks, ForwardChecks, EmbeddingChecks, PastChecks):
    """An adapter of an installed plugin.

    Attributes:
        learning_rate: With which three steps must lower the loss.
    """

    kind: ClassVar[Kind] = "adapter"

    def objects(self) -> Iterable[Any]:
        """The adapter and its layers."""
        subject = next(self.subjects())
        return [subject.adapter, *subject.layers.values()]

    def test_it_starts_as_the_base(self) -> None:
        """Before the first step the adapted model computes what the base computes.

        An adapter that is WantsSource may start nearer to the unquantized weights instead.
        """
        if reason := self.found().part.starts_elsewhere:
            skip(f"it starts elsewhere: {reason}")
        for subject in (*self.subjects(), *self._in_half()):
            if isinstance(subject.adapter, WantsSource):
                self._require_start_nearer_to_the_source(subject)
                continue
            most = BFLOAT16_STEP if subject.plan.recipe.train.adapter_dtype == "bfloat16" else 1e-5
            for task, logits in subject.start_logits.items():
                far = distance(logits, subject.base_logits)
                require(
                    far <= most,
                    f"{self.over(subject, task)} the start is {far:.2e} from the base; let the change "
                    "start at zero, subtract the start beside the base, or give Part(starts_elsewhere=...)",
                )

    def _in_half(self) -> Iterator[Subject]:
        """A model whose adapter is kept in bfloat16, that never learned; none where that is refused."""
        for plan in self.plans_otherwise():
            if plan.recipe.train.adapter_dtype == "bfloat16":
                yield self.keep("start in half", lambda plan=plan: self.fresh_subject(plan))

    def _require_start_nearer_to_the_source(self, subject: Subject) -> None:
        source = SourceWeights(tiny.base_folder())
        fresh = self.fresh_subject(subject.plan)
        for site, layer, base in layers_with_base(fresh):
            wanted, weight = source(site).float(), base.dequantize(dtype=torch.float32)
            merged = merge_into(layer, weight.clone(), site)
            lost, left = distance(weight, wanted), distance(merged, wanted)
            require(
                left <= lost + 1e-6,
                f"{self.over(subject)} {site} starts {left:.2e} from the unquantized weight, and its base "
                f"alone is {lost:.2e} from it; start nearer, from the source that wrap_source is given",
            )

    def test_each_layer_holds_the_base_it_wraps(self) -> None:
        """The engine finds the `FrozenLinear` inside the layer to merge it and to take the adapter off."""
        for subject in self.subjects():
            for site, layer in subject.layers.items():
                held = [part for part in layer.modules() if isinstance(part, FrozenLinear)]
                require(
                    len(held) == 1,
                    f"the layer of {site} holds {len(held)} FrozenLinear; assign the base that wrap is "
                    "given to an attribute, and compute with it",
                )

    def test_shapes_and_dtypes_are_those_of_the_base(self) -> None:
        """(..., in) -> (..., out) in the dtype of the input, for batches, single rows and single tokens."""
        for subject in self.subjects(dtypes=("float32", "bfloat16")):
            dtype = subject.model.get_input_embeddings().weight.dtype
            whole = subject.batch()
            for rows, tokens in ((2, 5), (1, 5), (1, 1)):
                subject.route(whole.task_ids[:rows])
                for site, (x, y) in subject.observe(part_of(whole, rows, tokens)).items():
                    expected = (*x.shape[:-1], subject.base_of(site).out_features)
                    require(
                        tuple(y.shape) == expected and y.dtype == dtype,
                        f"{self.over(subject)} {site} turns {x.dtype} {tuple(x.shape)} into {y.dtype} "
                        f"{tuple(y.shape)}; return {expected} in the dtype of the input: .to(x.dtype)",
                    )

    def test_it_trains_in_bfloat16(self) -> None:
        """Loss and gradients are finite where activations have 8 bits of mantissa, for a batch of one row."""
        for subject in self.subjects(dtypes=("bfloat16",)):
            batch = subject.batch(subject.rows(1)[:1])
            loss = float(subject.loss(batch).detach())
            gradients = subject.gradients(batch)
            wrong = [name for name, each in gradients.items() if not each.isfinite().all()]
            require(
                loss == loss and abs(loss) < float("inf") and not wrong,
                f"{self.over(subject)} the loss is {loss} and the gradient of {wrong[:3]} not finite; "
                "compute what needs precision in float32",
            )

    def test_one_row_is_computed_as_in_a_batch(self) -> None:
        """What a row gets does not depend on the rows beside it."""
        for subject in self.trained():
            batch = subject.batch()
            subject.model.eval()
            subject.route(batch.task_ids)
            together = subject.observe(part_of(batch, *batch.input_ids.shape))
            subject.route(batch.task_ids[:1])
            alone = subject.observe(part_of(batch, 1, batch.input_ids.shape[1]))
            for site, (_, y) in together.items():
                far = distance(alone[site][1], y[:1])
                require(
                    far <= 1e-4,
                    f"{self.over(subject)} {site} gives a row {far:.2e} other numbers alone than in a "
                    "batch; compute each row from that row",
                )

    def test_only_the_adapter_learns(self) -> None:
        """After two steps and more nothing but the adapter's parameters has, or may have, a gradient."""
        for subject in self.trained():
            own = {id(each) for each in trainable_parameters(subject.layers).values()}
            frozen = {id(each) for each in subject.tensors_of_base().values()}
            learning = [
                name
                for name, each in subject.model.named_parameters()
                if each.requires_grad and (id(each) not in own or id(each) in frozen)
            ]
            found = sorted({*learning, *subject.strangers})
            require(
                not found,
                f"{self.over(subject)} {', '.join(found[:3])} of the base learns; leave requires_grad of "
                "the base alone",
            )

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Within three steps on rows of every task; one that never does is dead weight in the adapter."""
        for subject in self.trained():
            still = [name for name in trainable_parameters(subject.layers) if name not in subject.moved]
            require(
                trainable_parameters(subject.layers), "nothing may learn; make nn.Parameters in the layers"
            )
            require(
                not still,
                f"{self.over(subject)} {', '.join(still[:3])} ({len(still)} in all) never gets a "
                "gradient; use it in forward, or make it a buffer",
            )

    def test_the_base_is_never_changed(self) -> None:
        """Not one bit of it: not by wrapping, training, evaluating or merging."""
        for subject in self.trained():
            subject.logits()
            for site, layer, base in layers_with_base(subject):
                if can_merge(layer):
                    merge_into(layer, base.dequantize(), site)
            different = bits_differ(subject.base_tensors, subject.tensors_of_base())
            require(
                not different,
                f"{self.over(subject)} {different} of the base is not what it was; read weights with "
                "dequantize() and never write to what it returns",
            )

    def test_training_lowers_the_loss(self) -> None:
        """Three steps on one batch."""
        for subject in self.trained():
            before, after = self.keep(("loss", self.over(subject)), lambda: (0.0, 0.0))
            require(
                after < before,
                f"{self.over(subject)} three steps at learning rate {self.learning_rate:g} take the loss "
                f"from {before:.4f} to {after:.4f}; look at the sign and the scale of the change, or set "
                "learning_rate",
            )

    def test_a_fresh_process_computes_the_same(self) -> None:
        """Packed, and applied to a fresh base in another process: nothing lives outside the tensors."""
        failures, farthest = self.failures_afresh(), 0.0
        for subject in self.trained():
            name = self.over(subject)
            problem = failures.get(name)
            require(not problem, f"{name} the packed adapter cannot be applied in a fresh process: {problem}")
            applied = torch.load(self.logits_file(subject))
            for task, logits in subject.logits().items():
                far = distance(applied.get(task, next(iter(applied.values()))), logits)
                require(
                    far <= 1e-5,
                    f"{self.over(subject, task)} a fresh process computes logits {far:.2e} away; keep all "
                    "that training changes in parameters and persistent buffers, and let the rest follow "
                    "from the base and the options",
                )
                farthest = max(farthest, far)
        tried = "; ".join(self.over(subject).rstrip(":") for subject in self.trained())
        self.note("a_fresh_process_computes_the_same", f"to {farthest:.0e}: {tried}")

    def test_the_same_seed_gives_the_same_start(self) -> None:
        """All of an adapter's start is drawn from torch's global generator, on the CPU."""
        for subject in self.subjects():
            states = [adapter_tensors(self.fresh_subject(subject.plan).layers) for _ in range(2)]
            different = bits_differ(*states)
            require(
                not different,
                f"{self.over(subject)} {different} starts differently with the same seed; draw it with "
                "torch's global generator",
            )

    def test_the_random_state_is_left_as_found(self) -> None:
        """In evaluation and in merging; training alone may draw, for dropout."""
        for subject in self.trained():
            subject.model.eval()
            with random_state_left_as_found(f"{self.over(subject)} the forward in evaluation"):
                subject.observe(subject.batch())
            for site, layer, base in layers_with_base(subject):
                if can_merge(layer):
                    with random_state_left_as_found(f"{self.over(subject)} the merge of {site}"):
                        merge_into(layer, base.dequantize(), site)

    def test_tasks_share_a_batch(self) -> None:
        """TaskAware: a row gets the same in a mixed batch as alone, and is of task 0 before any route."""
        for subject in self.trained():
            if not subject.routed:
                skip("its layers are not TaskAware")
            batch = subject.batch()
            subject.model.eval()
            alone = [subject.observe(batch) for _ in subject.routes()]
            subject.route(batch.task_ids)
            for site, (_, y) in subject.observe(batch).items():
                for row, task in enumerate(batch.task_ids.tolist()):
                    far = distance(y[row], alone[task][site][1][row])
                    require(
                        far <= 1e-4,
                        f"{self.over(subject)} {site} gives row {row} of task {task} {far:.2e} other "
                        "numbers in a mixed batch than alone; choose the task row by row",
                    )
            self._require_task_0_first(subject)

    def _require_task_0_first(self, subject: Subject) -> None:
        fresh = self.fresh_subject(subject.plan)
        unrouted = fresh.observe(fresh.batch())
        fresh.route(torch.tensor(0))
        for site, (_, y) in fresh.observe(fresh.batch()).items():
            require(
                distance(unrouted[site][1], y) <= 1e-5,
                f"before the first route {site} does not compute task 0; start with that route",
            )


def part_of(batch: Batch, rows: int, tokens: int) -> Batch:
    """The first tokens of the first rows."""
    return dataclasses.replace(
        batch,
        input_ids=batch.input_ids[:rows, :tokens],
        attention_mask=torch.ones_like(batch.attention_mask[:rows, :tokens]),
        labels=batch.labels[:rows, :tokens],
        task_ids=batch.task_ids[:rows],
    )
