"""Adapters of every kind that stock PEFT saves: adopted with equal logits, or refused with the reason."""

from __future__ import annotations

import copy
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer
from transformers import AutoModelForCausalLM

from edgelora.engine.adopting import adopt
from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.errors import (
    BaseNotFound,
    EdgeloraError,
    MissingFile,
    NoEffect,
    NotAdoptable,
    OptionsError,
    TargetExists,
    TensorsMismatch,
    UnsafeFile,
    WrongBase,
)
from edgelora.verify import verify

LINEARS = ["q_proj", "v_proj", "down_proj"]
CAUSAL = {"task_type": "CAUSAL_LM"}


def lora(**changes):
    settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "target_modules": LINEARS} | CAUSAL
    return peft.LoraConfig(**settings | changes)


ADOPTED = {
    "lora": lora(),
    "lora-all-linear": lora(target_modules="all-linear", r=3),
    "lora-by-expression": lora(target_modules=r".*layers\.1\..*(q|k)_proj"),
    "rslora": lora(use_rslora=True),
    "patterns": lora(
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5},
        alpha_pattern={"layers.0.self_attn.v_proj": 32},
    ),
    "rslora-patterns": lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "dora": lora(use_dora=True),
    "dora-rslora-patterns": lora(use_dora=True, use_rslora=True, rank_pattern={"v_proj": 2}),
    "olora": lora(init_lora_weights="olora"),
    "pissa": lora(init_lora_weights="pissa"),
    "pissa-rslora": lora(init_lora_weights="pissa", use_rslora=True),
    "adalora": peft.AdaLoraConfig(
        init_r=6, target_r=3, lora_alpha=9, total_step=10, target_modules=LINEARS, **CAUSAL
    ),
    "loha": peft.LoHaConfig(r=3, alpha=5, target_modules=LINEARS, **CAUSAL),
    "loha-patterns": peft.LoHaConfig(
        r=3,
        alpha=5,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 7},
        target_modules=LINEARS,
        **CAUSAL,
    ),
    "lokr": peft.LoKrConfig(r=2, alpha=5, target_modules=LINEARS, **CAUSAL),
    "lokr-both": peft.LoKrConfig(r=2, alpha=5, decompose_both=True, target_modules=LINEARS, **CAUSAL),
    "lokr-factor": peft.LoKrConfig(r=8, alpha=5, decompose_factor=4, target_modules=LINEARS, **CAUSAL),
    "vera": peft.VeraConfig(r=16, target_modules=["q_proj", "down_proj"], **CAUSAL),
}
REFUSED = {
    "loha-of-high-rank": (peft.LoHaConfig(r=9, target_modules=LINEARS, **CAUSAL), "has the rank 81"),
    "lora-biases": (lora(bias="lora_only"), "bias='lora_only' changes biases"),
    "lora-bias-of-b": (lora(lora_bias=True), "lora_bias=True"),
    "modules-to-save": (lora(modules_to_save=["lm_head"]), "replaces lm_head as a whole"),
    "embeddings": (lora(target_modules=["embed_tokens", "q_proj"]), "adapts the embedding"),
    "head": (lora(target_modules=["lm_head", "q_proj"]), "lm_head"),
    "new-tokens": (lora(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "pissa-approximate": (lora(init_lora_weights="pissa_niter_4"), "may change the base itself"),
    "vera-without-projection": (
        peft.VeraConfig(r=16, save_projection=False, target_modules=["q_proj"], **CAUSAL),
        "shared matrices were not saved",
    ),
    "ia3": (
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL),
        "scales activations",
    ),
    "hira": (peft.HiraConfig(r=4, target_modules=LINEARS, **CAUSAL), "of full rank"),
    "oft": (
        peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"], **CAUSAL),
        "turns the base's weight",
    ),
    "boft": (
        peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"], **CAUSAL),
        "turns the base's weight",
    ),
    "hra": (peft.HRAConfig(r=4, target_modules=["q_proj"], **CAUSAL), "reflects the base's weight"),
    "ln-tuning": (peft.LNTuningConfig(target_modules=["input_layernorm"], **CAUSAL), "changes norms"),
    "fourierft": (
        peft.FourierFTConfig(n_frequency=20, target_modules=["q_proj"], **CAUSAL),
        "no layer that computes",
    ),
    "vblora": (
        peft.VBLoRAConfig(r=4, num_vectors=8, vector_length=16, target_modules=["q_proj"], **CAUSAL),
        "no layer that computes",
    ),
    "randlora": (peft.RandLoraConfig(r=4, target_modules=["q_proj"], **CAUSAL), "no layer that computes"),
    "c3a": (peft.C3AConfig(block_size=16, target_modules=["q_proj"], **CAUSAL), "no layer that computes"),
    "trainable-tokens": (peft.TrainableTokensConfig(token_indices=[1, 2], **CAUSAL), "changes embeddings"),
    "prompt-tuning": (
        peft.PromptTuningConfig(num_virtual_tokens=4, **CAUSAL),
        "trained tokens before the prompt",
    ),
    "prefix-tuning": (peft.PrefixTuningConfig(num_virtual_tokens=4, **CAUSAL), "trained keys and values"),
    "p-tuning": (
        peft.PromptEncoderConfig(num_virtual_tokens=4, **CAUSAL),
        "trained tokens before the prompt",
    ),
}


@pytest.fixture(scope="module")
def base_logits(tiny_base):
    return probe_logits(AutoModelForCausalLM.from_pretrained(tiny_base))


def saved(tiny_base, config, folder):
    """What stock PEFT saves of an adapter with random numbers, and the logits it gives when it is loaded."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                spread = 0.1 * parameter.abs().mean() if "magnitude" in name else 0.1
                parameter.add_(spread * torch.randn(parameter.shape))
    adapted.save_pretrained(folder)
    if config.is_prompt_learning:
        return None
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), folder).eval()
    return probe_logits(loaded)


@pytest.mark.parametrize("name", ADOPTED)
def test_an_adapter_is_adopted_with_the_logits_stock_peft_gives(
    name, tiny_base, base_logits, registry, tmp_path
):
    expected = saved(tiny_base, ADOPTED[name], tmp_path / "source")
    assert (expected - base_logits).abs().max() > 1e-2, "it has an effect to lose"
    done = adopt(tmp_path / "source", registry, tmp_path / "out")
    assert verify(done.folder) == []
    adapted = load_adapted(str(done.folder), registry, dtype="float32", device=torch.device("cpu"))
    assert (probe_logits(adapted.model) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert [origin.relation for origin in done.manifest.derived_from] == ["adopted"]
    again = AutoModelForCausalLM.from_pretrained(tiny_base)
    stock = probe_logits(peft.PeftModel.from_pretrained(again, done.folder).eval())
    assert (stock - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), (
        "stock PEFT reads it as well"
    )


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_is_refused_with_the_reason(name, tiny_base, registry, tmp_path):
    config, reason = REFUSED[name]
    saved(tiny_base, config, tmp_path / "source")
    with pytest.raises(EdgeloraError) as caught:
        adopt(tmp_path / "source", registry, tmp_path / "out")
    assert isinstance(caught.value, NotAdoptable) and reason in caught.value.problem, caught.value
    assert (caught.value.id, caught.value.exit_code) == ("not-adoptable", 7)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["olora", "pissa"])
def test_an_adapter_that_was_converted_when_it_was_saved_is_plain(start, tiny_base, registry, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    adapted = peft.get_peft_model(model, lora(init_lora_weights=start))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    expected = probe_logits(adapted.eval())
    adapted.save_pretrained(
        tmp_path / "source", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    done = adopt(tmp_path / "source", registry, tmp_path / "out")
    computed = probe_logits(load_adapted(str(done.folder), registry, dtype="float32").model)
    assert (computed - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


@pytest.fixture(scope="module")
def plain(tiny_base, tmp_path_factory):
    """A plain LoRA adapter that stock PEFT saved, with a card and a licence."""
    folder = tmp_path_factory.mktemp("adopting") / "Sensor Reader v2"
    saved(tiny_base, lora(), folder)
    front = "---\nlicense: apache-2.0\nlanguage: [en, id, not a tag]\nauthor: Ana\n---\n# Sensors\n"
    (folder / "README.md").write_text(front)
    (folder / "LICENSE").write_text("Apache License 2.0")
    return folder


@pytest.fixture
def source(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "Sensor Reader v2")


def configured(source, **changes):
    path = source / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_card_licence_author_and_languages_are_kept(source, registry, tmp_path):
    manifest = adopt(source, registry, tmp_path / "out", name="acme/sensors@1.2.0").manifest
    assert (manifest.publisher, manifest.license, manifest.languages) == ("Ana", "Apache-2.0", ("en", "id"))
    assert manifest.license_files == ("LICENSE",)
    identity = manifest.identity
    assert (identity.namespace, identity.name, identity.version) == ("acme", "sensors", "1.2.0")
    assert (tmp_path / "out/README.md").read_text() == (source / "README.md").read_text()
    assert (tmp_path / "out/LICENSE").read_text() == "Apache License 2.0"


def test_without_a_name_it_is_called_as_its_folder(source, registry, tmp_path):
    identity = adopt(source, registry, tmp_path / "out").manifest.identity
    assert (identity.namespace, identity.name) == ("local", "sensor-reader-v2")


@pytest.mark.parametrize(
    ("front", "license"),
    [
        ("license: mit", "MIT"),
        ("license: llama3.1", "LicenseRef-llama3.1"),
        ("license: other\nlicense_name: Acme Internal 2", "LicenseRef-Acme-Internal-2"),
        ("language: en", "LicenseRef-unspecified"),
        ("license: [unclosed", "LicenseRef-unspecified"),
    ],
)
def test_a_licence_becomes_an_spdx_expression(source, registry, tmp_path, front, license):
    (source / "README.md").write_text(f"---\n{front}\n---\n")
    assert adopt(source, registry, tmp_path / "out").manifest.license == license


def test_a_given_licence_wins_and_must_be_an_expression(source, registry, tmp_path):
    with pytest.raises(OptionsError, match="is not an SPDX licence expression"):
        adopt(source, registry, tmp_path / "out", license="mine")
    assert adopt(source, registry, tmp_path / "out", license="mit").manifest.license == "MIT"


def test_tensors_keep_their_dtype_where_nothing_is_computed(source, registry, tmp_path):
    weights = source / "adapter_model.safetensors"
    halved = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(halved, weights)
    done = adopt(source, registry, tmp_path / "out")
    assert done.manifest.components[0].dtype == "BF16"
    kept = load_file(tmp_path / "out/adapter_model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in halved.items())


def test_a_pickle_is_refused_with_the_way_out(source, registry, tmp_path):
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    with pytest.raises(UnsafeFile, match="is a pickle, which can run any code") as caught:
        adopt(source, registry, tmp_path / "out")
    assert "safe_serialization=True" in caught.value.fix


def test_another_base_than_the_one_that_is_named_and_here_is_refused(source, registry, tmp_path, tiny_base):
    save_tokenizer(tmp_path / "other")
    save_llama(tmp_path / "other", seed=1)
    with pytest.raises(WrongBase, match=r"names the base .* whose weights have the digest") as caught:
        adopt(source, registry, tmp_path / "out", base=str(tmp_path / "other"))
    assert caught.value.fix.startswith("leave --base out")
    # Where the named one is nowhere, the user's word is all there is.
    configured(source, base_model_name_or_path="/nowhere/at/all")
    assert adopt(source, registry, tmp_path / "out", base=str(tiny_base)).manifest.base.tensors_digest


def test_an_adapter_without_an_effect_is_refused(source, registry, tmp_path):
    weights = source / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(NoEffect, match="changes no output of the base"):
        adopt(source, registry, tmp_path / "out")


def test_a_base_that_is_not_here_is_asked_for(source, tiny_base, registry, tmp_path):
    configured(source, base_model_name_or_path="/gone/base")
    with pytest.raises(BaseNotFound):
        adopt(source, registry, tmp_path / "out")
    configured(source, base_model_name_or_path=None)
    with pytest.raises(BaseNotFound, match="does not name its base model"):
        adopt(source, registry, tmp_path / "out")
    assert adopt(source, registry, tmp_path / "out", base=str(tiny_base)).difference < 1e-4


def test_another_base_is_refused_where_shapes_differ(source, registry, tmp_path):
    save_llama(tmp_path / "other", hidden_size=32)
    configured(source, base_model_name_or_path="/nowhere/at/all")
    with pytest.raises(TensorsMismatch, match="make a product of") as caught:
        adopt(source, registry, tmp_path / "out", base=str(tmp_path / "other"))
    assert "--base" in caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"some_new_setting": 3}, {"kasa_config": {"x": 1}}, {"init_lora_weights": "lora_ga"}, {"use_qalora": 1},
     {"peft_type": "TELEPATHY"}, {"target_parameters": ["experts.w"]}, {"arrow_config": {"k": 1}}],
)  # fmt: skip
def test_a_setting_nobody_knows_is_refused(source, registry, tmp_path, changes):
    configured(source, **changes)
    with pytest.raises(NotAdoptable):
        adopt(source, registry, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"peft_type": 3}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(source, registry, tmp_path, text):
    (source / "adapter_config.json").write_text(text)
    with pytest.raises(NotAdoptable):
        adopt(source, registry, tmp_path / "out")


def test_what_is_not_there_or_in_the_way_is_named(source, registry, tmp_path):
    with pytest.raises(TargetExists):
        adopt(source, registry, tmp_path)
    (source / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingFile, match=r"holds no adapter_model\.safetensors"):
        adopt(source, registry, tmp_path / "out")
    with pytest.raises(MissingFile, match=r"holds no adapter_config\.json"):
        adopt(tmp_path / "gone", registry, tmp_path / "out")


@pytest.mark.parametrize("damage", ["vector", "cube", "rank", "renamed", "more"])
def test_tensors_that_make_no_product_are_refused(source, registry, tmp_path, damage):
    weights = source / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensor = tensors.pop(name)
    changed = {
        "vector": {name: tensor[0]},
        "cube": {name: tensor[None]},
        "rank": {name: tensor[:2]},
        "renamed": {name.replace("lora_A", "lora_C"): tensor},
        "more": {name: tensor, name.replace("lora_A", "lora_new"): tensor},
    }
    save_file({key: each.clone() for key, each in (tensors | changed[damage]).items()}, weights)
    with pytest.raises((NotAdoptable, TensorsMismatch)):
        adopt(source, registry, tmp_path / "out")


def other_base(kind, folder):
    """A tiny model whose linears have biases, or that has none at all."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    if kind == "qwen2":
        sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    model.save_pretrained(folder)
    save_tokenizer(folder)


@pytest.mark.parametrize("name", ["rslora", "dora", "pissa", "adalora"])
def test_linears_with_biases_keep_them(name, registry, tmp_path):
    other_base("qwen2", tmp_path / "qwen2")
    expected = saved(tmp_path / "qwen2", ADOPTED[name], tmp_path / "source")
    done = adopt(tmp_path / "source", registry, tmp_path / "out")
    computed = probe_logits(load_adapted(str(done.folder), registry, dtype="float32").model)
    assert (computed - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize("name", ["rslora", "dora", "pissa", "adalora"])
def test_linears_that_store_their_weights_turned_are_adopted(name, registry, tmp_path):
    other_base("gpt2", tmp_path / "gpt2")
    config = copy.deepcopy(ADOPTED[name])
    config.target_modules, config.fan_in_fan_out = {"c_attn", "c_proj"}, True
    expected = saved(tmp_path / "gpt2", config, tmp_path / "source")
    done = adopt(tmp_path / "source", registry, tmp_path / "out")
    computed = probe_logits(load_adapted(str(done.folder), registry, dtype="float32").model)
    assert (computed - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


def test_a_start_that_peft_takes_out_the_wrong_way_is_refused(registry, tmp_path):
    other_base("gpt2", tmp_path / "gpt2")
    saved(tmp_path / "gpt2", lora(target_modules=["attn.c_proj"], fan_in_fan_out=True), tmp_path / "source")
    configured(tmp_path / "source", init_lora_weights="olora")
    with pytest.raises(NotAdoptable, match=r"c_proj stores its weight as \(in, out\), and PEFT starts"):
        adopt(tmp_path / "source", registry, tmp_path / "out")


def test_adalora_with_pruned_components_keeps_the_scale_it_was_trained_with(tiny_base, registry, tmp_path):
    torch.manual_seed(0)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), ADOPTED["adalora"])
    pattern = {}
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            if ".lora_E." in name:
                kept = torch.arange(len(parameter)) % 3 != len(pattern) % 3
                parameter[~kept] = 0
                pattern[name.removeprefix("base_model.model.")] = kept.tolist()
    adapted.peft_config["default"].rank_pattern = pattern
    adapted.save_pretrained(tmp_path / "source")
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "source"
    )
    expected = probe_logits(loaded.eval())
    done = adopt(tmp_path / "source", registry, tmp_path / "out")
    assert done.manifest.components[0].config["r"] == 4, "two of six components were pruned"
    computed = probe_logits(load_adapted(str(done.folder), registry, dtype="float32").model)
    assert (computed - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
