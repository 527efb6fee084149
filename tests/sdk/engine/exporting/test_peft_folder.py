"""An exported directory means in stock PEFT what the adapter means here, or there is none."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer
from trained_adapters import TASKS
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted
from edgelora.engine.base import load_base
from edgelora.engine.exporting import Wanted, export_base, export_peft
from edgelora.engine.exporting.forms import PeftFiles
from edgelora.errors import (
    BaseNotFound,
    DependencyMissing,
    DiskFull,
    ExportUnsupported,
    ModelError,
    PlanError,
    PluginMissing,
    TargetExists,
    WrongBase,
)
from edgelora.layers import FrozenLinear
from edgelora.manifest import MANIFEST_NAME, read_manifest
from edgelora.registry import Registry

PROBE = torch.arange(40).view(2, 20)
EXACT = [
    "lora",
    "rslora",
    "patterns",
    "adalora",
    "olora",
    "dora",
    "iec",
    "qlora",
    "qdora",
    "skipping",
    "clora",
    "reslora-bs",
    "ia3",
]


def stock_base(plan, base):
    """The base as transformers holds it, with the weights the adapter was trained over."""
    model = AutoModelForCausalLM.from_pretrained(base)
    for site, module in load_base(plan).named_modules():
        if isinstance(module, FrozenLinear):
            model.get_submodule(site).weight.data = module.dequantize()
    return model


def check_same(exported, adapter, base, registry, task=None):
    adapted = load_adapted(str(adapter), registry, base=str(base))
    adapted.route(task)
    reference = stock_base(adapted.plan, base)
    bare = reference(PROBE).logits.detach()
    ours = adapted.model(PROBE).logits.detach()
    stock = PeftModel.from_pretrained(reference, str(exported))(PROBE).logits.detach()
    assert float((ours - bare).abs().max()) > 1e-3
    torch.testing.assert_close(stock, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_stock_peft_computes_the_same_from_the_exported_folder(trained, tiny_base, registry, tmp_path, name):
    done = export_peft(str(trained(name)), tmp_path / "out", registry=registry)
    assert (done.base, done.tasks) == (tiny_base.name, ())
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(done.folder)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    check_same(done.folder, trained(name), tiny_base, registry)


def test_each_task_gets_a_folder_of_its_own(trained, tiny_base, registry, tmp_path):
    adapter = trained("mtlora")
    done = export_peft(str(adapter), tmp_path / "out", Wanted(base=str(tiny_base)), registry=registry)
    assert done.tasks == TASKS
    for task in TASKS:
        check_same(done.folder / task, adapter, tiny_base, registry, task)
    first, second = (load_file(done.folder / task / "adapter_model.safetensors") for task in TASKS)
    # Shared factors and the task's own, one below the other.
    assert all(len(tensor) == 6 for key, tensor in first.items() if "lora_A" in key)
    assert any(not torch.equal(first[key], second[key]) for key in first)
    one = export_peft(
        str(adapter), tmp_path / "one", Wanted("second", base=str(tiny_base)), registry=registry
    )
    assert one.tasks == ()
    assert load_file(one.folder / "adapter_model.safetensors").keys() == second.keys()
    assert "task `second`" in (one.folder / "README.md").read_text()


def test_rebuilding_reads_no_weight_of_the_base(trained, tiny_base, registry, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(tiny_base / "config.json", folder)
    done = export_peft(
        str(trained("mtlora")), tmp_path / "out", Wanted("first", base=str(folder)), registry=registry
    )
    check_same(done.folder, trained("mtlora"), tiny_base, registry, "first")


def test_a_layer_that_looks_at_the_base_gets_the_real_one(
    trained, tiny_base, registry, tmp_path, monkeypatch
):
    from edgelora_plugins.mtlora.layer import TaskLoraLinear

    start = TaskLoraLinear.__init__

    def scaled_by_the_base(self, base, *rest):
        start(self, base, *rest)
        self.register_buffer("size", base.dequantize(dtype=torch.float32).abs().mean(), persistent=False)
        self.task_scaling = [each * self.size for each in self.task_scaling]

    monkeypatch.setattr(TaskLoraLinear, "__init__", scaled_by_the_base)
    adapter = str(trained("mtlora"))
    done = export_peft(adapter, tmp_path / "out", Wanted("first", base=str(tiny_base)), registry=registry)
    check_same(done.folder, adapter, tiny_base, registry, "first")
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(tiny_base / "config.json", folder)
    with pytest.raises(Exception, match="holds neither"):
        export_peft(adapter, tmp_path / "none", Wanted("first", base=str(folder)), registry=registry)


def test_weights_in_peft_form_are_taken_byte_for_byte_without_any_base(trained, registry, tmp_path):
    adapter = trained("lora")
    done = export_peft(str(adapter), tmp_path / "deep" / "out", registry=registry)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (done.folder / name).read_bytes() == (adapter / name).read_bytes()


def test_the_card_says_what_it_was_made_from_and_over_which_base(trained, tiny_base, registry, tmp_path):
    done = export_peft(str(trained("skipping")), tmp_path / "out", registry=registry)
    manifest = read_manifest(trained("skipping") / MANIFEST_NAME)
    card = (done.folder / "README.md").read_text()
    assert manifest.base.tensors_digest in card
    assert "local/skipping@0.1.0" in card or f"{manifest.identity.name}@0.1.0" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    snippet = snippet.replace(f"'{tiny_base.name}'", f"'{tiny_base}'").replace('"."', f'"{done.folder}"')
    scope = {}
    exec(snippet, scope)
    modules = dict(scope["base"].named_modules())
    kinds = {
        kind: {type(m.base_layer if hasattr(m, "base_layer") else m).__name__ for n, m in modules.items()
               if n.endswith(kind)}
        for kind in ("q_proj", "down_proj", "lm_head")
    }  # fmt: skip
    assert kinds == {"q_proj": {"Linear4bit"}, "down_proj": {"Linear"}, "lm_head": {"Linear"}}
    assert isinstance(scope["model"], PeftModel)


def test_what_peft_cannot_compute_is_refused_with_the_alternative(trained, tiny_base, registry, tmp_path):
    with pytest.raises(ExportUnsupported, match="is not one low-rank product, and stock PEFT") as caught:
        export_peft(str(trained("summed")), tmp_path / "out", Wanted(base=str(tiny_base)), registry=registry)
    assert caught.value.fix.startswith("train again with an adapter that is LowRank (")
    assert caught.value.fix.endswith(f"but applied: edgelora generate --adapter {trained('summed')}")
    assert os.listdir(tmp_path) == []


def test_an_adapter_of_all_weights_is_refused_with_the_command_that_writes_them(trained, registry, tmp_path):
    with pytest.raises(ExportUnsupported, match="changes the model as a whole, and stock PEFT") as caught:
        export_peft(str(trained("full")), tmp_path / "out", registry=registry)
    assert f"edgelora merge --adapter {trained('full')} --out DIR" in caught.value.fix
    assert "convert_hf" not in caught.value.fix


def test_a_base_that_transformers_does_not_make_is_refused_with_the_alternative(trained, registry, tmp_path):
    with pytest.raises(ExportUnsupported, match="as the quantizer 'nf4-icq' makes it") as caught:
        export_peft(str(trained("irqlora")), tmp_path / "out", registry=registry)
    assert "edgelora export base" in caught.value.fix
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["irqlora", "qlora", "clora-icq"])
def test_over_the_dequantized_base_stock_tools_compute_the_same(trained, tiny_base, registry, tmp_path, name):
    adapter = str(trained(name))
    base = export_base(adapter, tmp_path / "base", base=str(tiny_base), registry=registry)
    assert base.largest_difference < 1e-4
    wanted = Wanted(base=str(tiny_base), over=base.folder)
    done = export_peft(adapter, tmp_path / "out", wanted, registry=registry)
    assert (done.base, done.quantization) == (str(base.folder), {})
    config = json.loads((done.folder / "adapter_config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    stock = PeftModel.from_pretrained(plain, str(done.folder))(PROBE).logits
    ours = load_adapted(adapter, registry, base=str(tiny_base)).model(PROBE).logits
    torch.testing.assert_close(stock, ours, rtol=1e-5, atol=1e-5)
    assert "as a quantizer made it" in (done.folder / "README.md").read_text()


def test_an_exported_base_is_named_absolutely_and_only_while_it_is_what_was_exported(
    trained, tiny_base, registry, tmp_path, monkeypatch
):
    adapter = str(trained("qlora"))
    base = export_base(adapter, tmp_path / "base", base=str(tiny_base), registry=registry)
    monkeypatch.chdir(tmp_path)
    done = export_peft(adapter, tmp_path / "out", Wanted(over=Path("base")), registry=registry)
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert done.base == config["base_model_name_or_path"] == str(base.folder)
    weights = base.folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="is no longer what edgelora exported"):
        export_peft(adapter, tmp_path / "none", Wanted(over=base.folder), registry=registry)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("task", ["x/../../evil", "..", "", "a\\b", "a\0", "a" * 300])
def test_a_task_no_folder_can_be_named_after_is_refused(trained, registry, tmp_path, monkeypatch, task):
    adapter = str(trained("lora"))
    monkeypatch.setattr(
        "edgelora.engine.exporting.peft_folder.forms_of", lambda *_: {task: PeftFiles(b"{}", b"", {})}
    )
    with pytest.raises(ExportUnsupported, match="which no folder can be named after") as caught:
        export_peft(adapter, tmp_path / "deep" / "out", registry=registry)
    assert "--task TASK" in caught.value.fix
    assert os.listdir(tmp_path) == []


def test_only_the_base_an_adapter_was_fitted_to_is_named(trained, tiny_base, registry, tmp_path):
    base = export_base(str(trained("qlora")), tmp_path / "base", base=str(tiny_base), registry=registry)
    with pytest.raises(WrongBase, match="or the same one quantized otherwise"):
        export_peft(str(trained("irqlora")), tmp_path / "out", Wanted(over=base.folder), registry=registry)
    with pytest.raises(ModelError, match="is no base that edgelora exported"):
        export_peft(str(trained("qlora")), tmp_path / "out", Wanted(over=tiny_base), registry=registry)
    with pytest.raises(ExportUnsupported, match=r"was fitted to .* as it is"):
        export_base(str(trained("lora")), tmp_path / "none", base=str(tiny_base), registry=registry)
    with pytest.raises(TargetExists):
        export_base(str(trained("qlora")), tmp_path / "base", base=str(tiny_base), registry=registry)


def test_without_torch_an_adapter_that_has_to_be_rebuilt_says_what_to_install(
    trained, registry, tmp_path, monkeypatch
):
    adapter = str(trained("mtlora"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match="needs torch, which is not installed"):
        export_peft(adapter, tmp_path / "out", registry=registry)


def test_what_is_there_already_is_left_alone(trained, registry, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(TargetExists, match="out exists already"):
        export_peft(str(trained("lora")), tmp_path / "out", registry=registry)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(trained, registry, tmp_path, monkeypatch):
    def full(path, data, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgelora.engine.exporting.peft_folder.write_new", full)
    with pytest.raises(DiskFull, match="no space left while writing"):
        export_peft(str(trained("lora")), tmp_path / "out", registry=registry)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "wanted", "problem"),
    [
        ("lora", {"task": "first"}, "computes the same for every task"),
        ("mtlora", {"task": "third"}, "has no task 'third'"),
        ("lora", {"rank": 2}, "trained by 'lora', which works at the ranks it was trained with"),
    ],
)
def test_a_task_or_rank_it_does_not_have_is_refused(
    trained, tiny_base, registry, tmp_path, name, wanted, problem
):
    with pytest.raises(PlanError, match=problem):
        export_peft(
            str(trained(name)), tmp_path / "out", Wanted(**wanted, base=str(tiny_base)), registry=registry
        )


def test_another_base_is_refused_by_its_configuration(trained, registry, tmp_path):
    save_tokenizer(tmp_path / "other")
    save_llama(tmp_path / "other", rms_norm_eps=1e-3)
    with pytest.raises(WrongBase, match="configuration of digest"):
        export_peft(
            str(trained("mtlora")), tmp_path / "out", Wanted(base=str(tmp_path / "other")), registry=registry
        )


def test_a_base_that_is_nowhere_asks_for_its_configuration(trained, registry, tmp_path, monkeypatch):
    adapter = str(trained("mtlora"))
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(BaseNotFound, match="is neither a folder here") as caught:
        export_peft(adapter, tmp_path / "out", registry=registry)
    assert "config.json: --base FOLDER" in caught.value.fix


def test_a_missing_plugin_says_what_to_install(trained, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELORA_BLOCK", "mtlora")
    with pytest.raises(PluginMissing, match="mtlora") as caught:
        export_peft(
            str(trained("mtlora")),
            tmp_path / "out",
            Wanted(base=str(tiny_base)),
            registry=Registry.discover(),
        )
    assert caught.value.fix == "remove mtlora from EDGELORA_BLOCK"
