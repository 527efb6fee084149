"""A packed adapter means the same everywhere: here, in a fresh model, in stock PEFT, merged."""

import json
import shutil

import pytest
import torch
from adapter_folders import repack
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer
from transformers import AutoModelForCausalLM

from edgelora.engine.analysis import published_factors
from edgelora.engine.apply import apply, load_adapted, probe_logits
from edgelora.engine.base import load_base
from edgelora.engine.exporting.source import open_source
from edgelora.engine.manifest_plan import plan_of
from edgelora.engine.merge import merge
from edgelora.engine.serving import load_adapters
from edgelora.errors import (
    BaseNotFound,
    DigestMismatch,
    ExportUnsupported,
    FeatureRequired,
    NoEffect,
    PlanError,
    PluginMissing,
    TargetExists,
    TensorsMismatch,
    WrongBase,
)
from edgelora.known_bases import remember_base
from edgelora.layers import FrozenLinear, LowRankLinear, QuantizedLinear
from edgelora.manifest import MANIFEST_NAME, Runtime, read_manifest
from edgelora.manifest.base_identity import identify_base
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora.verify import check, verify

PROBE = torch.arange(40).view(2, 20)

ADAPTERS = {
    "lora": {"derivative": "lora"},
    "dora": {"derivative": "dora", "adapter": {"rank": 4}},
    "qdora": {"derivative": "qdora", "adapter": {"rank": 4}},
    "hira": {"derivative": "hira", "adapter": {"rank": 4}},
    "qhira": {"derivative": "hira", "quantizer": "nf4", "adapter": {"rank": 4}},
    "qdylora": {"derivative": "qdylora", "adapter": {"rank": 4}},
    "olora": {"derivative": "olora", "adapter": {"rank": 4}},
    "adalora": {
        "derivative": "adalora",
        "adapter": {"rank": 6},
        "rank_scheduler": {"target_rank": 2, "warmup_steps": 0, "final_steps": 1, "every": 1},
    },
    "mtlora": {"derivative": "mtlora", "adapter": {"rank": 4, "task_rank": 2}},
    "iec": {"derivative": "irqlora", "quantizer": "nf4", "adapter": {"rank": 4}},
    "rslora": {"derivative": "rslora", "adapter": {"rank": 8}},
    "qlora": {"derivative": "qlora", "quantizer": {"double_quantization": False}},
    "fp4": {"derivative": "qlora", "quantizer": "fp4"},
    # Published with rank 40, were it not for k_proj, which is 32 wide.
    "wide": {"derivative": "olora", "adapter": {"rank": 20}},
    "patterns": {
        "derivative": "qlora",
        "adapter": {
            "rank": 4,
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.mlp.up_proj": 3.3},
            "exclude_modules": ["layers.0.mlp.down_proj"],
        },
    },
}


