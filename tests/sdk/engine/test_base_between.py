"""A base that is changed after it was identified and before it is loaded is neither used nor written down."""

from __future__ import annotations

import json
import shutil
from importlib import import_module

import pytest

from edgelora.engine import apply, base
from edgelora.engine.adopting import adopt
from edgelora.errors import ModelError
from edgelora.run import run

LOAD = base.load_base
CHANGED = "changed since the base was checked"


@pytest.fixture
def folder(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.fixture
def theirs(small_peft, folder, tmp_path):
    source = shutil.copytree(small_peft, tmp_path / "theirs")
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    return source


def changing(folder):
    """The real function, with somebody who writes to the folder just before."""

    def load(*arguments):
        weights = folder / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return LOAD(*arguments)

    return load


def test_an_adapter_is_not_applied_to_a_base_that_changed(theirs, folder, registry, tmp_path, monkeypatch):
    adapter = adopt(theirs, registry, tmp_path / "out").folder
    monkeypatch.setattr(apply, "load_base", changing(folder))
    with pytest.raises(ModelError, match=CHANGED):
        apply.load_adapted(str(adapter), registry)


def test_no_adapter_is_adopted_on_a_base_that_changed(theirs, folder, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("edgelora.engine.adopting.adopt"), "load_base", changing(folder))
    with pytest.raises(ModelError, match=CHANGED):
        adopt(theirs, registry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_trained_on_a_base_that_changed(recipe, folder, registry, monkeypatch):
    monkeypatch.setattr(base, "load_base", changing(folder))
    with pytest.raises(ModelError, match=CHANGED):
        run(recipe(base=str(folder)), registry)
