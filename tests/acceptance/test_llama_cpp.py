"""llama.cpp computes from an exported adapter what torch computes: the largest difference of any logit.

Needs llama-cpp-python, which compiles llama.cpp: pip install llama-cpp-python==0.3.36 gguf
"""

import ctypes
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from llama_gguf import write_base
from tiny_models import save_llama, save_tokenizer, write_rows
from trained_adapters import TASKS, train_adapter
from transformers import MistralConfig, MistralForCausalLM

from edgelora.engine.apply import load_adapted
from edgelora.engine.base import load_base
from edgelora.engine.exporting import Wanted, export_gguf, export_peft, gguf_tensors
from edgelora.registry import Registry

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="needs llama-cpp-python: pip install llama-cpp-python==0.3.36"
)
pytestmark = pytest.mark.acceptance

LIMIT = 5e-5
"""Of any logit in float32, where logits are about 10: only the order of sums differs."""
PROBES = torch.arange(6 * 24).view(6, 24) * 7 % 320
STOCK_CONVERTER = os.environ.get("LLAMA_CPP_CONVERTER", "")
"""llama.cpp's convert_lora_to_gguf.py, where there is a source tree of it."""

CASES = [
    *(
        (name, Wanted())
        for name in (
            "lora",
            "rslora",
            "patterns",
            "adalora",
            "olora",
            "iec",
            "qlora",
            "irqlora",
            "clora",
            "reslora-bs",
        )
    ),
    *(("mtlora", Wanted(task)) for task in TASKS),
    *(("dylora", Wanted(rank=rank)) for rank in (1, 2, 4)),
]


