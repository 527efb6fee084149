"""Adapters that change the model as a whole go through the same path as those that wrap sites."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from fake_distributions import FakeEnvironment
from safetensors.torch import load_file, save_file

from edgelora.engine.apply import apply, load_adapted, probe_logits
from edgelora.engine.base import load_base
from edgelora.engine.inject import adapter_tensors, inject, plain_linears, trainable_parameters
from edgelora.engine.merge import merge
from edgelora.engine.past_factors import taken_off
from edgelora.engine.report import QuietReporter
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import ExportUnsupported, Interrupted, PlanError, PluginBug, TensorsMismatch
from edgelora.manifest import describe_files, manifest_bytes, read_manifest, tree_digest
from edgelora.manifest.tensors import summarize_tensors
from edgelora.plan import make_plan
from edgelora.registry import Registry
from edgelora.run import run
from edgelora.testing import conformance_of, run_checks
from edgelora.verify import verify

NAMES = ["shared-scale", "soft-prompt"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The installed plugins, and that of the fixtures."""
    made = FakeEnvironment(tmp_path_factory.mktemp("whole") / "site-packages")
    made.install("whole", {"whole": "whole_model_plugin"})
    sys.path.insert(0, str(made.folder))
    yield Registry.discover()
    sys.path.remove(str(made.folder))


@pytest.fixture(scope="module")
def trained(registry, tiny_base, rows, tmp_path_factory):
    """Each adapter after a few steps, packed, by name."""
    from edgelora.recipe import make_recipe

    def train(name, quantizer):
        document = {
            "derivative": f"whole:{name}",
            "base": str(tiny_base),
            "quantizer": quantizer,
            "data": [{"path": str(rows), "held_out": 0.1}],
            "out": str(tmp_path_factory.mktemp(name) / "run"),
            "evaluators": ["loss", "quantization"],
            "train": {"max_steps": 4, "learning_rate": 1e-1, "threads": 1, "evaluate_base": True},
        }
        return run(make_recipe(document), registry)

    return {"shared-scale": train("shared-scale", "nf4"), "soft-prompt": train("soft-prompt", "none")}


def whole(recipe, name, **changes):
    return recipe(derivative=f"whole:{name}", adapter=None, evaluators=[], **changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_kit_passes(registry, name):
    (found,) = [each for each in registry.parts("adapter") if each.qualified_name == f"whole:{name}"]
    results = run_checks(conformance_of(found, quantizers=("baseline:none",)))
    assert [each for each in results if each.outcome == "failed"] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_is_packed_in_its_own_form(trained, name):
    result = trained[name]
    assert result.measurements["main.loss"].value < result.base_measurements["main.loss"].value
    assert verify(result.folder) == []
    assert sorted(each.name for each in result.folder.iterdir()) == [
        "README.md", "edgelora.json", "edgelora.safetensors",
    ]  # fmt: skip
    assert result.manifest.components[0].config == {"taskNames": ["main"]}


def test_measurements_of_linears_read_the_base_by_its_own_names(trained):
    measured = trained["shared-scale"]
    for name in ("quantization.bits_per_parameter", "quantization.relative_error"):
        assert measured.measurements[name].value == measured.base_measurements[name].value
    assert measured.measurements["quantization.relative_error"].value > 0


@pytest.mark.parametrize("name", NAMES)
def test_applied_it_computes_what_was_trained(trained, registry, tiny_base, name):
    adapted = load_adapted(str(trained[name].folder), registry, base=str(tiny_base))
    assert isinstance(adapted.layers, WholeModel) and not adapted.layers
    bare = load_base(adapted.plan)
    assert not torch.equal(probe_logits(adapted.model), probe_logits(bare))
    stored = load_file(trained[name].folder / "edgelora.safetensors")
    held = adapter_tensors(adapted.layers)
    assert all(torch.equal(stored[each], held[each]) for each in stored.keys() | held.keys())
    adapted.route(None)


@pytest.mark.parametrize("name", NAMES)
def test_taken_off_for_a_while_the_adapter_comes_back(trained, registry, tiny_base, name):
    adapted = load_adapted(str(trained[name].folder), registry, base=str(tiny_base))
    before = probe_logits(adapted.model)
    with taken_off(adapted.model, adapted.layers) as base:
        assert torch.equal(probe_logits(base), probe_logits(load_base(adapted.plan)))
        assert plain_linears(base).keys() == plain_linears(load_base(adapted.plan)).keys()
    assert torch.equal(probe_logits(adapted.model), before)


def test_a_model_of_transformers_is_adapted_in_place_and_left_as_it_was_where_that_fails(
    trained, registry, tiny_base, tmp_path
):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    before, modules = probe_logits(model), list(model.modules())
    damaged = tmp_path / "damaged"
    _copy_with(trained["shared-scale"].folder, damaged, {"scale": torch.zeros(7)})
    with pytest.raises(TensorsMismatch, match=r"scale of adapter run is \(7,\), and the base needs \(64,\)"):
        apply(model, str(damaged), registry)
    assert list(model.modules()) == modules and torch.equal(probe_logits(model), before)
    assert apply(model, str(trained["shared-scale"].folder), registry).model is model
    assert not torch.equal(probe_logits(model), before)


def test_parameters_that_others_replaced_are_put_back_where_applying_fails(
    recipe, registry, tiny_base, tmp_path
):
    from transformers import AutoModelForCausalLM

    result = run(recipe(derivative="full", adapter=None, evaluators=[], train={"max_steps": 1}), registry)
    _copy_with(result.folder, tmp_path / "damaged", {"model.norm.weight": torch.zeros(7)})
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    own = dict(model.named_parameters(remove_duplicate=False))
    with pytest.raises(TensorsMismatch):
        apply(model, str(tmp_path / "damaged"), registry)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == own.keys() and all(after[name] is own[name] for name in own)


def _copy_with(folder, copy, tensors):
    """The adapter directory with other weights, and a manifest that says so."""
    copy.mkdir()
    (copy / "README.md").write_bytes((folder / "README.md").read_bytes())
    save_file(tensors, copy / "edgelora.safetensors")
    files = tuple(describe_files(copy))
    manifest = read_manifest(folder / "edgelora.json").model_copy(
        update={
            "files": files,
            "tree_digest": tree_digest(files),
            "tensors": summarize_tensors(copy, files),
        }
    )
    (copy / "edgelora.json").write_bytes(manifest_bytes(manifest))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(recipe, registry, tmp_path, name):
    class StopAt2(QuietReporter):
        def step(self, record):
            if record["step"] == 2:
                import signal

                signal.raise_signal(signal.SIGTERM)

    whole_run = run(whole(recipe, name, out=str(tmp_path / "a")), registry)
    broken = whole(recipe, name, out=str(tmp_path / "b"))
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt2())
    resumed = run(broken, registry, resume=True)
    first, second = (load_file(each.folder / "edgelora.safetensors") for each in (whole_run, resumed))
    assert all(torch.equal(first[each], second[each]) for each in first.keys() | second.keys())


