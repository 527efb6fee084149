"""The writer alone, given tensors by hand; `test_prepare` prepares whole models."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgelora.engine.base import read_config
from edgelora.engine.preparing import Preparation, PreparedWriter, layout_of
from edgelora.engine.preparing.names import JOURNAL_NAME
from edgelora.errors import DigestMismatch, RunLocked, TargetExists
from edgelora.manifest.base_identity import identify_base
from edgelora.plan.part import plan_part
from edgelora.prepared import prepared_base
from edgelora.registry import Registry


def writer_of(source, out, quantizer="nf4", **options):
    part = plan_part(Registry.discover().part("quantizer", quantizer), {})
    preparation = Preparation(identify_base(source), part, torch.bfloat16)
    return PreparedWriter(out, preparation, layout_of(read_config(source)), **options)


def write(writer, source, indices):
    tensors = load_file(source / "model.safetensors")
    for index in indices:
        with writer.shard(index) as shard:
            for name in writer.layout.shards[index]:
                linear = name.removesuffix(".weight")
                if linear in writer.layout.quantized:
                    weight = nn.Parameter(tensors[name], requires_grad=False)
                    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                    made.weight = weight
                    shard.linear(linear, made)
                else:
                    shard.tensor(name, tensors[name])


def publish(writer, source):
    names = ("tokenizer.json", "tokenizer_config.json")
    files = {name: (source / name).read_bytes() for name in names}
    return writer.publish(json.loads((source / "config.json").read_text()), files)


@pytest.mark.parametrize("quantizer", ["nf4", "nf4-icq", "none"])
def test_a_prepared_base_is_identified_as_its_source(source, tmp_path, quantizer):
    with writer_of(source, tmp_path / "out", quantizer) as writer:
        write(writer, source, writer.missing_shards())
        record = publish(writer, source)
    assert prepared_base(tmp_path / "out") == record
    assert identify_base(tmp_path / "out") == identify_base(source)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_each_decoder_block_has_a_shard_and_a_tied_head_has_none(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        shards = writer.layout.shards
    blocks = [
        {name.rpartition(".layers.")[2][:2] for name in shard if ".layers." in name} for shard in shards
    ]
    assert blocks == [set(), {"0."}, {"1."}, set()]
    assert shards[0] == ("model.embed_tokens.weight",)
    assert shards[3] == ("model.norm.weight",)


def test_nothing_is_visible_before_it_is_published(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, writer.missing_shards())
        assert not (tmp_path / "out").exists()
        with pytest.raises(ValueError, match="is not written"):
            writer_of(source, tmp_path / "other").publish({}, {})


def test_finished_shards_are_kept_and_the_bytes_are_those_of_one_go(source, tmp_path):
    with writer_of(source, tmp_path / "whole") as writer:
        write(writer, source, writer.missing_shards())
        whole = publish(writer, source)
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, [0, 2])
    with writer_of(source, tmp_path / "out") as writer:
        assert writer.missing_shards() == [1, 3]
        write(writer, source, [1, 3])
        assert publish(writer, source) == whole


def test_a_finished_shard_that_was_damaged_is_written_again(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, [0, 1])
        shard = writer.staging / "model-00002-of-00004.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with writer_of(source, tmp_path / "out") as writer:
        assert writer.missing_shards() == [1, 2, 3]


def test_shards_of_other_work_are_not_taken_over(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, [0])
    with writer_of(source, tmp_path / "out", "fp4") as writer:
        assert writer.missing_shards() == [0, 1, 2, 3]
        assert not list(writer.staging.glob("model-*"))


def test_one_process_at_a_time_writes_a_folder(source, tmp_path):
    with writer_of(source, tmp_path / "out"):
        with (
            pytest.raises(RunLocked, match="another process is preparing"),
            writer_of(source, tmp_path / "out"),
        ):
            pass
        with writer_of(source, tmp_path / "other"):
            pass


def write_all(writer, source):
    write(writer, source, writer.missing_shards())
    return publish(writer, source)


def test_a_prepared_base_that_is_there_is_replaced_only_when_asked(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write_all(writer, source)
    with pytest.raises(TargetExists, match="out exists already"):
        writer_of(source, tmp_path / "out", "fp4")
    with writer_of(source, tmp_path / "out", "fp4", overwrite=True) as writer:
        record = write_all(writer, source)
    assert prepared_base(tmp_path / "out") == record
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_prepared_base_is_never_replaced(source, tmp_path):
    mine = tmp_path / "out" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(TargetExists, match="out exists already, and is no prepared base, which --overwrite"):
        writer_of(source, tmp_path / "out", overwrite=True)
    assert mine.read_text() == "mine"


def test_a_link_is_not_written_through(source, tmp_path):
    with writer_of(source, tmp_path / "real") as writer:
        write_all(writer, source)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with pytest.raises(TargetExists, match="and is no prepared base"):
        writer_of(source, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_meanwhile_is_kept_and_the_next_try_has_nothing_left_to_write(
    source, tmp_path, overwrite
):
    with writer_of(source, tmp_path / "out", overwrite=overwrite) as writer:
        write(writer, source, writer.missing_shards())
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        with pytest.raises(TargetExists, match="out"):
            publish(writer, source)
    (tmp_path / "out").rename(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.txt"]
    with writer_of(source, tmp_path / "out") as writer:
        assert writer.missing_shards() == []
        publish(writer, source)
    assert identify_base(tmp_path / "out") == identify_base(source)


def test_a_base_is_sound_though_its_process_died_when_it_had_appeared(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, writer.missing_shards())
        journal = (writer.staging / JOURNAL_NAME).read_bytes()
        publish(writer, source)
    (tmp_path / "out" / JOURNAL_NAME).write_bytes(journal)
    assert identify_base(tmp_path / "out") == identify_base(source)


def link(staging, elsewhere):
    staging.symlink_to(elsewhere)


def folder_of_shards(staging, elsewhere):
    staging.mkdir()
    (staging / "model-00001-of-00002.safetensors").write_text("no journal says whose")


def subfolder(staging, elsewhere):
    (staging / "notes").mkdir(parents=True)
    (staging / JOURNAL_NAME).write_text("{}")


def stranger(staging, elsewhere):
    staging.mkdir()
    (staging / "thesis.tex").write_text("mine")
    (staging / JOURNAL_NAME).write_text("{}")


@pytest.mark.parametrize(
    ("put", "named"),
    [
        (link, r"\.out\.preparing"),
        (folder_of_shards, r"model-00001-of-00002\.safetensors"),
        (subfolder, "notes"),
        (stranger, r"thesis\.tex"),
    ],
)
def test_what_lies_in_the_place_of_unfinished_work_is_not_deleted(source, tmp_path, put, named):
    elsewhere, staging = tmp_path / "elsewhere", tmp_path / ".out.preparing"
    elsewhere.mkdir()
    (elsewhere / JOURNAL_NAME).write_text("{}")
    put(staging, elsewhere)
    before = sorted(path.name for path in staging.iterdir())
    with (
        pytest.raises(TargetExists, match=f"{named} is in the place of unfinished work"),
        writer_of(source, tmp_path / "out"),
    ):
        pass
    assert sorted(path.name for path in staging.iterdir()) == before


@pytest.fixture
def prepared(source, tmp_path):
    with writer_of(source, tmp_path / "out") as writer:
        write(writer, source, writer.missing_shards())
        publish(writer, source)
    return tmp_path / "out"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: flip(folder / "model-00002-of-00004.safetensors"), "has the digest"),
        (lambda folder: (folder / "model-00003-of-00004.safetensors").unlink(), "is not there"),
        (lambda folder: (folder / "model-00001-of-00004.safetensors").write_bytes(b"{}"), "has 2 bytes"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has 2 bytes"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("x"),
            "chat_template.jinja is not listed",
        ),
    ],
)
def test_a_damaged_prepared_base_is_no_base(prepared, damage, words):
    damage(prepared)
    with pytest.raises(DigestMismatch, match=words):
        identify_base(prepared)
