"""A GGUF adapter holds the very numbers torch computes with, in llama.cpp's order; or there is none.

That llama.cpp computes the same from it is checked in tests/acceptance/test_llama_cpp.py.
"""

import errno
import hashlib
import os

import numpy as np
import pytest
from gguf import GGUFReader
from trained_adapters import TASKS

from edgelora.engine.adopting import adopt, settings
from edgelora.engine.apply import load_adapted
from edgelora.engine.exporting import Wanted, export_gguf, export_peft
from edgelora.engine.exporting.gguf_tensors import interleaved
from edgelora.errors import (
    BaseNotFound,
    DependencyMissing,
    DiskFull,
    ExportUnsupported,
    PlanError,
    TargetExists,
)
from edgelora.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from edgelora.stock import PRODUCTS_OF_PEFT
from edgelora.version import __version__

KINDS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEADS = {"attn_q": 4, "attn_k": 2}
EXACT = ["lora", "rslora", "patterns", "adalora", "olora", "iec", "qlora", "irqlora", "clora", "reslora-bs"]


def fields(path):
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def pairs(path):
    """A and B by transformers' names, B's rows in transformers' order."""
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    found = {}
    for name in {each.rpartition(".")[0] for each in tensors}:
        _, block, kind, _ = name.split(".")
        A, B = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        if heads := HEADS.get(kind):
            B = B.reshape(heads, -1, 2, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
        found[f"model.layers.{block}.{KINDS[kind]}"] = A, B
    return found


def changes(layers):
    """The adapter's change of each weight, float64."""
    found = {}
    for site, layer in layers.items():
        A, B, scaling = layer.factors()
        found[site] = scaling * (B.detach().double().numpy() @ A.detach().double().numpy())
    return found


def check_same(path, adapted):
    written, expected = pairs(path), changes(adapted.layers)
    assert {site for site, change in expected.items() if change.any()} <= written.keys() <= expected.keys()
    for site, (A, B) in written.items():
        change = B.astype(np.float64) @ A.astype(np.float64)
        np.testing.assert_allclose(change, expected[site], rtol=0, atol=3e-7 * np.abs(expected[site]).max())


@pytest.fixture
def export(tiny_base, registry, tmp_path):
    """A function that exports an adapter to ``out.gguf``."""

    def make(adapter, out="out.gguf", precision="f32", **wanted):
        chosen = Wanted(**{"base": str(tiny_base)} | wanted)
        return export_gguf(str(adapter), tmp_path / out, chosen, precision=precision, registry=registry)

    return make


@pytest.mark.parametrize("name", EXACT)
def test_the_file_holds_the_factors_with_their_scaling_in_llama_cpps_order(
    trained, tiny_base, registry, export, tmp_path, name
):
    done = export(trained(name))
    assert os.listdir(tmp_path) == ["out.gguf"]
    assert done.size_bytes == done.path.stat().st_size
    check_same(done.path, load_adapted(str(trained(name)), registry, base=str(tiny_base)))


def test_each_task_is_a_file(trained, tiny_base, registry, export):
    adapted = load_adapted(str(trained("mtlora")), registry, base=str(tiny_base))
    for task in TASKS:
        done = export(trained("mtlora"), f"{task}.gguf", task=task)
        adapted.route(task)
        check_same(done.path, adapted)
        assert fields(done.path)["adapter.lora.task_name"] == task
    with pytest.raises(PlanError, match="a GGUF file holds one function") as caught:
        export(trained("mtlora"))
    assert caught.value.fix == "name one: --task first | second"


def test_a_file_says_what_it_was_made_from(trained, tiny_base, export):
    done = export(trained("qlora"))
    manifest = read_manifest(trained("qlora") / MANIFEST_NAME)
    found = fields(done.path)
    expected = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
        "general.name": f"local/{manifest.identity.name}",
        "general.base_model.0.name": tiny_base.name,
        "edgelora.method": "qlora",
        "edgelora.version": __version__,
        "edgelora.manifest.sha256": hashlib.sha256(
            (trained("qlora") / MANIFEST_NAME).read_bytes()
        ).hexdigest(),
        "edgelora.base.sha256": manifest.base.tensors_digest.removeprefix("sha256:"),
        "edgelora.base.quantizer": "nf4",
    }
    assert {name: found[name] for name in expected} == expected
    assert (done.quantizer, export(trained("lora"), "lora.gguf").quantizer) == ("nf4", None)


def test_the_same_adapter_gives_the_same_bytes(trained, export):
    one, two = (export(trained("patterns"), name).path.read_bytes() for name in ("one.gguf", "two.gguf"))
    assert one == two