def label(case):
    return case if isinstance(case, str) else case.task or (f"rank {case.rank}" if case.rank else "")


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Fewer heads for keys than for queries, so that a wrong number of heads shows."""
    folder = tmp_path_factory.mktemp("base")
    save_tokenizer(folder)
    save_llama(folder, num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="module")
def trained(base, registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder / "rows.jsonl", 100)
    return functools.cache(lambda name: train_adapter(name, folder / name, base, rows, registry))


@pytest.fixture(scope="module")
def base_gguf(trained, base, registry, tmp_path_factory):
    """A function from an adapter to its base as GGUF: the weights that it was trained over, dequantized."""
    folder = tmp_path_factory.mktemp("gguf")

    @functools.cache
    def make(name):
        adapted = load_adapted(str(trained(name)), registry, base=str(base))
        return write_base(load_base(adapted.plan), folder / f"{name}.gguf")

    return make


def llama_logits(model_path, adapter_path=None, scale=1.0):
    """(6, 24, vocabulary), float32; keys and values are kept in 32 bits too, unlike by default."""
    lora = {"lora_path": str(adapter_path), "lora_scale": scale} if adapter_path else {}
    whole = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    model = llama_cpp.Llama(
        model_path=str(model_path), n_ctx=64, n_threads=1, logits_all=True, verbose=False, **whole, **lora
    )
    found = []
    for ids in PROBES.tolist():
        model.reset()
        model.eval(ids)
        found.append(np.array(model.scores[: len(ids)], dtype=np.float32))
    model.close()
    return torch.from_numpy(np.stack(found))


def torch_logits(adapted):
    with torch.no_grad():
        return adapted.model(PROBES).logits.float()


def largest(one, other):
    return float((one - other).abs().max())


def adapted_for(trained, base, registry, name, wanted):
    """The adapter as torch computes it, with the task and the rank that are wanted."""
    adapted = load_adapted(str(trained(name)), registry, base=str(base))
    adapted.route(wanted.task)
    if wanted.rank is not None:
        adapted.set_rank(wanted.rank)
    return adapted


@pytest.mark.parametrize(("name", "wanted"), CASES, ids=label)
def test_llama_cpp_computes_the_same(trained, base, base_gguf, registry, tmp_path, name, wanted, capsys):
    adapted = adapted_for(trained, base, registry, name, wanted)
    chosen = Wanted(wanted.task, wanted.rank, str(base))
    path = export_gguf(str(trained(name)), tmp_path / "adapter.gguf", chosen, registry=registry).path
    expected = torch_logits(adapted)
    bare = llama_logits(base_gguf(name))
    difference = largest(llama_logits(base_gguf(name), path), expected)
    with capsys.disabled():
        print(
            f"\n  {name} {label(wanted)}: {difference:.1e}, the adapter changes {largest(bare, expected):.1f}"
        )
    assert difference <= LIMIT
    assert largest(bare, expected) > 100 * LIMIT, "the adapter changes too little to tell anything"


def test_a_mistral_base_is_a_llama_to_llama_cpp(registry, tmp_path, capsys):
    base = tmp_path / "base"
    save_tokenizer(base)
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
    config = MistralConfig(**sizes, **heads, sliding_window=None, initializer_range=0.2)
    MistralForCausalLM(config).save_pretrained(base)
    adapter = train_adapter(
        "lora", tmp_path / "lora", base, write_rows(tmp_path / "rows.jsonl", 50), registry
    )
    adapted = load_adapted(str(adapter), registry, base=str(base))
    model = write_base(load_base(adapted.plan), tmp_path / "base.gguf")
    done = export_gguf(str(adapter), tmp_path / "lora.gguf", Wanted(base=str(base)), registry=registry)
    expected = torch_logits(adapted)
    difference = largest(llama_logits(model, done.path), expected)
    with capsys.disabled():
        print(f"\n  mistral: {difference:.1e}")
    assert difference <= LIMIT
    assert largest(llama_logits(model), expected) > 100 * LIMIT


def test_no_adapter_a_wrong_scale_and_rows_in_order_are_caught(
    trained, base, base_gguf, registry, tmp_path, monkeypatch, capsys
):
    expected = torch_logits(load_adapted(str(trained("lora")), registry, base=str(base)))
    right = export_gguf(
        str(trained("lora")), tmp_path / "right.gguf", Wanted(base=str(base)), registry=registry
    )
    wrong = {
        "no adapter": llama_logits(base_gguf("lora")),
        "half its scale": llama_logits(base_gguf("lora"), right.path, scale=0.5),
    }
    monkeypatch.setattr(gguf_tensors, "interleaved", lambda weight, heads: weight)
    plain = export_gguf(
        str(trained("lora")), tmp_path / "plain.gguf", Wanted(base=str(base)), registry=registry
    )
    wrong["rows not reordered"] = llama_logits(base_gguf("lora"), plain.path)
    for what, logits in wrong.items():
        with capsys.disabled():
            print(f"\n  {what}: {largest(logits, expected):.1e}")
        assert largest(logits, expected) > 100 * LIMIT


def test_sixteen_bits_stay_close(trained, base, base_gguf, registry, tmp_path, capsys):
    expected = torch_logits(load_adapted(str(trained("lora")), registry, base=str(base)))
    done = export_gguf(
        str(trained("lora")),
        tmp_path / "half.gguf",
        Wanted(base=str(base)),
        precision="f16",
        registry=registry,
    )
    difference = largest(llama_logits(base_gguf("lora"), done.path), expected)
    with capsys.disabled():
        print(f"\n  adapter in f16 on a base in f32: {difference:.1e}")
    assert difference < 5e-2


def test_llama_cpp_reads_the_digests(trained, base, base_gguf, registry, tmp_path):
    done = export_gguf(str(trained("lora")), tmp_path / "out.gguf", Wanted(base=str(base)), registry=registry)
    model = llama_cpp.Llama(model_path=str(base_gguf("lora")), n_ctx=8, verbose=False)
    adapter = llama_cpp.llama_adapter_lora_init(model.model, str(done.path).encode())
    text = ctypes.create_string_buffer(256)
    llama_cpp.llama_adapter_meta_val_str(adapter, b"edgelora.base.sha256", text, len(text))
    assert len(text.value) == 64
    llama_cpp.llama_adapter_lora_free(adapter)
    model.close()


@pytest.mark.skipif(
    not STOCK_CONVERTER, reason="set LLAMA_CPP_CONVERTER to llama.cpp's convert_lora_to_gguf.py"
)
@pytest.mark.parametrize("name", ["lora", "rslora", "patterns"])
def test_the_stock_converter_beside_ours(trained, base, base_gguf, registry, tmp_path, name, capsys):
    """Of folders as PEFT saves them: rsLoRA named as such, not spelled as alpha / rank."""
    folder = peft_saved(trained(name), tmp_path / "peft", registry, is_rslora=name == "rslora")
    command = [sys.executable, STOCK_CONVERTER, str(folder), "--base", str(base), "--outfile"]
    done = subprocess.run(
        [*command, str(tmp_path / "stock.gguf"), "--outtype", "f32"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = torch_logits(load_adapted(str(trained(name)), registry, base=str(base)))
    ours = export_gguf(str(trained(name)), tmp_path / "ours.gguf", Wanted(base=str(base)), registry=registry)
    stock = largest(llama_logits(base_gguf(name), tmp_path / "stock.gguf"), expected)
    own = largest(llama_logits(base_gguf(name), ours.path), expected)
    with capsys.disabled():
        print(f"\n  {name}: llama.cpp's converter {stock:.1e}, edgelora export gguf {own:.1e}")
    assert own <= LIMIT


def peft_saved(adapter, folder, registry, *, is_rslora):
    import json

    export_peft(str(adapter), folder, registry=registry)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if is_rslora:
        config |= {"use_rslora": True, "lora_alpha": config["lora_alpha"] / config["r"] ** 0.5}
    path.write_text(json.dumps(config))
    return folder
