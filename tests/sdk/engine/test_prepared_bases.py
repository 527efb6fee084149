"""A prepared base is as good as its source wherever a base is named, or is refused in a sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgelora.bundles import create_bundle
from edgelora.engine.adopting import adopt
from edgelora.engine.apply import apply, load_adapted, probe_logits
from edgelora.engine.preparing import prepare_base
from edgelora.engine.source import SourceWeights, source_for, source_weights
from edgelora.errors import BundleError, CombinationError, DigestMismatch, ModelError, WrongBase
from edgelora.known_bases import recall_source, remember_base
from edgelora.manifest.base_identity import identify_base
from edgelora.plan.part import plan_part
from edgelora.run import run


@pytest.fixture(scope="module")
def prepared(tiny_base, tmp_path_factory, registry):
    """A function that prepares the tiny base, once for each quantizer and its options."""
    made = {}

    def make(name="nf4", skip_modules=(), **options):
        key = f"{name}-{'-'.join(skip_modules)}-{options}"
        if key not in made:
            out = tmp_path_factory.mktemp("prepared") / "base"
            part = plan_part(registry.part("quantizer", name), options)
            made[key] = prepare_base(tiny_base, out, part, skip_modules=skip_modules).folder
        return made[key]

    return make


@pytest.fixture(scope="module")
def over_nf4(tiny_base, rows, registry, tmp_path_factory):
    """An adapter trained over the source, quantized to NF4 while it was read."""
    from edgelora.recipe import make_recipe

    document = {
        "derivative": "qlora",
        "base": str(tiny_base),
        "adapter": {"rank": 4},
        "data": [{"path": str(rows), "held_out": 0.1}],
        "out": str(tmp_path_factory.mktemp("runs") / "run"),
        "train": {"max_steps": 4, "batch_size": 2, "accumulation": 1, "learning_rate": 1e-2, "threads": 1},
    }
    return str(run(make_recipe(document), registry).folder)


def test_a_run_over_a_prepared_base_is_that_over_its_source(recipe, registry, prepared, over_nf4, tiny_base):
    train = {"max_steps": 4, "batch_size": 2, "accumulation": 1}
    result = run(recipe(train, derivative="qlora", base=str(prepared())), registry)
    tensors, expected = (
        load_file(f"{folder}/adapter_model.safetensors") for folder in (result.folder, over_nf4)
    )
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert result.manifest.base == identify_base(tiny_base)
    over_source = load_adapted(str(result.folder), registry, base=str(tiny_base))
    over_prepared = load_adapted(over_nf4, registry, base=str(prepared()))
    assert torch.equal(probe_logits(over_source.model), probe_logits(over_prepared.model))


@pytest.mark.parametrize(
    ("quantizer", "options", "words"),
    [
        ("fp4", {}, "in fp4 (block_size 64, double_quantization true)"),
        ("nf4", {"block_size": 128}, "in nf4 (block_size 128, double_quantization true)"),
        ("nf4", {"skip_modules": ("up_proj",)}, "double_quantization true) without up_proj"),
    ],
)
def test_an_adapter_is_not_put_over_other_codes(over_nf4, registry, prepared, quantizer, options, words):
    base = prepared(quantizer, **options)
    with pytest.raises(WrongBase) as caught:
        load_adapted(over_nf4, registry, base=str(base))
    assert f"was trained over {identify_base(base).repo} in nf4 (block_size 64" in caught.value.problem
    assert f"{base} holds it " in caught.value.problem
    assert caught.value.problem.endswith(words)
    assert "pass the unquantized" in caught.value.fix


def test_an_adapter_over_an_unquantized_base_is_not_put_over_codes(recipe, registry, prepared):
    folder = run(recipe({"max_steps": 2}), registry).folder
    with pytest.raises(WrongBase, match=r"was trained over .* in none; .* holds it in nf4"):
        load_adapted(str(folder), registry, base=str(prepared()))


def test_how_products_were_computed_does_not_matter(over_nf4, registry, prepared):
    base = prepared(compute_dtype="bfloat16")
    assert load_adapted(over_nf4, registry, base=str(base)).layers


def test_a_damaged_prepared_base_is_refused_before_it_is_loaded(over_nf4, registry, prepared, tmp_path):
    base = shutil.copytree(prepared(), tmp_path / "base")
    shard = next(base.glob("model-00002*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DigestMismatch, match=r"model-00002-of-00004.safetensors has the digest"):
        load_adapted(over_nf4, registry, base=str(base))


def test_a_model_of_transformers_over_a_prepared_base_is_not_quantized_again(over_nf4, registry, prepared):
    model = AutoModelForCausalLM.from_pretrained(prepared(), local_files_only=True)
    with pytest.raises(ModelError, match="a prepared base, whose linears are quantized already"):
        apply(model, over_nf4, registry)


def test_the_base_is_found_where_it_was_prepared(over_nf4, registry, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fp4, nf4 = prepared("fp4"), prepared()
    for base in (fp4, nf4):
        remember_base(identify_base(base), base)
    assert load_adapted(over_nf4, registry).plan.recipe.base == str(nf4)


def test_unquantized_weights_are_read_from_the_source_while_it_is_known(
    tiny_base, prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    assert source_weights(prepared()) is None
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    remember_base(identify_base(copy), copy)
    site = "model.layers.0.mlp.up_proj"
    assert torch.equal(source_weights(prepared())(site), SourceWeights(tiny_base)(site))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1] + b"\x7f")
    assert recall_source(identify_base(tiny_base)) == copy
    assert source_weights(prepared()) is None


class StartsFromTheSource:
    def wrap_source(self, base, site, source):
        return base


def test_an_adapter_that_starts_from_unquantized_weights_needs_them(
    tiny_base, prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    with pytest.raises(
        CombinationError, match=r"starts from unquantized weights, which .* does not hold"
    ) as caught:
        source_for(StartsFromTheSource(), prepared())
    assert "itself as the base with quantizer: nf4" in caught.value.fix
    assert source_for(object(), prepared()) is None
    remember_base(identify_base(tiny_base), tiny_base)
    assert source_for(StartsFromTheSource(), prepared()) is not None


def test_an_adapter_is_adopted_over_unquantized_weights_only(small_peft, registry, prepared, tmp_path):
    with pytest.raises(ModelError, match="is adopted over the unquantized weights it acts on"):
        adopt(small_peft, registry, tmp_path / "adopted", base=str(prepared()))


def test_a_prepared_base_does_not_travel_in_a_bundle(prepared, tmp_path):
    with pytest.raises(
        BundleError, match="is a prepared base, and what it was made from is only its own word"
    ):
        create_bundle(tmp_path / "b.edgelora", [], bases=[str(prepared())])


def test_the_cost_of_quantization_is_measured_without_the_source_but_for_the_error(
    recipe, registry, prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "home"))
    made = run(recipe({"max_steps": 1}, base=str(prepared()), evaluators=["quantization"]), registry)
    assert set(made.measurements) == {"quantization.bits_per_parameter"}
    assert json.loads((made.folder / "edgelora.json").read_text())["base"]["repo"] != "base"
