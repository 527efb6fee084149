"""Adapters come, change places and go while the base stays loaded."""

import shutil
import threading

import pytest
import torch
from adapter_folders import repack
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.engine.serving import load_adapters, open_base
from edgelora.errors import (
    AdapterNotFound,
    CombinationError,
    DigestMismatch,
    NoEffect,
    PlanError,
    TensorsMismatch,
    Unsigned,
    WrongBase,
)
from edgelora.layers.segmented import SegmentedLinear
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.run import run

PROBE = torch.arange(24).view(3, 8)


@pytest.fixture
def adapters(served, tiny_base, registry):
    return load_adapters({"lora": served("lora")}, registry, base=str(tiny_base))


@torch.no_grad()
def logits(adapters, names):
    with adapters.rows(names):
        return adapters.model(PROBE).logits


def test_an_adapter_comes_and_goes_and_leaves_the_base_as_it_was(adapters, served):
    weights = {name: tensor.clone() for name, tensor in adapters.model.state_dict().items()}
    before = logits(adapters, ["lora", None, "lora"])
    adapters.add("olora", served("olora"))
    assert adapters.names == ("lora", "olora")
    mixed = logits(adapters, ["lora", "olora", "lora"])
    assert torch.equal(mixed[::2], before[::2])
    assert not torch.equal(mixed[1], before[1])
    adapters.remove("olora")
    assert torch.equal(logits(adapters, ["lora", None, "lora"]), before)
    with pytest.raises(AdapterNotFound, match="no adapter is loaded as 'olora'"):
        adapters.remove("olora")
    kept = adapters.model.state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights.items())


def test_linears_are_wrapped_once(adapters, served):
    modules = list(adapters.model.modules())
    adapters.add("again", served("olora"))
    adapters.remove("again")
    adapters.replace("lora", served("olora"))
    assert all(one is other for one, other in zip(modules, adapters.model.modules(), strict=True))


def test_one_is_put_in_the_place_of_another(adapters, served):
    adapters.add("olora", served("olora"))
    expected = logits(adapters, ["olora", None, "olora"])
    adapters.replace("lora", served("olora"))
    assert torch.equal(logits(adapters, ["lora", None, "lora"]), expected)
    assert adapters["lora"].reference == served("olora")
    with pytest.raises(AdapterNotFound, match="no adapter is loaded as 'new'"):
        adapters.replace("new", served("olora"))


def test_a_refused_replacement_leaves_the_old_one(adapters, served):
    before = logits(adapters, ["lora"] * 3)
    with pytest.raises(CombinationError):
        adapters.replace("lora", served("dora"))
    assert torch.equal(logits(adapters, ["lora"] * 3), before)


@pytest.mark.parametrize("act", ["replace", "add"])
def test_an_adapter_that_fails_half_way_leaves_nothing(adapters, served, monkeypatch, act):
    def slots():
        layers = [part for part in adapters.model.modules() if isinstance(part, SegmentedLinear)]
        return [sum(sum(bank.taken) for bank in layer.banks) for layer in layers]

    before, taken = logits(adapters, ["lora"] * 3), slots()
    hold, left = SegmentedLinear.hold, [3]

    def full(self, factors):
        left[0] -= 1
        if not left[0]:
            raise torch.OutOfMemoryError
        return hold(self, factors)

    monkeypatch.setattr(SegmentedLinear, "hold", full)
    with pytest.raises(torch.OutOfMemoryError):
        getattr(adapters, act)("lora" if act == "replace" else "new", served("olora"))
    assert adapters.names == ("lora",)
    assert adapters["lora"].reference == served("lora")
    assert torch.equal(logits(adapters, ["lora"] * 3), before)
    assert slots() == taken


def test_a_name_is_given_once(adapters, served):
    with pytest.raises(PlanError, match="an adapter is loaded as 'lora' already") as caught:
        adapters.add("lora", served("olora"))
    assert "replace(name, reference)" in caught.value.fix


def test_an_adapter_in_use_is_not_removed(adapters):
    with adapters.rows(["lora", None]), pytest.raises(PlanError, match="'lora' is in use"):
        adapters.remove("lora")
    adapters.switch("lora")
    with pytest.raises(PlanError, match="'lora' is in use"):
        adapters.remove("lora")
    with adapters.rows([None]), pytest.raises(PlanError, match="'lora' is in use"):
        adapters.remove("lora")
    adapters.switch(None)
    with adapters.rows(["lora"]), adapters.rows([None]), pytest.raises(PlanError, match="'lora' is in use"):
        adapters.remove("lora")
    adapters.remove("lora")
    assert adapters.names == ()
    with pytest.raises(AdapterNotFound, match="none is loaded"):
        adapters.switch("lora")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dora", r"q_proj is no low-rank product \(dora\)"),
        ("embedding", r"the embedding model\.embed_tokens, and only linears tell rows apart"),
    ],
)
def test_what_rows_cannot_share_is_refused_with_its_reason(adapters, served, name, reason):
    with pytest.raises(CombinationError, match=reason) as caught:
        adapters.add(name, served(name))
    assert "load_adapted" in caught.value.fix
    assert adapters.names == ("lora",)


def test_an_adapter_of_several_tasks_wants_one_named(adapters, served):
    with pytest.raises(PlanError, match="was trained on 2 tasks"):
        adapters.add("tasks", served("tasks"))
    with pytest.raises(PlanError, match="has no task 'third'"):
        adapters.add("tasks", served("tasks"), task="third")
    with pytest.raises(PlanError, match="has no task 'first'"):
        adapters.add("olora", served("olora"), task="first")
    adapters.add("tasks", served("tasks"), task="first")
    assert adapters["tasks"].task == "first"


