"""An adapter goes on from earlier ones: what it starts from, what it carries, and what is refused."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.engine.base import load_base
from edgelora.engine.estimating.estimate import estimate
from edgelora.engine.inject import inject, plain_linears
from edgelora.engine.past_factors import read_past, taken_off
from edgelora.engine.past_sites import past_to_load, with_past, within_rank
from edgelora.engine.report import QuietReporter
from edgelora.errors import (
    CombinationError,
    FeatureRequired,
    Interrupted,
    PlanError,
    ResumeMismatch,
    TensorsMismatch,
    WrongBase,
)
from edgelora.manifest import MANIFEST_NAME, digest_cache, manifest_bytes, read_manifest
from edgelora.manifest.base_identity import identify_base
from edgelora.plan import make_plan, plan_from_document
from edgelora.protocols import Factors, Site
from edgelora.recipe import make_recipe
from edgelora.run import run
from edgelora.transfer import find_adapter, release_as

TRAIN = {"max_steps": 3, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1}

EARLIER = {
    "lora": {"derivative": "lora", "adapter": {"rank": 4, "dropout": 0.1}},
    "rslora": {"derivative": "rslora", "adapter": {"rank": 4}},
    "patterns": {
        "derivative": "lora",
        "adapter": {
            "rank": 4,
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.mlp.up_proj": 3.3},
        },
    },
    "olora": {"derivative": "olora", "adapter": {"rank": 4}},
    "wide": {"derivative": "olora", "adapter": {"rank": 20}},
    "in half": {"derivative": "lora", "adapter": {"rank": 4}, "train": TRAIN | {"adapter_dtype": "bfloat16"}},
    "quantized": {"derivative": "qlora", "adapter": {"rank": 4}},
    "own form": {"derivative": "irqlora", "adapter": {"rank": 4}},
}


@pytest.fixture(scope="module")
def train(tiny_base, rows, registry, tmp_path_factory):
    """A function that trains an adapter and returns its folder; equal ones are trained once."""
    made = {}

    def go(past=(), **changes):
        key = repr((past, sorted(changes.items())))
        if key not in made:
            document = {
                "base": str(tiny_base), "data": [{"path": str(rows)}], "train": TRAIN, "evaluators": [],
                "past": [str(each) for each in past], "out": str(tmp_path_factory.mktemp("run")),
            }  # fmt: skip
            made[key] = run(make_recipe(document | changes), registry, overwrite=True).folder
        return made[key]

    return go


def next_recipe(folders, tiny_base, rows, out, **changes):
    document = {
        "derivative": "clora", "base": str(tiny_base), "adapter": {"rank": 4}, "data": [{"path": str(rows)}],
        "past": [str(each) for each in folders], "train": TRAIN, "evaluators": [], "out": str(out),
    }  # fmt: skip
    return make_recipe(document | changes)


def quantizer_of(folder):
    part = read_manifest(folder).components[0].parts["quantizer"]
    return {"name": f"{part.plugin}:{part.name}", **part.options}


@pytest.mark.parametrize("name", EARLIER)
def test_the_model_starts_as_the_earlier_adapter_left_it(train, tiny_base, rows, registry, tmp_path, name):
    folder = train(**EARLIER[name])
    recipe = next_recipe([folder], tiny_base, rows, tmp_path, quantizer=quantizer_of(folder))
    plan = make_plan(recipe, registry)
    model = load_base(plan)
    past = read_past(model, plan)
    layers = inject(model, plan, past=past)
    expected = probe_logits(load_adapted(str(folder), registry, base=str(tiny_base)).model)
    bare = probe_logits(load_base(plan))
    model.eval()
    torch.testing.assert_close(probe_logits(model), expected, rtol=1e-5, atol=1e-5)
    assert float((expected - bare).abs().max()) > 1e-3
    assert all(each.scaling == 1.0 and not each.A.requires_grad for every in past.values() for each in every)
    # A site that the earlier adapter left alone has no past.
    assert {site for site, layer in layers.items() if layer.past_factors()} == set(past)


def test_several_are_added_oldest_first(train, tiny_base, rows, registry, tmp_path):
    one, other = train(**EARLIER["lora"]), train(**EARLIER["rslora"])
    alone = [
        read_past(load_base(plan), plan)
        for plan in (
            make_plan(next_recipe([each], tiny_base, rows, tmp_path), registry) for each in (one, other)
        )
    ]
    plan = make_plan(next_recipe([one, other], tiny_base, rows, tmp_path), registry)
    both = read_past(load_base(plan), plan)
    for site, factors in both.items():
        assert len(factors) == 2
        assert torch.equal(factors[0].A, alone[0][site][0].A)
        assert torch.equal(factors[1].B, alone[1][site][0].B)


@pytest.mark.parametrize("quantizer", ["none", "int8", "nf4-icq"])
def test_what_is_packed_needs_none_of_those_before_it(train, tiny_base, rows, registry, tmp_path, quantizer):
    first = train(derivative="lora", adapter={"rank": 4}, quantizer=quantizer)
    second = shutil.copytree(first, tmp_path / "first")
    recipe = next_recipe([second], tiny_base, rows, tmp_path / "run", quantizer=quantizer)
    result = run(recipe, registry)
    shutil.rmtree(second)
    adapted = load_adapted(str(result.folder), registry, base=str(tiny_base))
    before = probe_logits(load_adapted(str(first), registry, base=str(tiny_base)).model)
    found = probe_logits(adapted.model)
    assert float((found - before).abs().max()) > 1e-4
    ranks = {len(layer.factors().A) for layer in adapted.layers.values()}
    assert ranks == {8}
    manifest = read_manifest(result.folder)
    origins = [(each.manifest_digest, each.relation) for each in manifest.derived_from]
    assert origins == [(digest_of(first), "continued")]


def digest_of(folder):
    return find_adapter(folder).digest


def weights_of(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_a_chain_carries_its_whole_past_and_counts_nothing_twice(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["patterns"])
    second = train([first], derivative="clora", adapter={"rank": 3})
    third = train([second], derivative="clora", adapter={"rank": 2})
    listed = make_plan(next_recipe([first, second, third], tiny_base, rows, tmp_path), registry)
    assert [past.folder for past in listed.past] == [third]
    assert len(listed.past[0].weights) == 3
    assert "with the 2 it went on from" in listed.describe()
    model = load_base(listed)
    inject(model, listed, past=read_past(model, listed))
    expected = probe_logits(load_adapted(str(third), registry, base=str(tiny_base)).model)
    torch.testing.assert_close(probe_logits(model.eval()), expected, rtol=1e-5, atol=1e-5)
    q, k = (
        read_past(load_base(listed), listed)[f"model.layers.0.self_attn.{kind}_proj"] for kind in ("q", "k")
    )
    assert [len(each.A) for each in q] == [2 + 3 + 2] and [len(each.A) for each in k] == [3 + 2]


def test_two_that_share_a_past_are_refused(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    one = train([first], derivative="clora", adapter={"rank": 3})
    other = train([first], derivative="clora", adapter={"rank": 2})
    with pytest.raises(PlanError, match="both went on from a third adapter") as caught:
        make_plan(next_recipe([one, other], tiny_base, rows, tmp_path), registry)
    assert caught.value.fix == "name one of them"


def test_a_released_adapter_is_known_by_its_weights(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    second = train([first], derivative="clora", adapter={"rank": 3})
    renamed = shutil.copytree(first, tmp_path / "renamed")
    release_as(renamed, "acme/first@1.0.0", sequence=1)
    plan = make_plan(next_recipe([renamed, second], tiny_base, rows, tmp_path), registry)
    assert [past.folder for past in plan.past] == [second]


def test_a_linear_that_only_the_past_adapts_is_refused(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    recipe = next_recipe(
        [first], tiny_base, rows, tmp_path, adapter={"rank": 4, "target_modules": ["q_proj"]}
    )
    with pytest.raises(PlanError, match="its change would be lost") as caught:
        run(recipe, registry)
    assert "target_modules" in caught.value.fix


def test_an_adapter_without_the_ability_is_refused(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    with pytest.raises(CombinationError, match="'lora' does not go on from earlier adapters") as caught:
        make_plan(next_recipe([first], tiny_base, rows, tmp_path, derivative="lora"), registry)
    assert caught.value.fix == "choose an adapter that is HasPast (clora), or leave 'past' out"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"derivative": "dora", "adapter": {"rank": 4}}, "is of 'dora', whose change is no low-rank product"),
        ({"derivative": "full"}, "is of 'weights', whose change is no low-rank product: it has no factors"),
        ({"derivative": "mtlora", "tasks": True}, "makes another change for each of first, second"),
        ({"derivative": "bottleneck"}, "is of 'bottleneck', whose change is no low-rank product"),
        ({"derivative": "peft:ia3"}, "is of 'ia3', whose change is no low-rank product"),
        ({"derivative": "peft:lora"}, "is of 'lora', whose change is no low-rank product"),
    ],
)
def test_what_is_no_one_product_is_refused_with_what_can_be_done(
    train, tiny_base, rows, registry, tmp_path, changes, problem
):
    if changes.pop("tasks", False):
        data = [{"path": str(rows), "task": task} for task in ("first", "second")]
        changes = changes | {"data": data, "adapter": {"rank": 2, "task_rank": 2}}
    first = train(**changes)
    with pytest.raises(CombinationError, match=problem) as caught:
        make_plan(next_recipe([first], tiny_base, rows, tmp_path), registry)
    fix = caught.value.fix
    if changes["derivative"] in ("bottleneck", "peft:ia3"):
        assert "or train again with an adapter that is LowRank (" in fix and "merge" not in fix
    elif changes["derivative"] == "peft:lora":
        assert f"edgelora export peft {first} --out DIR, then edgelora adopt DIR" in fix
    else:
        assert f"edgelora merge --adapter {first} --out DIR" in fix
        assert fix.endswith(" --task first | second") == (changes["derivative"] == "mtlora")


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        (
            lambda component: [component, component.model_copy(update={"id": "second"})],
            FeatureRequired,
            "has 2 components",
        ),
        (
            lambda component: [component.model_copy(update={"scale": "0.5"})],
            FeatureRequired,
            "has a scale of 0.5",
        ),
        (
            lambda component: [component.model_copy(update={"config": {"r": 4, "alpha": 4}})],
            TensorsMismatch,
            "does not say which linears it adapts",
        ),
    ],
)
def test_a_manifest_that_cannot_be_gone_on_from_is_refused(
    train, tiny_base, rows, registry, tmp_path, change, error, problem
):
    first = shutil.copytree(train(**EARLIER["lora"]), tmp_path / "first")
    manifest = read_manifest(first)
    components = tuple(change(manifest.components[0]))
    (first / MANIFEST_NAME).write_bytes(
        manifest_bytes(manifest.model_copy(update={"components": components}))
    )
    with pytest.raises(error, match=problem) as caught:
        make_plan(next_recipe([first], tiny_base, rows, tmp_path), registry)
    assert "leave it out of 'past'" in caught.value.fix


def test_stock_peft_computes_the_whole_stack(train, tiny_base, registry):
    from peft import PeftModel

    second = train([train(**EARLIER["patterns"])], derivative="clora", adapter={"rank": 3})
    probe = torch.arange(40).view(2, 20)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), str(second))
    ours = load_adapted(str(second), registry, base=str(tiny_base)).model
    torch.testing.assert_close(ours(probe).logits, stock(probe).logits, rtol=1e-5, atol=1e-5)


def test_another_quantizer_is_refused(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["quantized"])
    with pytest.raises(WrongBase, match=r"trained over a base in nf4 .* quantizer is none") as caught:
        make_plan(next_recipe([first], tiny_base, rows, tmp_path), registry)
    assert "quantizer" in caught.value.fix


def test_another_base_is_refused_as_early_as_it_can_be_told(train, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    other, wider = tmp_path / "other", tmp_path / "wider"
    save_tokenizer(other)
    save_tokenizer(wider)
    save_llama(other, seed=1)
    save_llama(wider, intermediate_size=192)
    with pytest.raises(WrongBase, match=r"of 'past': .*configuration"):
        make_plan(next_recipe([first], wider, rows, tmp_path / "a"), registry)
    # The same shapes: only the weights tell.
    with pytest.raises(WrongBase, match=r"of 'past': .*weight set") as caught:
        run(next_recipe([first], other, rows, tmp_path / "b"), registry)
    assert "leave" in caught.value.fix


def test_weights_that_are_known_already_are_compared_when_it_is_planned(
    train, rows, registry, tmp_path, monkeypatch
):
    first, other = train(**EARLIER["lora"]), tmp_path / "other"
    save_tokenizer(other)
    save_llama(other, seed=1)
    recipe = next_recipe([first], other, rows, tmp_path / "a")
    assert "that 'past' was trained on exactly these weights" in make_plan(recipe, registry).describe()
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", 0)
    identify_base(other)
    with pytest.raises(WrongBase, match=r"of 'past': .*weight set"):
        make_plan(recipe, registry)


def test_adapters_of_two_bases_are_refused(train, tiny_base, rows, registry, tmp_path):
    base = tmp_path / "other"
    save_tokenizer(base)
    save_llama(base, seed=1)
    folders = [train(**EARLIER["lora"]), train(**EARLIER["lora"], base=str(base))]
    with pytest.raises(WrongBase, match="trained on different bases"):
        make_plan(next_recipe(folders, tiny_base, rows, tmp_path), registry)


class StopAt(QuietReporter):
    """Sends SIGTERM to this process when a step is reported."""

    def step(self, record):
        if record["step"] == 2:
            signal.raise_signal(signal.SIGTERM)


def test_an_interrupted_run_resumes_to_the_same_bytes_with_the_same_past(
    train, tiny_base, rows, registry, tmp_path
):
    first = shutil.copytree(train(**EARLIER["lora"]), tmp_path / "first")
    changes = {
        "train": TRAIN | {"max_steps": 6, "save_every": 2},
        "adapter": {"rank": 4, "dropout": 0.1, "penalty": 1e3},
    }
    whole = run(next_recipe([first], tiny_base, rows, tmp_path / "whole", **changes), registry)
    stopped = next_recipe([first], tiny_base, rows, tmp_path / "stopped", **changes)
    with pytest.raises(Interrupted):
        run(stopped, registry, reporter=StopAt())
    other = next_recipe([train(**EARLIER["rslora"])], tiny_base, rows, tmp_path / "stopped", **changes)
    with pytest.raises(ResumeMismatch, match=f"started with past: {first}, and now it is /") as caught:
        run(other, registry, resume=True)
    assert "sha256" not in str(caught.value)
    # Where it lies is free to change.
    moved = shutil.move(first, tmp_path / "moved")
    again = run(next_recipe([moved], tiny_base, rows, tmp_path / "stopped", **changes), registry, resume=True)
    expected, found = weights_of(whole.folder), weights_of(again.folder)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_an_estimate_counts_the_past(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    alone = estimate(make_plan(next_recipe([], tiny_base, rows, tmp_path), registry))
    after = estimate(make_plan(next_recipe([first], tiny_base, rows, tmp_path), registry))
    assert after.memory[0].parts["adapter"] > alone.memory[0].parts["adapter"]
    assert after.trainable == alone.trainable


def test_a_plan_with_a_past_survives_its_document(train, tiny_base, rows, registry, tmp_path):
    first = shutil.copytree(train(**EARLIER["lora"]), tmp_path / "first")
    plan = make_plan(next_recipe([first], tiny_base, rows, tmp_path / "run"), registry)
    document = json.loads(json.dumps(plan.as_document()))
    assert plan_from_document(document, registry) == plan
    shutil.rmtree(first)
    shutil.copytree(train(**EARLIER["rslora"]), first)
    with pytest.raises(PlanError, match="are not those the plan was made with"):
        plan_from_document(document, registry)


def test_a_long_past_becomes_one_product_of_at_most_the_rank_of_the_weight():
    draw = torch.Generator().manual_seed(0)
    for out_features, in_features in ((6, 9), (9, 6)):
        given = [
            Factors(
                torch.randn(4, in_features, generator=draw), torch.randn(out_features, 4, generator=draw), 0.5
            )
            for _ in range(3)
        ]
        (folded,) = within_rank(given)
        assert len(folded.A) == 6
        expected = sum(each.scaling * each.B @ each.A for each in given)
        torch.testing.assert_close(folded.B @ folded.A, expected, rtol=1e-6, atol=1e-6)
        assert within_rank(given[:1]) == tuple(given[:1])


def test_a_past_that_the_base_has_no_linear_for_is_refused():
    linears = {"q": torch.nn.Linear(8, 4)}
    with pytest.raises(TensorsMismatch, match="ranks"):
        past_to_load({"pastRanks": {"q": [3, 2]}}, linears)
    with pytest.raises(TensorsMismatch, match="gives k a past"):
        past_to_load({"pastRanks": {"k": [1]}}, linears)
    (zeros,) = past_to_load({"pastRanks": {"q": [3]}}, linears)["q"]
    assert zeros.A.shape == (3, 8) and zeros.B.shape == (4, 3)
    with pytest.raises(PlanError, match="changes q"):
        with_past([Site("k", 0, "k", 1, 1.0)], {"q": (zeros,)})


def test_an_adapter_taken_off_for_a_moment_is_put_back(train, tiny_base, registry):
    adapted = load_adapted(str(train(**EARLIER["lora"])), registry, base=str(tiny_base))
    before = probe_logits(adapted.model)
    with taken_off(adapted.model, adapted.layers):
        assert not torch.equal(probe_logits(adapted.model), before)
        assert set(plain_linears(adapted.model)) >= set(adapted.layers)
    assert torch.equal(probe_logits(adapted.model), before)


def test_rows_of_an_earlier_task_are_measured_and_never_learned(train, tiny_base, rows, registry, tmp_path):
    first = train(**EARLIER["lora"])
    old = write_rows(tmp_path / "old.jsonl", 12, seed=3)
    changes = {
        "data": [{"path": str(rows)}, {"path": str(old), "task": "earlier", "held_out": 1}],
        "evaluators": [{"name": "forgetting", "max_new_tokens": 4}, "loss"],
    }
    result = run(next_recipe([first], tiny_base, rows, tmp_path / "run", **changes), registry)
    assert result.measurements["earlier.forgetting"].n == 12
    assert "earlier.loss" in result.measurements and "main.loss" not in result.measurements
    alone = run(next_recipe([first], tiny_base, rows, tmp_path / "alone"), registry)
    expected, found = weights_of(alone.folder), weights_of(result.folder)
    assert all(torch.equal(found[name], each) for name, each in expected.items())
