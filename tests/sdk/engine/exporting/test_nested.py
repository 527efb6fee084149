"""An adapter of nested ranks, cut: plain LoRA of that rank, with or without the plugin that trained it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from edgelora.engine.exporting import Wanted, export_gguf, export_peft
from edgelora.errors import ExportUnsupported, PlanError
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run

RANK, ALPHA = 4, 12


@pytest.fixture(scope="module")
def train(tiny_base, rows, registry, tmp_path_factory):
    """A function that trains and packs an adapter; keywords are the recipe's."""

    def trained(**changes):
        out = tmp_path_factory.mktemp("trained") / "run"
        settings = {"max_steps": 2, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-2, "threads": 1}
        document = {"base": str(tiny_base), "data": [{"path": str(rows)}], "train": settings}
        return run(make_recipe(document | {"evaluators": [], "out": str(out)} | changes), registry).folder

    return trained


@pytest.mark.parametrize("published", [None, 3])
@pytest.mark.parametrize("blocked", [False, True])
def test_it_is_cut_with_or_without_its_plugin(train, tiny_base, tmp_path, monkeypatch, published, blocked):
    options = {"rank": RANK, "alpha": ALPHA, "rank_pattern": {"k_proj": 1}, "published_rank": published}
    folder = train(derivative="dylora", adapter=options)
    if blocked:
        monkeypatch.setenv("EDGELORA_BLOCK", "qdylora")
    registry = Registry.discover()
    export_peft(str(folder), tmp_path / "cut", Wanted(rank=2, base=str(tiny_base)), registry=registry)
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, ALPHA)
    # A site with fewer components keeps those it has.
    assert set(config["rank_pattern"].values()) == {1}
    assert all("k_proj" in site for site in config["rank_pattern"])
    whole = load_file(folder / "adapter_model.safetensors")
    for name, tensor in load_file(tmp_path / "cut" / "adapter_model.safetensors").items():
        first = whole[name][:2] if "lora_A" in name else whole[name][:, :2]
        assert torch.equal(tensor, first)
    with pytest.raises(PlanError, match=f"rank {RANK + 1} is none of adapter"):
        export_peft(str(folder), tmp_path / "no", Wanted(rank=RANK + 1, base=str(tiny_base)))


def test_hira_leaves_for_peft_as_it_is_and_not_for_llama_cpp(train, tiny_base, tmp_path):
    pytest.importorskip("gguf")
    folder = train(derivative="hira", adapter={"rank": 4})
    export_peft(str(folder), tmp_path / "peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "peft" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(ExportUnsupported, match=r"hira_A, and llama\.cpp applies low-rank products"):
        export_gguf(str(folder), tmp_path / "a.gguf", Wanted(base=str(tiny_base)))
