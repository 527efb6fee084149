"""Memory of a run for one placement of its base: while it is loaded, and in a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.allocator import LARGE_BLOCK_BYTES
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.estimating.shape_model import ShapeModel, make_shape_model
from edgelora.engine.estimating.step import Rows, StepCost, step_cost
from edgelora.engine.estimating.values import on_shapes
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.past_factors import read_past
from edgelora.engine.whole_model import adapted_model
from edgelora.errors import ModelError
from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedLinear
from edgelora.layers.scratch import release_scratch
from edgelora.plan import Plan

MIB = 2**20
FIRST_STEP = 48 * MIB
"""What the first step of any model adds to a process on a CPU: code that is read then, threads, and kernels
compiled for the shapes. Measured: the built-in base with nothing to compute grows by this much."""
QUANTIZING = 13
"""Bytes for each number of the largest linear while it is quantized, besides the result. Measured, nf4."""
TRANSIENT = ("activations", "logits", "scratch")
SLACK = 0.12
"""Share of what a step makes and frees that kernels take on top within themselves, on a CPU. Measured."""
HOLES = 48 * MIB
"""Most that freed tensors leave in the C library's heap, which holds those of up to 32 MiB. Measured; a step
that makes less leaves less."""
SLACK_WHERE_RETURNED = 0.08
"""Of both, where `edgelora.engine.allocator` has freed memory returned: streamed, and under a budget."""
HOLES_BESIDE_LARGE_BLOCKS = 144 * MIB
"""Most that freed tensors leave where large blocks are streamed. Measured for a Llama-3.1-8B shape."""
FIRST_STEP_FILES = 16 * MIB
"""Of `FIRST_STEP`, code of libraries."""
PAGE_BYTES = 64 * 1024
"""Mapped around each row of an embedding that is read: Linux maps the pages beside it as well."""


@dataclass(frozen=True, slots=True)
class BaseSize:
    """How large a base is.

    Attributes:
        parameters: Numbers in it.
        source_bytes: Of its weights as they are stored.
        kept_bytes: Of its weights as the plan's quantizer keeps them, the others as they are stored.
    """

    parameters: int
    source_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Predicted bytes of a run.

    Attributes:
        placement: Of the base.
        parts: Of a step when most is in use, by `edgelora.engine.estimating.step.PARTS`. ``weights`` are
            those that are in memory: of a streamed base two blocks and a piece of the head.
        files: Of files whose pages are in memory then, the base's and the program's own; the system may take
            them back, and reads them again when they are needed.
        runtime: The process before it loads anything, and what a first step adds; none on a GPU.
        slack: Of the allocator, and what kernels allocate within themselves.
        loading: In use at the peak while the base is loaded.
        step: What the micro-batch computes.
        base: Sizes of the base, wherever it lies.
    """

    placement: Placement
    parts: Mapping[str, int]
    files: int
    runtime: int
    slack: int
    loading: int
    step: StepCost
    base: BaseSize

    @property
    def anonymous(self) -> int:
        """Memory of the process's own at the peak of a step."""
        return self.stepping - self.files

    @property
    def stepping(self) -> int:
        """In use at the peak of a step."""
        return sum(self.parts.values()) + self.runtime + self.slack

    @property
    def peak(self) -> int:
        """The most of both."""
        return max(self.loading, self.stepping)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What memory depends on besides the plan.

    Attributes:
        config: Of the base, by transformers.
        rows: The largest micro-batch.
        dtype: In which the model computes.
        prepared: The base is a prepared one: its weights are mapped, not copied.
        on_cpu: The process itself holds what a GPU would hold.
        runtime: Bytes of the process before it loads anything.
        program: Of these, pages of files.
    """

    config: Any
    rows: Rows
    dtype: torch.dtype
    prepared: bool
    on_cpu: bool
    runtime: int
    program: int


def predict(plan: Plan, around: Surroundings, placement: Placement) -> Memory:
    """Memory of a plan with its base placed as given.

    Raises:
        ModelError: The architecture cannot run on shapes alone.
    """
    plan = placement.apply(plan)
    release_scratch()
    shapes = make_shape_model(plan, around.config, around.dtype, in_files=around.prepared)
    loaded = [*shapes.model.parameters(), *shapes.model.buffers()]
    with on_shapes("the adapter cannot be started without memory", plan), torch.device("meta"):
        past = read_past(shapes.model, plan)
        layers = inject(shapes.model, plan, source=lambda name: _source(shapes, name), past=past)
    shapes = replace(shapes, model=adapted_model(shapes.model, layers))
    own, mapped, loading = _weights(shapes, layers, around, placement)
    # What the adapter put something else in the place of was there until all of it was.
    loading = max(loading, own + _replaced_bytes(loaded, shapes.model))
    step = _step(shapes, layers, plan, around)
    base = _base_size(shapes)
    parts = dict(step.parts) | {"weights": own + mapped}
    if not around.on_cpu:
        return Memory(placement, parts, 0, 0, 0, loading + parts["adapter"], step, base)
    runtime = around.runtime + FIRST_STEP
    returned = placement.streamed or plan.recipe.memory_budget is not None
    transient = sum(size for part, size in parts.items() if part in TRANSIENT)
    share, holes = (SLACK_WHERE_RETURNED, 0) if returned else (SLACK, HOLES)
    if placement.streamed and max(_block_sizes(shapes)) >= LARGE_BLOCK_BYTES:
        holes = HOLES_BESIDE_LARGE_BLOCKS
    slack = share * transient + min(holes, transient)
    loading = around.runtime + loading + parts["adapter"]
    files = mapped + around.program + FIRST_STEP_FILES
    return Memory(placement, parts, files, runtime, round(slack), loading, step, base)


def _step(shapes: ShapeModel, layers: Mapping[str, nn.Module], plan: Plan, around: Surroundings) -> StepCost:
    take = partial(step_cost, shapes.model, layers, plan, on_cpu=around.on_cpu)
    if around.rows.padded:
        # Some architectures make their own mask of rows, and take none that is made.
        with suppress(ModelError):
            return take(around.rows)
    return take(replace(around.rows, padded=False))


def _source(shapes: ShapeModel, name: str) -> Tensor:
    linear = shapes.model.get_submodule(name)
    return torch.empty(linear.out_features, linear.in_features, dtype=shapes.stored, device="meta")


def _weights(
    shapes: ShapeModel, layers: Mapping[str, nn.Module], around: Surroundings, placement: Placement
) -> tuple[int, int, int]:
    """Bytes of the base that are the process's own, that are mapped in a step, and of both while loading."""
    model = shapes.model
    frozen = [part for part in model.modules() if isinstance(part, FrozenLinear)]
    quantized = tensor_bytes(buffer for part in frozen for buffer in part.buffers())
    of_adapter = {id(parameter) for parameter in trainable_parameters(layers).values()}
    kept = [parameter for parameter in model.parameters() if id(parameter) not in of_adapter]
    as_stored = tensor_bytes(parameter for parameter in kept if parameter.dtype == shapes.stored)
    converted = tensor_bytes(parameter for parameter in kept if parameter.dtype != shapes.stored)
    total = quantized + as_stored + converted
    if placement.streamed and not around.on_cpu:
        own = _beside_blocks(shapes)
        return own, _streamed_bytes(shapes), own
    if placement.streamed:
        return converted, _streamed_bytes(shapes), converted
    if not around.on_cpu:
        return total, 0, total
    unread = _unread_bytes(model, around.rows)
    if around.prepared:
        return converted, quantized + as_stored - unread, converted
    # transformers maps the files. What is kept as it is stored is a view of them, read when it is first
    # computed with; and it keeps all that was read of its file in memory.
    own = quantized + converted
    stepping = shapes.source_bytes - unread if as_stored else 0
    largest = max((part.out_features * part.in_features for part in frozen if part.weight is None), default=0)
    read = shapes.source_bytes - as_stored if own else 0
    return own, stepping, own + read + QUANTIZING * largest


