import json
import re
import signal
import subprocess
import sys
import time

import pytest
from tiny_models import save_llama, save_tokenizer

from edgelora.errors import ModelError
from edgelora.manifest.base_files import state_of_base
from edgelora.prepared import RECORD_NAME, prepared_base


@pytest.fixture
def prepared(edgelora, tmp_path):
    assert edgelora("bases", "prepare", "micro", "--quantizer", "nf4", "--quiet").exit_code == 0
    return tmp_path / "work" / "micro-nf4"


def test_a_base_is_prepared_under_its_name_and_says_what_comes_next(edgelora, tmp_path):
    ran = edgelora("bases", "prepare", "micro", "--quantizer", "nf4")
    assert ran.exit_code == 0
    assert ran.out == "prepared base: micro-nf4 (micro in nf4, 0.6 MB, from 1.3 MB)\n"
    assert "next: write 'base: micro-nf4' into a recipe" in ran.err
    assert prepared_base(tmp_path / "work" / "micro-nf4").form == "stock"


def test_options_of_the_quantizer_and_skipped_modules_are_kept(edgelora, tmp_path):
    arguments = ("--set", "block_size=128", "--skip-modules", "up_proj", "--out", "x", "--json")
    ran = edgelora("bases", "prepare", "micro", "--quantizer", "nf4", *arguments)
    assert ran.document["options"]["block_size"] == 128
    assert ran.document["skip_modules"] == ["up_proj"]
    assert ran.document["form"] == "own"
    assert ran.document["reused_shards"] == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--quantizer", "nf5"], 4, "nf5"),
        (["--quantizer", "nf4", "--set", "block=128"], 3, "there is no option 'block'"),
        (["--quantizer", "nf4", "--set", "block_size"], 3, "has no '='"),
        (["--quantizer", "nf4", "--set", "block_size=63"], 3, "block_size is 63"),
        (["--quantizer", "nf4", "--skip-modules", "up"], 3, "skip_modules: 'up' names no linear"),
        ([], 2, "Missing option '--quantizer'"),
    ],
)
def test_a_wrong_choice_is_told_before_anything_is_written(edgelora, tmp_path, arguments, exit_code, words):
    ran = edgelora("bases", "prepare", "micro", *arguments)
    assert (ran.exit_code, words in ran.err) == (exit_code, True), ran.err
    assert list((tmp_path / "work").iterdir()) == []


def test_a_folder_that_is_there_is_replaced_only_with_overwrite(edgelora, prepared):
    refused = edgelora("bases", "prepare", "micro", "--quantizer", "fp4", "--out", "micro-nf4")
    assert refused.exit_code == 3
    assert "pass --overwrite, or another --out" in refused.err
    arguments = ("--quantizer", "fp4", "--out", "micro-nf4", "--overwrite")
    assert edgelora("bases", "prepare", "micro", *arguments).exit_code == 0
    assert prepared_base(prepared).quantizer.name == "fp4"


def test_prepared_bases_are_listed_while_they_are_there(edgelora, prepared):
    listed = edgelora("bases", "list", "--json").document["bases"]
    assert [(base["folder"], base["quantizer"], base["origin"]) for base in listed] == [
        (str(prepared), "nf4", "prepared")
    ]
    assert str(prepared) in edgelora("bases", "list").out
    prepared.rename(prepared.with_name("moved"))
    assert edgelora("bases", "list").out == "no base is known here\n"


def test_show_tells_what_a_base_was_made_from(edgelora, prepared):
    shown = edgelora("bases", "show", "micro-nf4")
    assert "micro, LlamaForCausalLM, prepared" in shown.out
    assert "block_size=64" in shown.out
    plain = edgelora("bases", "show", "micro", "--json").document
    assert plain["quantizer"] is None
    assert (
        plain["tensors_digest"] == edgelora("bases", "show", "micro-nf4", "--json").document["tensors_digest"]
    )


def test_verify_finds_a_changed_byte_and_proves_the_source(edgelora, prepared):
    assert "as recorded\n" in edgelora("bases", "verify", "micro-nf4").out
    proved = edgelora("bases", "verify", "micro-nf4", "--source", "micro")
    assert "as recorded, and made from micro\n" in proved.out
    shard = prepared / prepared_base(prepared).weights[1].path
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (prepared / "extra.safetensors").write_bytes(b"")
    broken = edgelora("bases", "verify", "micro-nf4", "--json")
    assert broken.exit_code == 5
    assert "has the digest" in broken.err
    assert "extra.safetensors is not listed in edgelora-base.json" in broken.err
    assert broken.document["error"]["problem"].endswith(" (and 1 more, told above)")
    (prepared / "extra.safetensors").unlink()
    once = edgelora("bases", "verify", "micro-nf4")
    assert once.err.count("has the digest") == 1
    assert "more" not in once.err
    again = re.search(r"prepare it again: (edgelora .* --overwrite) \(MODEL being micro\)", once.err).group(1)
    assert edgelora(*again.replace("MODEL", "micro").split()[1:]).exit_code == 0
    assert edgelora("bases", "verify", "micro-nf4").exit_code == 0


