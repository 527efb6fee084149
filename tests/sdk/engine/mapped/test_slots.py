"""Blocks that are copied to a device in turn compute what they compute where they lie.

Tried with a CPU as the device: its slots are other memory than the file's, as a GPU's are.
"""

import copy

import pytest
import torch
from micro_batch import losses_and_gradients
from transformers import AutoConfig

from edgelora.engine.mapped.blocks import decoder_blocks
from edgelora.engine.mapped.loading import load_mapped
from edgelora.engine.mapped.residency import Residency
from edgelora.engine.mapped.restoring import from_prepared
from edgelora.engine.mapped.slots import MovedBlocks, Place
from edgelora.engine.mapped.streaming import move
from edgelora.layers import FrozenLinear
from edgelora.prepared import prepared_base
from edgelora.protocols import Batch

CPU = torch.device("cpu")


def load(plan, folder):
    record, config = prepared_base(folder), AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    restore = from_prepared(plan, record)
    return load_mapped(folder, config, restore, skip_modules=(), dtype=torch.float32, gives_back=True)


def batch():
    ids = torch.randint(1, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    return Batch(ids, torch.ones_like(ids), ids.clone(), torch.zeros(2, dtype=torch.int64))


def step(model, the_plan):
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return losses_and_gradients(model, the_plan, batch())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("adapter", ["lora", "dora", "iec"])
@pytest.mark.parametrize("quantizer", ["none", "nf4", "nf4-icq"])
def test_losses_and_gradients_are_those_of_the_mapped_base(plan, prepared, adapter, quantizer):
    folder = prepared(quantizer)
    the_plan = plan(base=str(folder), quantizer=quantizer, adapter={"name": adapter, "rank": 4})
    expected, gradients = step(load(the_plan, folder).model, the_plan)
    moved = load(the_plan, folder)
    move(moved, CPU)
    losses, found = step(moved.model, the_plan)
    assert torch.equal(losses, expected)
    for name, gradient in gradients.items():
        assert torch.equal(found[name], gradient), name


class Own(FrozenLinear):
    """As a third party's quantizer may make them: not replaced when blocks are moved."""


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("quantizer", "kind"), [("none", FrozenLinear), ("none", Own), ("nf4", None)])
def test_nothing_is_read_from_the_file_where_the_last_linear_of_a_block_is_not_adapted(
    plan, prepared, monkeypatch, quantizer, kind
):
    folder = prepared(quantizer)
    adapter = {"rank": 4, "target_modules": ["q_proj", "v_proj"]}
    the_plan = plan(base=str(folder), quantizer=quantizer, adapter=adapter)
    expected, gradients = step(load(the_plan, folder).model, the_plan)
    moved = load(the_plan, folder)
    for block in decoder_blocks(moved.model):
        for linear in block.modules():
            if isinstance(linear, FrozenLinear) and kind is not None:
                linear.__class__ = kind
    move(moved, CPU)
    monkeypatch.setattr(Place, "rest", lambda place: place._stand(torch.zeros_like(place.resting)))
    losses, found = step(moved.model, the_plan)
    assert torch.equal(losses, expected)
    for name, gradient in gradients.items():
        assert torch.equal(found[name], gradient), name


class Watched(MovedBlocks):
    """Notes after each turn which blocks the model sees in slots, and which are on their way."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def hold(self, place, following):
        super().hold(place, following)
        bound = {
            number
            for number, places in enumerate(self.tensors)
            if any(vars(each.module)[kind].get(each.name) is not each.resting
                   for each in places for kind in ("_parameters", "_buffers")
                   if each.name in vars(each.module)[kind])
        }  # fmt: skip
        self.seen.append((bound, {slot.place for slot in self.slots}))


def test_the_model_sees_one_block_in_a_slot_and_two_are_ever_copied(plan, prepared):
    the_plan = plan(base=str(prepared("nf4")), quantizer="nf4")
    base = load(the_plan, prepared("nf4"))
    blocks = decoder_blocks(base.model)
    holder = Watched(blocks, base.files, CPU)
    Residency(blocks, holder)
    with torch.no_grad():
        base.model(batch().input_ids)
    assert holder.seen == [({0}, {0, 1}), ({1}, {1, 2}), ({2}, {2, 0})]
    assert len(holder.slots) == 2


def test_weights_read_between_forward_passes_are_those_of_the_file(plan, prepared):
    the_plan = plan(base=str(prepared("nf4")), quantizer="nf4")
    base = load(the_plan, prepared("nf4"))
    linears = [block.mlp.up_proj for block in decoder_blocks(base.model)]
    expected = [linear.dequantize() for linear in linears]
    move(base, CPU)
    for _ in range(2):
        for linear, weight in zip(linears, expected, strict=True):
            assert torch.equal(linear.dequantize(), weight)
        with torch.no_grad():
            base.model(batch().input_ids)


def test_generation_starts_over_with_the_first_block(plan, prepared):
    the_plan = plan(base=str(prepared("nf4")), quantizer="nf4")
    bases = [load(the_plan, prepared("nf4")) for _ in range(2)]
    move(bases[1], CPU)
    answers = [
        base.model.generate(batch().input_ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        for base in bases
    ]
    assert torch.equal(*answers)


def test_a_copy_of_a_moved_model_has_its_own_weights(plan, prepared):
    the_plan = plan(base=str(prepared("nf4")), quantizer="nf4")
    base = load(the_plan, prepared("nf4"))
    move(base, CPU)
    with torch.no_grad():
        expected = base.model(batch().input_ids).logits
        other = copy.deepcopy(base.model)
        assert torch.equal(other(batch().input_ids).logits, expected)
        assert torch.equal(base.model(batch().input_ids).logits, expected)


def test_a_copy_that_fails_is_tried_again(plan, prepared, monkeypatch):
    folder = prepared("nf4")
    base = load(plan(base=str(folder), quantizer="nf4"), folder)
    ids = batch().input_ids
    expected = base.model(ids).logits
    move(base, CPU)
    copied = []

    def fail_once(place, memory):
        copied.append(place)
        if len(copied) == 1:
            raise MemoryError
        copy_to(place, memory)

    copy_to = Place.copy_to
    monkeypatch.setattr(Place, "copy_to", fail_once)
    with pytest.raises(MemoryError):
        base.model(ids)
    assert torch.equal(base.model(ids).logits, expected)