@pytest.fixture(scope="module")
def trained(tiny_base, rows, registry, tmp_path_factory):
    """Every adapter of ADAPTERS, trained for a few steps and packed, by name."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"max_steps": 4, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1}
    document = {"base": str(tiny_base), "data": [{"path": str(rows)}], "train": settings, "evaluators": []}
    return {
        name: run(make_recipe(document | changes | {"out": str(folder / name)}), registry).folder
        for name, changes in ADAPTERS.items()
    }


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ADAPTERS)
def test_stock_peft_computes_the_same_on_the_same_base(trained, tiny_base, registry, name):
    from peft import PeftModel

    adapted = load_adapted(str(trained[name]), registry, base=str(tiny_base))
    reference = AutoModelForCausalLM.from_pretrained(tiny_base)
    for site, module in load_base(adapted.plan).named_modules():
        if isinstance(module, FrozenLinear):
            reference.get_submodule(site).weight.data = module.dequantize()
    bare = reference(PROBE).logits.detach()
    stock = PeftModel.from_pretrained(reference, str(trained[name]))(PROBE).logits
    ours = adapted.model(PROBE).logits.detach()
    assert float((ours - bare).abs().max()) > 1e-2
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_packed_adapter_verifies_and_names_its_parts(trained, name):
    assert verify(trained[name]) == []
    manifest = read_manifest(trained[name] / MANIFEST_NAME)
    quantizer = manifest.components[0].parts["quantizer"].name
    over_four_bits = {"qlora", "qdora", "iec", "patterns", "qhira", "qdylora"}
    assert quantizer == ("fp4" if name == "fp4" else "nf4" if name in over_four_bits else "none")


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_applying_to_a_model_of_transformers_equals_loading(trained, tiny_base, registry, name):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    layers = apply(model, str(trained[name]), registry)
    adapted = load_adapted(str(trained[name]), registry, base=str(tiny_base))
    assert torch.equal(model(PROBE).logits, adapted.model(PROBE).logits)
    assert layers.keys() == adapted.layers.keys()


@pytest.mark.parametrize("name", ["lora", "qlora", "patterns", "dora", "adalora"])
def test_a_merged_model_computes_the_same_without_edgelora(trained, tiny_base, registry, tmp_path, name):
    adapted = load_adapted(str(trained[name]), registry, base=str(tiny_base))
    expected = adapted.model(PROBE).logits
    merged = merge(adapted, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(merged.folder)
    assert float((plain(PROBE).logits - expected).abs().max()) < 1e-4
    assert merged.largest_difference < 1e-4
    with pytest.raises(TargetExists, match="exists already"):
        merge(adapted, tmp_path / "merged")


def test_merging_to_sixteen_bits_reports_the_rounding(trained, tiny_base, registry, tmp_path):
    adapted = load_adapted(str(trained["qlora"]), registry, base=str(tiny_base))
    merged = merge(adapted, tmp_path / "merged", torch.bfloat16)
    tensors = load_file(merged.folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert 0 < merged.largest_difference < 0.5


def test_the_base_is_found_where_it_was_trained(trained, tiny_base, registry):
    remember_base(identify_base(tiny_base), tiny_base)
    assert load_adapted(str(trained["lora"]), registry).plan.recipe.base == str(tiny_base)


def test_a_base_that_is_nowhere_asks_for_its_folder(trained, tiny_base, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path))
    with pytest.raises(BaseNotFound, match=f"the adapter's base '{tiny_base.name}' is neither") as caught:
        load_adapted(str(trained["lora"]), registry)
    assert "--base FOLDER" in caught.value.fix


def test_a_resharded_and_renamed_base_is_the_same_base(trained, tiny_base, registry, tmp_path):
    folder = tmp_path / "other-name"
    save_tokenizer(folder)
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(folder, max_shard_size="100KB")
    one = load_adapted(str(trained["qlora"]), registry, base=str(folder))
    two = load_adapted(str(trained["qlora"]), registry, base=str(tiny_base))
    assert torch.equal(one.model(PROBE).logits, two.model(PROBE).logits)


def test_another_base_of_the_same_shape_is_refused(trained, tiny_base, registry, tmp_path):
    save_tokenizer(tmp_path)
    save_llama(tmp_path, seed=1)
    with pytest.raises(
        WrongBase, match=f"was trained on {tiny_base.name} with weight set of digest"
    ) as caught:
        load_adapted(str(trained["lora"]), registry, base=str(tmp_path))
    assert caught.value.exit_code == 7
    with pytest.raises(WrongBase):
        apply(AutoModelForCausalLM.from_pretrained(tmp_path), str(trained["lora"]), registry)


def test_another_tokenizer_is_refused(trained, tiny_base, registry, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    save_tokenizer(folder, eos_token="<end>")
    with pytest.raises(WrongBase, match=r"the tokenizer in .* has sha256:"):
        load_adapted(str(trained["lora"]), registry, base=str(folder))


def test_an_adapter_without_effect_is_refused(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = {n: t.zero_() if "lora_B" in n else t for n, t in load_file(path).items()}
    save_file(tensors, path)
    repack(folder)
    with pytest.raises(NoEffect, match="changes no output of the base"):
        load_adapted(str(folder), registry, base=str(tiny_base))
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    before = model(PROBE).logits
    with pytest.raises(NoEffect):
        apply(model, str(folder), registry)
    assert torch.equal(model(PROBE).logits, before)
    assert not any(isinstance(module, LowRankLinear) for module in model.modules())


def test_a_missing_tensor_is_named(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
    save_file(tensors, path)
    repack(folder)
    with pytest.raises(TensorsMismatch, match=r"lacks the tensor 'model\.layers\.0\.mlp\.up_proj\.lora_A'"):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_a_tensor_of_another_shape_is_named(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    tensors[name] = tensors[name][:, :2].contiguous()
    save_file(tensors, path)
    repack(folder)
    with pytest.raises(TensorsMismatch, match=r"up_proj\.lora_A of adapter lora is \([0-9]+, 2\)"):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_a_missing_plugin_says_what_to_install(trained, tiny_base, registry, tmp_path):
    manifest = read_manifest(copy_of(trained["qlora"], tmp_path) / MANIFEST_NAME)
    (component,) = manifest.components
    quantizer = component.parts["quantizer"].model_copy(
        update={"plugin": "gone", "distribution": "edgelora-gone", "version": "2.1"}
    )
    parts = {**component.parts, "quantizer": quantizer}
    repack(tmp_path / "copy", components=(component.model_copy(update={"parts": parts}),))
    with pytest.raises(PluginMissing, match="quantizer 'nf4' of plugin 'gone'") as caught:
        load_adapted(str(tmp_path / "copy"), registry, base=str(tiny_base))
    assert caught.value.fix == "pip install 'edgelora-gone>=2.1'"


def test_a_plugin_that_is_there_and_unwanted_is_not_installed_again(trained, tiny_base, monkeypatch):
    monkeypatch.setenv("EDGELORA_BLOCK", "qlora")
    with pytest.raises(PluginMissing, match="qlora") as caught:
        load_adapted(str(trained["qlora"]), Registry.discover(), base=str(tiny_base))
    assert caught.value.fix == "remove qlora from EDGELORA_BLOCK"


def test_an_adapter_over_skipped_modules_is_rebuilt_over_them(tiny_base, rows, registry, tmp_path):
    settings = {"max_steps": 2, "learning_rate": 1e-2, "threads": 1}
    document = {
        "derivative": "qlora",
        "base": str(tiny_base),
        "skip_modules": ["down_proj"],
        "data": [{"path": str(rows)}],
        "train": settings,
        "out": str(tmp_path / "run"),
        "evaluators": [],
    }
    folder = run(make_recipe(document), registry).folder
    adapted = load_adapted(str(folder), registry, base=str(tiny_base))
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    apply(model, str(folder), registry)
    for each in (adapted.model, model):
        block = each.model.layers[0].mlp
        assert isinstance(block.up_proj.base, QuantizedLinear)
        assert not isinstance(block.down_proj.base, QuantizedLinear)
    assert torch.equal(model(PROBE).logits, adapted.model(PROBE).logits)


def test_a_failed_application_gives_the_model_back_unquantized(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["qlora"], tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = {n: t.zero_() if "lora_B" in n else t for n, t in load_file(path).items()}
    save_file(tensors, path)
    repack(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    before = model(PROBE).logits
    with pytest.raises(NoEffect):
        apply(model, str(folder), registry)
    assert torch.equal(model(PROBE).logits, before)


@pytest.mark.parametrize("name", ["lora", "qlora"])
@pytest.mark.parametrize("change", ["no effect", "a tensor lost", "no such linear"])
def test_a_refused_adapter_leaves_the_model_as_it_was_found(
    trained, tiny_base, registry, tmp_path, name, change
):
    folder = copy_of(trained[name], tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = {n: t.zero_() if "lora_B" in n else t for n, t in load_file(path).items()}
    if change == "a tensor lost":
        tensors.popitem()
    save_file(tensors, path)
    repack(folder)
    if change == "no such linear":
        (component,) = read_manifest(folder / MANIFEST_NAME).components
        targets = (*component.config["targetModules"], "model.layers.9.mlp.up_proj")
        config = {**component.config, "targetModules": list(targets)}
        repack(folder, components=(component.model_copy(update={"config": config}),))
    model = AutoModelForCausalLM.from_pretrained(tiny_base).train()
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[0].mlp.eval()

    def state():
        modules = [(name, module, module.training) for name, module in model.named_modules()]
        return modules, [(name, id(each), each.requires_grad) for name, each in model.named_parameters()]

    before = state()
    with pytest.raises((NoEffect, TensorsMismatch, PlanError)):
        apply(model, str(folder), registry)
    assert state() == before


def test_weights_changed_after_the_check_are_refused(trained, tiny_base, registry, tmp_path, monkeypatch):
    folder = copy_of(trained["lora"], tmp_path)

    def check_then_change(path):
        manifest = check(path)
        weights = path / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
        return manifest

    monkeypatch.setattr("edgelora.engine.apply.check_trusted", check_then_change)
    with pytest.raises(DigestMismatch):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_an_adapter_for_another_edgelora_says_which(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    repack(folder, runtime=Runtime(edgelora=">=7,<8"))
    with pytest.raises(FeatureRequired, match=r"needs edgelora <8,>=7|needs edgelora >=7,<8"):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_a_manifest_without_targets_is_refused(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    (component,) = read_manifest(folder / MANIFEST_NAME).components
    config = {name: value for name, value in component.config.items() if name != "targetModules"}
    repack(folder, components=(component.model_copy(update={"config": config}),))
    with pytest.raises(TensorsMismatch, match="does not say which linears it adapts"):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_an_option_cannot_pose_as_the_name_of_a_part(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["qlora"], tmp_path)
    (component,) = read_manifest(folder / MANIFEST_NAME).components
    quantizer = component.parts["quantizer"]
    posing = quantizer.model_copy(update={"options": quantizer.options | {"name": "elsewhere:evil"}})
    repack(
        folder, components=(component.model_copy(update={"parts": component.parts | {"quantizer": posing}}),)
    )
    plan = plan_of(read_manifest(folder / MANIFEST_NAME), registry, base=str(tiny_base), dtype="auto")
    assert plan.parts["quantizer"].plugin == "qlora"


def test_a_layer_whose_factors_are_not_its_forward_is_not_written_for_peft(
    recipe, registry, tiny_base, monkeypatch
):
    class Bent(LowRankLinear):
        def delta(self, x):
            return torch.tanh(super().delta(x))

    monkeypatch.setattr("edgelora_plugins.lora.layer.LowRankLinear", Bent)
    folder = run(recipe({"max_steps": 2}), registry).folder
    assert (folder / "edgelora.safetensors").exists()
    assert not (folder / "adapter_config.json").exists()
    adapted = load_adapted(str(folder), registry, base=str(tiny_base))
    with pytest.raises(ExportUnsupported, match="are not what its forward computes"):
        merge(adapted, folder.parent / "merged")


def test_several_components_are_refused(trained, tiny_base, registry, tmp_path):
    folder = copy_of(trained["lora"], tmp_path)
    (component,) = read_manifest(folder / MANIFEST_NAME).components
    repack(folder, components=(component, component.model_copy(update={"id": "second"})))
    with pytest.raises(FeatureRequired, match="has 2 components"):
        load_adapted(str(folder), registry, base=str(tiny_base))


def test_a_component_that_is_scaled_is_refused_by_all_who_read_adapters(
    trained, tiny_base, registry, tmp_path
):
    folder = copy_of(trained["lora"], tmp_path)
    (component,) = read_manifest(folder / MANIFEST_NAME).components
    repack(folder, components=(component.model_copy(update={"scale": "0.5"}),))
    for read in (
        lambda: load_adapted(str(folder), registry, base=str(tiny_base)),
        lambda: load_adapters({"a": str(folder)}, registry, base=str(tiny_base)),
        lambda: published_factors(str(folder)),
        lambda: open_source(str(folder)),
    ):
        with pytest.raises(FeatureRequired, match=r"has a scale of 0\.5, and this edgelora reads none but 1"):
            read()
    repack(folder, components=(component.model_copy(update={"scale": "1.0"}),))
    assert published_factors(str(folder))


def test_the_card_names_base_library_and_measurements(trained, tiny_base):
    card = (trained["qlora"] / "README.md").read_text()
    assert f"base_model: {tiny_base.name}\n" in card
    assert "library_name: peft" in card
    config = json.loads((trained["rslora"] / "adapter_config.json").read_text())
    # rsLoRA's alpha / √rank, spelled as alpha / rank for readers that know no other rule.
    assert config["use_rslora"] is False
    assert config["lora_alpha"] == pytest.approx(16 / 8**0.5 * 8)


def test_the_probe_covers_the_vocabulary(tiny_base):
    assert probe_logits(AutoModelForCausalLM.from_pretrained(tiny_base)).shape == (8, 320)


def test_an_applied_adapter_drops_nothing_out(recipe, registry, tiny_base):
    # DoRA is rebuilt by its own layers, with the dropout it was trained with.
    changes = {"derivative": "dora", "adapter": {"rank": 4, "dropout": 0.5}}
    folder = run(recipe({"max_steps": 2}, **changes), registry).folder
    adapted = load_adapted(str(folder), registry, base=str(tiny_base))
    assert not any(module.training for module in adapted.model.modules())
    assert torch.equal(probe_logits(adapted.model), probe_logits(adapted.model))