def test_verify_tells_that_a_record_lies_about_its_source(edgelora, prepared):
    document = json.loads((prepared / RECORD_NAME).read_bytes())
    document["quantizer"]["options"]["block_size"] = 32
    (prepared / RECORD_NAME).write_text(json.dumps(document))
    unproved = edgelora("bases", "verify", "micro-nf4")
    assert unproved.exit_code == 0
    assert "source, quantizer and options are the record's own word" in unproved.err
    lies = edgelora("bases", "verify", "micro-nf4", "--source", "micro")
    assert lies.exit_code == 5
    assert "is not what nf4 makes of micro" in lies.err


def test_what_is_no_prepared_base_is_told(edgelora, tmp_path):
    assert "there is no base model folder nothing" in edgelora("bases", "show", "nothing").err
    (tmp_path / "work" / "folder").mkdir()
    ran = edgelora("bases", "verify", "folder")
    assert ran.exit_code == 3
    assert "is no prepared base: it has no edgelora-base.json" in ran.err


@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [
        ("{", 3, "it is not JSON"),
        ("{}", 3, "it has no formatVersion"),
        ('{"formatVersion": "9.0"}', 7, "is of format '9.0', and this edgelora reads 1.0"),
    ],
)
def test_a_record_that_cannot_be_read_is_told(edgelora, prepared, content, exit_code, words):
    (prepared / RECORD_NAME).write_text(content)
    for command in (["bases", "show", "micro-nf4"], ["bases", "verify", "micro-nf4"]):
        ran = edgelora(*command)
        assert (ran.exit_code, words in ran.err) == (exit_code, True), ran.err


def test_a_quantizer_that_is_not_installed_is_told(edgelora, prepared):
    document = json.loads((prepared / RECORD_NAME).read_bytes())
    document["quantizer"] |= {
        "name": "q3",
        "plugin": "acme",
        "distribution": "edgelora-acme",
        "version": "2.0",
    }
    (prepared / RECORD_NAME).write_text(json.dumps(document))
    ran = edgelora("bases", "verify", "micro-nf4", "--source", "micro")
    assert ran.exit_code == 7
    assert "pip install 'edgelora-acme==2.0'" in ran.err


def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    save_tokenizer(tmp_path / "base")
    save_llama(tmp_path / "base", hidden_size=256, intermediate_size=512, num_hidden_layers=24)
    command = [sys.executable, "-m", "edgelora_cli", "bases", "prepare", "base", "--quantizer", "nf4-icq"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A job in the background ignores the keyboard, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    staging = tmp_path / ".base-nf4-icq.preparing"
    while not list(staging.glob("model-*.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "error[interrupted]: stopped before base-nf4-icq was whole; its finished shards are kept" in err
    assert "fix: repeat the command: it goes on after them" in err
    assert list(staging.glob("model-*.safetensors"))
    assert not (tmp_path / "base-nf4-icq").exists()


def test_a_shard_that_is_gone_is_named_before_training(edgelora, prepared):
    shard = prepared / prepared_base(prepared).weights[1].path
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name} is not there") as caught:
        state_of_base(prepared)
    assert f"edgelora bases prepare MODEL --quantizer NAME --out {prepared} --overwrite" in caught.value.fix


def test_a_place_that_is_taken_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "taken").mkdir()
    command = [sys.executable, "-X", "importtime", "-m", "edgelora_cli", "bases", "prepare", "micro"]
    options = ["--quantizer", "nf4", "--out", "taken"]
    ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert "taken exists already" in ran.stderr
    assert not [line for line in ran.stderr.splitlines() if line.split("|")[-1].strip() == "torch"]


@pytest.mark.parametrize("taken", ["empty", "a file"])
def test_overwrite_is_named_only_where_it_helps(edgelora, tmp_path, taken):
    place = tmp_path / "work" / "taken"
    place.mkdir() if taken == "empty" else place.write_text("mine")
    for options in ((), ("--overwrite",)):
        ran = edgelora("bases", "prepare", "micro", "--quantizer", "nf4", "--out", "taken", *options)
        assert ran.exit_code == 3
        assert "fix: pass another --out" in ran.err


def test_a_configuration_alone_cannot_be_prepared(edgelora, tmp_path):
    (tmp_path / "work" / "config.json").write_text("{}")
    ran = edgelora("bases", "prepare", "./config.json", "--quantizer", "nf4")
    assert ran.exit_code == 4
    assert "./config.json is a file, and a base model is a folder" in ran.err
    assert "the folder that holds the model's config.json and its weights" in ran.err
