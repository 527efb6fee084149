from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgelora.engine.preparing.shard import ALIGNMENT, ShardWriter
from edgelora.errors import DiskFull, ModelError
from edgelora.manifest.tensor_digest import hash_weights
from edgelora.manifest.tensors import read_header

TENSORS = {
    "codes": torch.arange(33, dtype=torch.uint8),
    "absmax": torch.tensor([0.5, 2.0]),
    "offset": torch.tensor(0.25),
    "norm": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).view(2, 3).T,
}


def test_a_shard_reads_back_bit_for_bit_and_its_digests_are_those_of_the_file(tmp_path):
    path = tmp_path / "shard.safetensors"
    with ShardWriter(path) as shard:
        for name, tensor in TENSORS.items():
            shard.add(name, tensor)
        hashed = shard.finish()
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert hashed == hash_weights(path, rehash=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_data_are_aligned_and_wider_dtypes_come_first(tmp_path):
    with ShardWriter(tmp_path / "shard.safetensors") as shard:
        for name, tensor in TENSORS.items():
            shard.add(name, tensor)
        shard.finish()
    entries = read_header(tmp_path / "shard.safetensors")
    assert next(iter(entries.values())).start % ALIGNMENT == 0
    assert [entry.dtype for entry in entries.values()] == ["F32"] * 4 + ["BF16", "U8"]


def test_a_copied_tensor_keeps_its_bytes_and_floats_of_another_dtype_are_converted(tmp_path):
    stored = {
        "same": torch.randn(5, 7, dtype=torch.bfloat16),
        "wide": torch.randn(3, 11),
        "ids": torch.arange(4),
    }
    save_file(stored, tmp_path / "model.safetensors")
    entries = read_header(tmp_path / "model.safetensors")
    with ShardWriter(tmp_path / "shard.safetensors") as shard:
        for name, entry in entries.items():
            shard.copy(name, tmp_path / "model.safetensors", entry, torch.bfloat16)
        shard.finish()
    loaded = load_file(tmp_path / "shard.safetensors")
    assert torch.equal(loaded["same"], stored["same"])
    assert torch.equal(loaded["wide"], stored["wide"].bfloat16())
    assert torch.equal(loaded["ids"], stored["ids"])


def test_a_shard_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "shard.safetensors") as shard:
        shard.add("x", torch.ones(3))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_was_cut_off_is_told_from_a_short_tensor(tmp_path):
    save_file({"x": torch.ones(1000)}, tmp_path / "model.safetensors")
    entry = read_header(tmp_path / "model.safetensors")["x"]
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-8])
    with ShardWriter(tmp_path / "shard.safetensors") as shard:
        shard.copy("x", tmp_path / "model.safetensors", entry, torch.float32)
        with pytest.raises(ModelError, match="ended while it was read"):
            shard.finish()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is Linux's /dev/full")
@pytest.mark.parametrize("small", [0, 100])
def test_a_disk_that_fills_up_is_said_and_nothing_stays(tmp_path, small):
    """What is small waits in a buffer, and is written once more when the file is closed."""
    path = tmp_path / "shard.safetensors"
    (tmp_path / f"{path.name}.spill").symlink_to("/dev/full")
    with pytest.raises(DiskFull), ShardWriter(path) as shard:
        shard.add("absmax", torch.ones(small))
        shard.add("codes", torch.zeros(1 << 20))
    assert list(tmp_path.iterdir()) == []
