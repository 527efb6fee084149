import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_llama, save_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from edgelora.engine.base import load_base, no_progress_bar
from edgelora.engine.preparing import differing_tensors, prepare_base
from edgelora.engine.preparing.source import MAX_BESIDE_BYTES
from edgelora.errors import DiskFull, ModelError, PlanError, TargetExists, WrongBase
from edgelora.known_bases import known_bases, recall_base, recall_source, remember_prepared
from edgelora.layers import FrozenLinear
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.tensors import read_header
from edgelora.plan import make_plan
from edgelora.plan.part import plan_part
from edgelora.prepared import prepared_base
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

REGISTRY = Registry.discover()


def part(name="nf4", **options):
    return plan_part(REGISTRY.part("quantizer", name), options)


def stored(folder):
    return {
        name: tensor
        for file in prepared_base(folder).weights
        for name, tensor in load_file(folder / file.path).items()
    }


def copy_of(source, folder):
    return shutil.copytree(source, folder)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("quantizer", ["nf4", "fp4", "nf4-icq", "nf3", "nf2-icq", "codebook", "none"])
def test_the_layers_are_those_of_a_base_quantized_while_it_is_read(source, tmp_path, quantizer):
    prepare_base(source, tmp_path / "out", part(quantizer))
    plan = make_plan(make_recipe({"base": str(source), "quantizer": quantizer}), REGISTRY)
    quantized, tensors = plan.build("quantizer"), stored(tmp_path / "out")
    checked = 0
    for name, module in load_base(plan).named_modules():
        if isinstance(module, FrozenLinear):
            own = {
                key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")
            }
            if prepared_base(tmp_path / "out").form == "stock":
                own = quantized.own_tensors(own)
            shape = (module.out_features, module.in_features)
            again = quantized.restore(own, name, shape, torch.bfloat16)
            assert torch.equal(again.dequantize(), module.dequantize(dtype=torch.bfloat16))
            checked += 1
    assert checked == 14


def test_what_is_not_quantized_keeps_its_bytes_and_its_tie(source, tmp_path):
    prepare_base(source, tmp_path / "out", part(), skip_modules=("down_proj",))
    original, tensors = load_file(source / "model.safetensors"), stored(tmp_path / "out")
    kept = [name for name in original if "norm" in name or "embed" in name or "down_proj" in name]
    assert all(torch.equal(original[name], tensors[name]) for name in kept)
    assert "lm_head.weight" not in tensors
    assert prepared_base(tmp_path / "out").skip_modules == ("down_proj",)


def test_a_bias_and_an_untied_head_come_along(tmp_path):
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", tie_word_embeddings=False, attention_bias=True)
    prepare_base(tmp_path / "base", tmp_path / "out", part("nf4-icq"))
    original, tensors = load_file(tmp_path / "base" / "model.safetensors"), stored(tmp_path / "out")
    for name in ("lm_head.weight", "model.layers.1.self_attn.q_proj.bias"):
        assert torch.equal(original[name], tensors[name])
    assert len(prepared_base(tmp_path / "out").weights) == 5


def test_a_head_stored_beside_the_embeddings_it_is_tied_to_is_left_out(source, tmp_path):
    base = copy_of(source, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        base / "model.safetensors",
    )
    prepare_base(base, tmp_path / "out", part())
    assert "lm_head.weight" not in stored(tmp_path / "out")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, base / "model.safetensors"
    )
    with pytest.raises(ModelError, match="with different numbers, and ties them"):
        prepare_base(base, tmp_path / "other", part())


def test_weights_are_quantized_in_the_dtype_of_the_configuration(tmp_path):
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", dtype="float32")
    change_config(tmp_path / "base", dtype="bfloat16")
    prepare_base(tmp_path / "base", tmp_path / "out", part())
    assert prepared_base(tmp_path / "out").dtype == "BF16"
    assert {tensor.dtype for name, tensor in stored(tmp_path / "out").items() if "norm" in name} == {
        torch.bfloat16
    }
    assert (
        differing_tensors(tmp_path / "out", prepared_base(tmp_path / "out"), tmp_path / "base", REGISTRY)
        == []
    )