def _replaced_bytes(loaded: Iterable[Tensor], adapted: nn.Module) -> int:
    """Of tensors of a base as it was loaded, those whose memory its adapted model does not use any more."""
    kept = {tensor.untyped_storage()._cdata for tensor in (*adapted.parameters(), *adapted.buffers())}
    return tensor_bytes(tensor for tensor in loaded if tensor.untyped_storage()._cdata not in kept)


def _base_size(shapes: ShapeModel) -> BaseSize:
    frozen = [part for part in shapes.model.modules() if isinstance(part, FrozenLinear)]
    quantized = [part for part in frozen if part.weight is None]
    replaced = sum(part.out_features * part.in_features for part in quantized) * shapes.stored.itemsize
    kept = tensor_bytes(buffer for part in quantized for buffer in part.buffers())
    return BaseSize(shapes.parameters, shapes.source_bytes, shapes.source_bytes - replaced + kept)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, those that share memory once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _streamed_bytes(shapes: ShapeModel) -> int:
    """Of two neighbouring blocks, and of two pieces of the head, one read ahead of the other."""
    blocks = _block_sizes(shapes)
    head = shapes.model.get_output_embeddings()
    pieces = 0
    if isinstance(head, MappedLinear):
        pieces = min(2 * head.chunk_rows, head.out_features) * head.in_features * head.weight.dtype.itemsize
    return max(map(sum, pairwise(blocks)), default=sum(blocks)) + pieces


def _block_sizes(shapes: ShapeModel) -> list[int]:
    return [tensor_bytes(_in_files(block, shapes.stored)) for block in decoder_blocks(shapes.model)]


def _in_files(block: nn.Module, stored: torch.dtype) -> Iterator[Tensor]:
    """What a block computes with from its base's files: not vectors, and nothing that was converted."""
    for part in block.modules():
        own = (each for each in part.parameters(recurse=False) if each.dim() > 1 and each.dtype == stored)
        yield from (each for each in own if not each.requires_grad)
        if isinstance(part, FrozenLinear):
            yield from part.buffers()


def _beside_blocks(shapes: ShapeModel) -> int:
    """Of what a GPU keeps of a streamed base all the time: an embedding, and a head that is tied to it."""
    model = shapes.model
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    within = {id(each) for block in decoder_blocks(model) for each in _in_files(block, shapes.stored)}
    if isinstance(head, MappedLinear) and head.weight is not embedding.weight:
        within.add(id(head.weight))
    frozen = (each for each in (*model.parameters(), *model.buffers()) if not each.requires_grad)
    return tensor_bytes(each for each in frozen if id(each) not in within)


def _unread_bytes(model: Any, rows: Rows) -> int:
    """Of an embedding that is not the head as well: all but the rows of a step's tokens."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is embedding.weight:
        return 0
    return max(0, embedding.weight.nbytes - rows.tokens * PAGE_BYTES)
