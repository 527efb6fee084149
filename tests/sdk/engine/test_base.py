"""Bases are found offline and quantized while they are read."""

import json
import shutil

import pytest
import torch
from tiny_models import save_llama, save_tokenizer
from transformers import AutoModelForCausalLM, PhimoeConfig, PhimoeForCausalLM

from edgelora.engine.base import load_base, load_tokenizer, locate_base, resolve_dtype
from edgelora.engine.inject import inject, unreachable_parameters
from edgelora.engine.linears import is_linear
from edgelora.errors import BaseNotFound, ModelError, OfflineNotCached, PlanError, TensorFileError
from edgelora.layers import FrozenLinear, QuantizedLinear

PROBE = torch.arange(12)[None]


def test_an_unquantized_base_gives_the_logits_of_transformers(plan, tiny_base):
    model = load_base(plan())
    reference = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert torch.equal(model(PROBE).logits, reference(PROBE).logits)


def test_every_linear_but_the_head_is_frozen_and_nothing_trains(plan):
    model = load_base(plan())
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert not isinstance(linears.pop("lm_head"), FrozenLinear)
    assert len(linears) == 14
    assert all(isinstance(linear, FrozenLinear) for linear in linears.values())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_quantized_base_computes_with_its_dequantized_weights(plan, tiny_base):
    model = load_base(plan(derivative="qlora"))
    reference = AutoModelForCausalLM.from_pretrained(tiny_base)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            reference.get_submodule(name).weight.data = module.dequantize()
    assert torch.allclose(model(PROBE).logits, reference(PROBE).logits, atol=1e-5)


def test_skipped_modules_stay_as_they_are(plan):
    model = load_base(plan(derivative="qlora", skip_modules=["down_proj"]))
    kinds = {n.rpartition(".")[2]: isinstance(m, QuantizedLinear) for n, m in model.named_modules()}
    assert kinds["q_proj"]
    assert not kinds["down_proj"]


@pytest.mark.parametrize("quantizer", ["none", "nf4"])
def test_a_router_of_experts_is_left_as_it_is(plan, tmp_path, quantizer):
    """It is a linear by its class, and answers with the experts it chose."""
    folder = tmp_path / "base"
    save_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    PhimoeForCausalLM(PhimoeConfig(**sizes, **heads)).save_pretrained(folder)
    model = load_base(plan(base=str(folder), quantizer=quantizer))
    logits = model(PROBE).logits
    if quantizer == "none":
        assert torch.equal(logits, AutoModelForCausalLM.from_pretrained(folder)(PROBE).logits)
    layers = inject(model, plan(base=str(folder), quantizer=quantizer))
    assert layers
    assert not any(name.endswith("router") for name in layers)
    assert any("router" in name for name in unreachable_parameters(model, layers))


class Scaled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Written(torch.nn.Linear):
    def forward(self, x):
        return x @ self.weight.T + self.bias


@pytest.mark.parametrize(("kind", "is_one"), [(Scaled, False), (Written, True), (torch.nn.Linear, True)])
def test_a_subclass_is_a_linear_if_it_computes_one(kind, is_one):
    assert is_linear(kind(8, 4)) == is_one


@pytest.mark.parametrize("tied", [True, False])
def test_sixteen_bit_shards_with_biases_load(plan, tmp_path, tied):
    folder = tmp_path / "base"
    save_tokenizer(folder)
    save_llama(folder, dtype="bfloat16", attention_bias=True, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    model = load_base(plan(base=str(folder), train={"dtype": "bfloat16"}))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(model(PROBE).logits, reference(PROBE).logits)
    assert model.model.layers[0].self_attn.q_proj.bias is not None


def test_a_hub_id_is_found_in_the_cache_only(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--acme--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate_base("acme/tiny") == snapshot


@pytest.mark.parametrize("name", ["./absent", "/absent/folder", "absent"])
def test_a_base_that_is_nowhere_is_named_with_the_next_step(name):
    with pytest.raises(BaseNotFound, match=name) as caught:
        locate_base(name)
    assert "'micro'" in caught.value.fix


def test_a_hub_id_that_was_never_downloaded_says_how():
    with pytest.raises(OfflineNotCached, match="'acme/absent' is not in the Hub's cache") as caught:
        locate_base("acme/absent")
    assert caught.value.exit_code == 9
    assert caught.value.fix.endswith("hf download acme/absent")


def test_codes_of_a_quantized_base_do_not_depend_on_the_dtype_it_is_computed_in(plan):
    models = [
        load_base(plan(derivative="qlora", train={"dtype": dtype})) for dtype in ("float32", "bfloat16")
    ]
    first, second = (model.model.layers[0].mlp.up_proj for model in models)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.absmax, second.absmax)
    assert models[1].model.embed_tokens.weight.dtype == torch.bfloat16
    assert models[1].model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_skipped_module_that_is_none_is_refused(plan):
    with pytest.raises(PlanError, match="skip_modules: 'dwn_proj' names no linear") as caught:
        load_base(plan(derivative="qlora", skip_modules=["dwn_proj"]))
    assert caught.value.fix == "did you mean 'down_proj'?"


AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModelForCausalLM": "evil.M",
    "AutoTokenizer": ["evil.T", "evil.T"],
}


@pytest.fixture
def evil(tiny_base, tmp_path, monkeypatch):
    """A function that makes a base whose configurations bring code, and say that it is to be trusted."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    def make(**config):
        folder = shutil.copytree(tiny_base, tmp_path / "evil")
        for name in ("config.json", "tokenizer_config.json"):
            document = json.loads((folder / name).read_text()) | {
                "auto_map": AUTO_MAP,
                "trust_remote_code": True,
            }
            (folder / name).write_text(json.dumps(document | (config if name == "config.json" else {})))
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        return folder

    return make


def test_code_in_a_base_of_an_unknown_type_never_runs_and_nobody_is_asked(plan, evil, tmp_path):
    folder = evil(model_type="evil")
    with pytest.raises(ModelError):
        load_base(plan(base=str(folder)))
    load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_base_of_a_known_type_is_passed_over(plan, evil, tiny_base, tmp_path):
    folder = evil()
    model = load_base(plan(base=str(folder)))
    assert torch.equal(model(PROBE).logits, AutoModelForCausalLM.from_pretrained(tiny_base)(PROBE).logits)
    load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_model_is_refused(plan, tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is no configuration that transformers knows"):
        load_base(plan(base=str(tmp_path)))


def test_pickled_weights_are_refused(plan, tiny_base, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_base / name).read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        load_base(plan(base=str(folder)))
    assert "model.safetensors" in caught.value.fix


def test_weights_that_are_quantized_already_are_refused(plan, tiny_base, tmp_path):
    config = json.loads((tiny_base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"already quantized \(bitsandbytes\)"):
        load_base(plan(base=str(tmp_path)))


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        load_tokenizer(tmp_path)


def test_auto_dtype_is_float32_on_a_cpu():
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize(
    ("width", "words"),
    [(66, r"66\) is not a multiple of the number of attention heads"), ("wide", "expected int")],
)
def test_a_configuration_that_is_unsound_is_named(plan, tiny_base, tmp_path, width, words):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": width}))
    with pytest.raises(ModelError, match=rf"config\.json is no configuration .*{words}"):
        load_base(plan(base=str(folder)))


def test_weights_that_were_cut_off_are_named(plan, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-8])
    with pytest.raises(TensorFileError, match=r"model\.safetensors .* its tensors end at byte"):
        load_base(plan(base=str(folder)))