def test_sixteen_bits_halve_the_numbers(trained, tiny_base, registry, export):
    whole, half = export(trained("lora")), export(trained("lora"), "half.gguf", "f16")
    assert half.size_bytes < 0.7 * whole.size_bytes
    written, exact = pairs(half.path), pairs(whole.path)
    for site, (A, B) in written.items():
        assert A.dtype == B.dtype == np.float16
        np.testing.assert_allclose(B, exact[site][1], rtol=1e-3, atol=1e-7)


def test_rows_are_reordered_as_the_halves_of_each_head_in_turns():
    rows = np.arange(8)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("dora", r"holds base_model\.model\..*lora_magnitude_vector"),
        ("ia3", r"holds base_model\.model\..*ia3_l"),
        ("reslora", r"\(input-shortcut\) computes at .* is not one low-rank product"),
        ("summed", r"\(task-lora-addition\) computes at .* is not one low-rank product"),
        ("full", "changes the model as a whole"),
        ("vera", r"holds base_model\.model\..*vera_lambda_b"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_with_what_can_be_done(trained, export, tmp_path, name, problem):
    with pytest.raises(
        ExportUnsupported, match=f"{problem}, and llama.cpp applies low-rank products"
    ) as caught:
        export(trained(name))
    assert "PEFT" not in str(caught.value)
    fix = caught.value.fix
    if name in ("ia3", "summed"):  # which cannot be merged either
        assert "edgelora merge" not in fix and f"edgelora generate --adapter {trained(name)}" in fix
        assert "an adapter that is LowRank (" in fix and " lora," in fix and "dora" not in fix
    elif name == "vera":  # which is one in another form
        assert f"edgelora export peft {trained(name)} --out DIR, then edgelora adopt DIR" in fix
    else:
        assert f"edgelora merge --adapter {trained(name)} --out DIR" in fix
        assert "convert_hf_to_gguf.py DIR" in fix
        assert ("--approximate by_" in fix) == (name == "reslora")
    assert caught.value.exit_code == 11
    assert os.listdir(tmp_path) == []


def test_a_method_of_peft_that_is_a_product_is_written_once_it_is_adopted(
    trained, tiny_base, registry, export, tmp_path
):
    export_peft(str(trained("vera")), tmp_path / "peft", registry=registry)
    adopted = adopt(tmp_path / "peft", registry, tmp_path / "adopted", base=str(tiny_base)).folder
    check_same(export(adopted).path, load_adapted(str(adopted), registry, base=str(tiny_base)))


def test_what_adopting_turns_into_products_is_what_refusals_name():
    assert settings._UNDERSTOOD.keys() == PRODUCTS_OF_PEFT


def test_an_architecture_nobody_compared_is_refused(trained, export, tmp_path):
    import shutil

    folder = shutil.copytree(trained("lora"), tmp_path / "adapter")
    manifest = read_manifest(folder / MANIFEST_NAME)
    other = manifest.base.model_copy(update={"architecture": "Qwen2ForCausalLM"})
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest.model_copy(update={"base": other})))
    with pytest.raises(
        ExportUnsupported, match="is a Qwen2ForCausalLM, and only adapters of Llama"
    ) as caught:
        export(folder)
    assert "convert_hf_to_gguf" in caught.value.fix


def test_a_number_too_large_for_sixteen_bits_is_refused(trained, export, monkeypatch):
    monkeypatch.setattr("edgelora.engine.exporting.pairs.float", lambda alpha: 1e12, raising=False)
    with pytest.raises(ExportUnsupported, match="too large for float16") as caught:
        export(trained("lora"), precision="f16")
    assert caught.value.fix == "write it in 32 bits: --dtype f32"


def test_what_is_there_already_is_left_alone(trained, export, tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(TargetExists):
        export(trained("lora"))
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(trained, export, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", full)
    with pytest.raises(DiskFull, match="no space left while writing"):
        export(trained("lora"))
    assert os.listdir(tmp_path) == []


def test_a_base_that_is_nowhere_asks_for_its_configuration(trained, export, monkeypatch, tmp_path):
    adapter = trained("lora")
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(BaseNotFound, match="is neither a folder here") as caught:
        export(adapter, base=None)
    assert "config.json: --base FOLDER" in caught.value.fix


def test_without_the_package_gguf_it_says_what_to_install(trained, export, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match="gguf, which is not installed") as caught:
        export(trained("lora"))
    assert caught.value.fix == "pip install 'edgelora[gguf]'"
