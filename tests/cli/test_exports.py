import json
import os
from pathlib import Path

import pytest
from adapter_folders import write_adapter


@pytest.fixture
def adapter(edgelora) -> str:
    return str(write_adapter(Path("adapter")))


def test_an_adapter_is_exported_for_peft(edgelora, adapter):
    ran = edgelora("export", "peft", adapter, "--out", "for-peft", "--json")
    assert ran.exit_code == 0, ran.err
    assert ran.document == {
        "folder": "for-peft",
        "adapter": "alice/decimals@1.0.0",
        "base": "micro",
        "base_quantization": {},
        "tasks": [],
    }
    assert json.loads(Path("for-peft", "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_an_unknown_format_names_the_one_that_was_meant(edgelora, adapter):
    ran = edgelora("export", "pefd", adapter, "--out", "out")
    assert ran.exit_code == 2
    assert "did you mean 'peft'?" in ran.err
    ran = edgelora("export", "onnx", adapter, "--out", "out")
    assert ran.exit_code == 2
    assert "there is no command 'onnx'; there are: peft, gguf, base\n  fix: see edgelora export" in ran.err


def test_what_is_no_adapter_is_told_apart(edgelora):
    assert edgelora("export", "peft", "./nowhere", "--out", "out").exit_code == 4
    Path("empty").mkdir()
    ran = edgelora("export", "peft", "./empty", "--out", "out")
    assert ran.exit_code == 3
    assert "holds no edgelora.json" in ran.err


def test_an_existing_target_exits_3(edgelora, adapter):
    Path("out").mkdir()
    ran = edgelora("export", "peft", adapter, "--out", "out")
    assert ran.exit_code == 3
    assert "error[target-exists]" in ran.err


@pytest.mark.parametrize("command", [("merge", "--adapter"), ("export", "base")])
def test_an_existing_target_is_refused_before_anything_is_loaded(edgelora, command):
    Path("out").mkdir()
    ran = edgelora(*command, "./nowhere", "--out", "out")
    assert ran.exit_code == 3
    assert "out exists already\n  fix: remove it, or pass another place: --out" in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(edgelora, adapter):
    Path("locked").mkdir(mode=0o500)
    ran = edgelora("export", "peft", adapter, "--out", "locked/out")
    assert ran.exit_code == 3
    assert "locked" in ran.err


def test_a_quantized_base_needs_naming(edgelora, adapter):
    ran = edgelora("export", "base", adapter, "--out", "base")
    assert ran.exit_code == 11
    assert "was fitted to micro as it is" in ran.err
    ran = edgelora("export", "gguf", adapter, "--out", "out.gguf", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (7, "wrong-base")