def test_gradient_checkpointing_changes_nothing(recipe, registry, tmp_path):
    plain = run(whole(recipe, "shared-scale", out=str(tmp_path / "a")), registry)
    train = {"gradient_checkpointing": True}
    saved = run(whole(recipe, "shared-scale", train=train, out=str(tmp_path / "b")), registry)
    scales = [load_file(each.folder / "edgelora.safetensors")["scale"] for each in (plain, saved)]
    assert torch.allclose(*scales, atol=1e-6)


def test_a_shared_parameter_is_trained_once(recipe, registry, tiny_base):
    plan = make_plan(whole(recipe, "shared-scale"), registry)
    layers = inject(load_base(plan), plan)
    assert [*trainable_parameters(layers)] == ["model.layers.0.mlp.scale"]


def test_merging_is_refused_with_the_alternative(trained, registry, tiny_base, tmp_path):
    adapted = load_adapted(str(trained["shared-scale"].folder), registry, base=str(tiny_base))
    with pytest.raises(
        ExportUnsupported, match="changes the model as a whole, and cannot be folded"
    ) as caught:
        merge(adapted, tmp_path / "merged")
    assert caught.value.fix == "apply the adapter unmerged: edgelora generate --adapter REF"
    assert not (tmp_path / "merged").exists()


def test_merging_a_product_of_peft_names_the_way_to_it(trained, registry, tiny_base, tmp_path):
    adapted = load_adapted(str(trained["shared-scale"].folder), registry, base=str(tiny_base))
    (component,) = adapted.manifest.components
    changes = {"config": {"peftSettings": {"peft_type": "VERA"}}, "files": ("adapter_model.safetensors",)}
    manifest = adapted.manifest.model_copy(update={"components": (component.model_copy(update=changes),)})
    with pytest.raises(ExportUnsupported) as caught:
        merge(replace(adapted, manifest=manifest), tmp_path / "merged")
    assert caught.value.fix.endswith(
        "edgelora export peft REF --out DIR, then edgelora adopt DIR, which is merged"
    )


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("no-module", PluginBug, "adapter 'no-module' returned NoneType for the model"),
        ("nothing-learns", PluginBug, "made a LlamaForCausalLM in which nothing learns"),
        ("too-wide", PlanError, "'too-wide' cannot adapt this LlamaForCausalLM: its width is 7"),
    ],
)
def test_what_an_adapter_does_wrong_is_said(recipe, registry, name, error, text):
    plan = make_plan(whole(recipe, name), registry)
    with pytest.raises(error, match=text):
        inject(load_base(plan), plan)


def test_its_memory_is_estimated_on_shapes(recipe, registry):
    from edgelora.engine.estimating.estimate import estimate

    plan = make_plan(whole(recipe, "shared-scale"), registry)
    assert estimate(plan).trainable == 64


def test_a_manifest_needs_no_target_modules_only_for_such_an_adapter(trained):
    document = json.loads((trained["shared-scale"].folder / "edgelora.json").read_text())
    assert "targetModules" not in document["components"][0]["config"]