def test_a_second_preparation_gives_the_same_bytes(source, tmp_path):
    first = prepare_base(source, tmp_path / "first", part())
    second = prepare_base(source, tmp_path / "second", part())
    assert first.record == second.record


@pytest.mark.parametrize("options", [{}, {"double_quantization": False}])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("tied", [True, False])
def test_stock_transformers_reads_the_same_weights_bit_for_bit(tmp_path, kind, options, tied):
    """Dequantized weights are compared: bitsandbytes' own layer repacks its codes on some CPUs."""
    from bitsandbytes.functional import dequantize_4bit

    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", dtype="bfloat16", tie_word_embeddings=tied, attention_bias=True)
    quantizer = part(kind, **options)
    prepare_base(tmp_path / "base", tmp_path / "out", quantizer, skip_modules=("o_proj",))
    original = load_file(tmp_path / "base" / "model.safetensors")
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    seen = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name == "lm_head" or name.endswith("o_proj"):
            assert torch.equal(
                module.weight, original.get(f"{name}.weight", original["model.embed_tokens.weight"])
            )
            continue
        made = nn.Linear(module.in_features, module.out_features, bias=False)
        made.weight = nn.Parameter(original[f"{name}.weight"], requires_grad=False)
        ours = quantizer.build().quantize(made, name).dequantize(dtype=torch.bfloat16)
        assert torch.equal(dequantize_4bit(module.weight.data, module.weight.quant_state), ours)
        if "self_attn" in name:
            assert torch.equal(module.bias, original[f"{name}.bias"])
        seen += 1
    assert seen == 12


def test_stock_transformers_refuses_what_it_could_not_read(source, tmp_path):
    prepare_base(source, tmp_path / "out", part("nf4-icq"))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)


def test_it_is_shown_to_be_made_from_its_source(source, tmp_path):
    folder = prepare_base(source, tmp_path / "out", part()).folder
    assert differing_tensors(folder, prepared_base(folder), source, REGISTRY) == []


def test_a_base_made_from_other_weights_than_it_says_is_found_out(source, tmp_path):
    other = copy_of(source, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 1
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, other / "model.safetensors")
    made = prepare_base(other, tmp_path / "out", part())
    with pytest.raises(WrongBase, match="says that it was made from other, whose weights have the digest"):
        differing_tensors(made.folder, made.record, source, REGISTRY)
    forged = made.record.model_copy(update={"source": identify_base(source)})
    different = differing_tensors(made.folder, forged, source, REGISTRY)
    assert "model.norm.weight" in different
    assert {name.split(".weight")[0] for name in different} == {"model.norm", "model.layers.1.mlp.up_proj"}


def test_progress_counts_the_bytes_of_the_source(source, tmp_path):
    told = []
    made = prepare_base(source, tmp_path / "out", part(), on_progress=told.append)
    assert told[-1].done_bytes == told[-1].total_bytes == made.source_bytes
    assert [step.done_bytes for step in told] == sorted(step.done_bytes for step in told)


def test_a_try_that_was_stopped_goes_on_and_gives_the_same_bytes(source, tmp_path):
    whole = prepare_base(source, tmp_path / "whole", part())

    def stop(progress):
        if progress.done_bytes > progress.total_bytes * 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_base(source, tmp_path / "out", part(), on_progress=stop)
    assert not (tmp_path / "out").exists()
    resumed = prepare_base(source, tmp_path / "out", part())
    assert resumed.reused_shards == 2
    assert resumed.record == whole.record


def test_a_disk_too_small_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFull, match="bytes, and 1000 are free on its disk"):
        prepare_base(source, tmp_path / "out", part())
    assert not (tmp_path / "out").exists()