def test_another_base_is_refused(served, registry, tmp_path):
    save_tokenizer(tmp_path)
    save_llama(tmp_path, seed=1)
    with pytest.raises(WrongBase, match="weight set"):
        load_adapters({"lora": served("lora")}, registry, base=str(tmp_path))
    plan = make_plan(make_recipe({"base": str(tmp_path)}), registry)
    with pytest.raises(WrongBase, match="weight set"):
        open_base(plan, registry).add("lora", served("lora"))


def test_adapters_of_two_bases_are_told_apart(served, tiny_base, registry, tmp_path):
    other = {"base": str(tmp_path / "other-base"), "out": str(tmp_path / "run"), "evaluators": []}
    save_tokenizer(tmp_path / "other-base")
    save_llama(tmp_path / "other-base", seed=1)
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    train = {"max_steps": 1, "learning_rate": 2e-2, "threads": 1}
    document = {"derivative": "lora", "data": [{"path": str(rows)}], "train": train, **other}
    folder = str(run(make_recipe(document), registry).folder)
    told = f"adapter 'b' ({folder}) is of other-base, and loaded here is 'a' of {tiny_base.name}: the adapter"
    with pytest.raises(WrongBase) as caught:
        load_adapters({"a": served("lora"), "b": folder}, registry, base=str(tiny_base))
    assert caught.value.problem.startswith(told)
    assert caught.value.fix == "load adapters of one base together, and this one apart"


@pytest.mark.parametrize("quantizer", ["none", "fp4", {"name": "nf4", "block_size": 128}])
def test_another_quantizer_is_refused(served, tiny_base, registry, quantizer):
    document = {"base": str(tiny_base), "quantizer": quantizer}
    adapters = open_base(make_plan(make_recipe(document), registry), registry)
    with pytest.raises(
        WrongBase,
        match=r"^adapter \S+ was trained over .* in nf4 \(block_size 64, .*\), and here it is loaded in",
    ) as caught:
        adapters.add("over-nf4", served("over-nf4"))
    assert "loaded with the quantizer it was trained over" in caught.value.fix


def test_other_unquantized_modules_are_refused(served, tiny_base, registry):
    document = {"base": str(tiny_base), "quantizer": "nf4", "skip_modules": ["up_proj"]}
    adapters = open_base(make_plan(make_recipe(document), registry), registry)
    with pytest.raises(WrongBase, match="without up_proj"):
        adapters.add("over-nf4", served("over-nf4"))


def test_where_nothing_is_quantized_nothing_is_left_out_of_it(served, tiny_base, registry):
    document = {"base": str(tiny_base), "quantizer": "none", "skip_modules": ["up_proj"]}
    adapters = open_base(make_plan(make_recipe(document), registry), registry)
    adapters.add("lora", served("lora"))
    assert adapters.names == ("lora",)


def test_no_adapter_is_no_base_either(registry):
    with pytest.raises(PlanError, match="no adapter is named"):
        load_adapters({}, registry)


def test_what_was_changed_or_is_not_trusted_is_refused(adapters, served, tmp_path, edgelora_home):
    copy = shutil.copytree(served("olora"), tmp_path / "copy")
    weights = copy / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch):
        adapters.add("changed", str(copy))
    policy = edgelora_home / "policy.yaml"
    policy.write_text("default: {require_signature: true}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELORA_TRUST_POLICY", str(policy))
        with pytest.raises(Unsigned):
            adapters.add("unsigned", served("olora"))
    assert adapters.names == ("lora",)


def edited(folder, place, edit):
    """A copy of an adapter whose tensors were edited, and its manifest after them."""
    copy = shutil.copytree(folder, place)
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file(edit(tensors), copy / "adapter_model.safetensors")
    repack(copy)
    return str(copy)


def test_what_changes_nothing_is_refused(adapters, served, tmp_path):
    silent = edited(
        served("lora"),
        tmp_path / "silent",
        lambda tensors: {name: tensor * ("lora_A" in name) for name, tensor in tensors.items()},
    )
    with pytest.raises(NoEffect, match="changes no output of the base"):
        adapters.add("silent", silent)


def test_tensors_that_do_not_fit_are_refused(adapters, served, tmp_path):
    lacking = edited(served("lora"), tmp_path / "lacking", lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(TensorsMismatch, match=r"lacks the tensor 'model\.layers\.0"):
        adapters.add("lacking", lacking)
    more = {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(65, 4)}
    wide = edited(served("lora"), tmp_path / "wide", lambda tensors: tensors | more)
    with pytest.raises(TensorsMismatch, match=r"q_proj\.lora_B of adapter lora is \(65, 4\), and the base"):
        adapters.add("wide", wide)
    assert adapters.names == ("lora",)


def test_threads_take_turns(adapters, served):
    done = []

    def remove():
        adapters.remove("lora")
        done.append("removed")

    other = threading.Thread(target=remove)
    with adapters.rows(["lora", None, None]):
        other.start()
        first = adapters.model(PROBE).logits.detach()
        assert done == []
        assert torch.equal(adapters.model(PROBE).logits.detach(), first)
    other.join(timeout=10)
    assert done == ["removed"]


def test_blocks_of_rows_nest_and_end_with_an_error_too(adapters):
    with pytest.raises(ZeroDivisionError), adapters.rows(["lora"] * 3):
        with adapters.rows([None] * 3):
            bare = adapters.model(PROBE).logits.detach()
        assert not torch.equal(adapters.model(PROBE).logits.detach(), bare)
        _ = 1 / 0
    assert torch.equal(adapters.model(PROBE).logits.detach(), bare)
