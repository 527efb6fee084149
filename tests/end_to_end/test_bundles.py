"""Trained here, carried in one file, applied on a machine that has neither the base nor a network."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.bundles import create_bundle, import_bundle
from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.engine.base import locate_base
from edgelora.errors import BaseNotFound
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora.transfer import pull, push


def test_an_adapter_and_its_base_arrive_in_one_file_and_find_each_other(tmp_path, monkeypatch):
    base, registry = tmp_path / "carried-base", Registry.discover()
    base.mkdir()
    save_tokenizer(base)
    save_llama(base)
    rows = write_rows(tmp_path / "train.jsonl", 20)
    recipe = {
        "base": str(base),
        "adapter": {"rank": 2},
        "data": [{"path": str(rows)}],
        "evaluators": [],
        "train": {"max_steps": 2, "learning_rate": 1e-2, "threads": 1},
        "out": str(tmp_path / "run"),
    }
    folder = run(make_recipe(recipe), registry).folder
    expected = probe_logits(load_adapted(str(folder), registry, dtype="float32").model)
    push(folder, "acme/sensors@1.0.0")
    bundle = create_bundle(tmp_path / "out.edgelora", ["acme/sensors"], bases=[str(base)]).path

    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "another-machine"))
    shutil.rmtree(base)
    done = import_bundle(bundle)
    pulled = pull("acme/sensors")
    adapted = load_adapted(str(pulled.folder), registry, dtype="float32")
    assert torch.equal(probe_logits(adapted.model), expected)
    by_digest = load_adapted(str(pulled.folder), registry, base=done.bases[0], dtype="float32")
    assert torch.equal(probe_logits(by_digest.model), expected)
    with pytest.raises(BaseNotFound, match="was brought to this machine"):
        locate_base("sha256:" + "0" * 64)