def test_prepared_bases_are_remembered_beside_their_sources(source, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    made = prepare_base(source, tmp_path / "out", part())
    remember_prepared(made.folder)
    (known,) = known_bases()
    assert (known.folder, known.origin, known.record) == (made.folder, "prepared", made.record)
    assert recall_base(identify_base(source)) == made.folder
    assert recall_source(identify_base(source)) is None
    shutil.rmtree(made.folder)
    assert list(known_bases()) == []
    assert recall_base(identify_base(source)) is None


def test_the_folder_that_is_there_is_kept(source, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetExists, match="exists already"):
        prepare_base(source, tmp_path / "out", part())


@pytest.mark.parametrize("out", ["model", "model/prepared", "."])
def test_the_model_it_is_made_from_is_never_written_over(source, tmp_path, out):
    model = copy_of(source, tmp_path / "work" / "model")
    before = sorted(os.listdir(model))
    with pytest.raises(TargetExists, match="would share a folder"):
        prepare_base(model, tmp_path / "work" / out, part(), overwrite=True)
    assert sorted(os.listdir(model)) == before


def test_a_prepared_base_is_not_prepared_again(source, tmp_path):
    made = prepare_base(source, tmp_path / "out", part())
    with pytest.raises(ModelError, match=r"is a prepared base already, of .* in nf4"):
        prepare_base(made.folder, tmp_path / "again", part())


def test_skip_modules_must_name_linears(source, tmp_path):
    with pytest.raises(PlanError, match="skip_modules: 'down_prj' names no linear"):
        prepare_base(source, tmp_path / "out", part(), skip_modules=("down_prj",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "it holds no tensor model.norm.weight"),
        (
            lambda tensors: tensors.update({"model.layers.0.mlp.experts": torch.ones(2, 3, 4)}),
            "it holds the tensor model.layers.0.mlp.experts, for which the model has no place",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}),
            r"with the shape \[3\], not \[64\]",
        ),
    ],
)
def test_a_model_built_of_other_tensors_than_are_stored_is_refused(source, tmp_path, change, words):
    base = copy_of(source, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ModelError, match=words) as caught:
        prepare_base(base, tmp_path / "out", part())
    assert "quantizes it each time it is loaded" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_model_whose_experts_are_fused_while_it_is_read_is_refused(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    torch.manual_seed(0)
    save_tokenizer(tmp_path / "base")
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match=r"it holds no tensor model.layers.0.mlp.gate.weight"):
        prepare_base(tmp_path / "base", tmp_path / "out", part())


def test_names_of_a_bare_backbone_are_completed(source, tmp_path):
    base = copy_of(source, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors", {"format": "pt"})
    prepare_base(base, tmp_path / "out", part())
    assert "model.norm.weight" in stored(tmp_path / "out")


def test_pickles_are_not_read(source, tmp_path):
    base = copy_of(source, tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds weights only as pickles"):
        prepare_base(base, tmp_path / "out", part())


def test_shards_are_aligned_for_mapping(source, tmp_path):
    made = prepare_base(source, tmp_path / "out", part())
    for file in made.record.weights:
        for entry in read_header(made.folder / file.path, max_header=10**6).values():
            size = {"F32": 4, "BF16": 2, "U8": 1}[entry.dtype]
            assert entry.start % size == 0


def test_only_files_come_along_and_none_that_fills_the_memory(source, tmp_path):
    base = copy_of(source, tmp_path / "base")
    (base / "LICENSES").mkdir()
    (base / "LICENSE").write_text("free")
    made = prepare_base(base, tmp_path / "out", part())
    assert (made.folder / "LICENSE").read_text() == "free"
    assert not (made.folder / "LICENSES").exists()
    with open(base / "tokenizer.model", "wb") as file:
        file.truncate(MAX_BESIDE_BYTES + 1)
    with pytest.raises(ModelError, match=r"tokenizer\.model is larger than \d+ bytes"):
        prepare_base(base, tmp_path / "other", part())


@pytest.mark.parametrize("dtype", ["F8_E8M0", "U8"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_linear_in_a_dtype_of_no_weights_is_named(tmp_path, dtype, leaf):
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", attention_bias=True)
    path, name = tmp_path / "base" / "model.safetensors", f"model.layers.0.self_attn.q_proj.{leaf}"
    tensors = load_file(path)
    tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.uint8)
    save_file(tensors, path, {"format": "pt"})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[name]["dtype"] = dtype
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(ModelError, match=f"it holds {name} in {dtype}, which is no dtype"):
        prepare_base(tmp_path / "base", tmp_path / "out", part())
