"""safetensors files are read where they lie, and their memory is given back on request."""

import copy
import json
import os
import pickle
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgelora.engine.mapped import MappedFiles, Pages
from edgelora.engine.mapped.files import MAX_COPIED_BYTES, READ_AHEAD_BYTES
from edgelora.errors import ModelError
from edgelora.manifest.tensors import read_header

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b": torch.arange(6, dtype=torch.uint8),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4),
    "half": torch.arange(5).to(torch.bfloat16),
}


def test_tensors_are_those_that_were_saved(tmp_path):
    save_file(TENSORS, tmp_path / "one.safetensors")
    files = MappedFiles([tmp_path / "one.safetensors"])
    assert files.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert files.tensors[name].dtype == tensor.dtype
        assert torch.equal(files.tensors[name], tensor), name


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path):
    path = tmp_path / "one.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    MappedFiles([path]).tensors["a"].zero_()
    assert path.read_bytes() == before


def test_a_tensor_at_an_odd_place_is_read_all_the_same(tmp_path):
    header = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "one.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x07" + struct.pack("<ff", 1.5, -2.0))
    found = MappedFiles([path]).tensors["a"]
    assert found.tolist() == [1.5, -2.0]
    assert found.data_ptr() % 4 == 0


def test_a_large_tensor_at_an_odd_place_is_refused_instead_of_copied(tmp_path):
    size = MAX_COPIED_BYTES + 4
    header = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [1, 1 + size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "one.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(1 + size))
    with pytest.raises(ModelError, match=r"tensor a of .* starts at byte \d+, where no F32") as caught:
        MappedFiles([path])
    assert f"edgelora bases prepare {tmp_path}" in caught.value.fix


def test_one_name_in_two_files_is_refused(tmp_path):
    for name in ("one", "two"):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"tensor a is in .*two.safetensors and in another"):
        MappedFiles([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


def test_a_dtype_nothing_computes_with_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "one.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(ModelError, match="F8_E8M0"):
        MappedFiles([path])


def big(tmp_path):
    names = [f"{number}.safetensors" for number in range(2)]
    for number, name in enumerate(names):
        save_file({f"{number}.{i}": torch.full((1 << 20,), float(i)) for i in range(4)}, tmp_path / name)
    return MappedFiles([tmp_path / name for name in names])


def test_neighbours_in_a_file_are_one_extent_and_strangers_none(tmp_path):
    files = big(tmp_path)
    pages = files.pages([files.tensors["1.2"], torch.zeros(5), files.tensors["1.1"], files.tensors["0.3"]])
    assert len(pages.extents) == 2
    assert pages.size_bytes == 12 << 20


def test_a_part_of_a_tensor_has_its_own_pages(tmp_path):
    files = big(tmp_path)
    assert files.pages([files.tensors["0.1"][:1024]]).size_bytes == 4096


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are told by Linux")
def test_pages_that_are_given_back_are_resident_no_longer_and_come_again(tmp_path):
    files = big(tmp_path)
    wanted = files.tensors["1.2"]
    total, before = wanted.sum(), resident(tmp_path / "1.safetensors")
    files.pages(files.tensors.values()).release()
    assert before >= 4 << 20
    assert resident(tmp_path / "1.safetensors") == 0
    files.pages([wanted]).ahead()
    assert wanted.sum() == total


def resident(path):
    maps = Path("/proc/self/smaps").read_text()
    return sum(1024 * int(size) for size in re.findall(rf"{path}\n(?:.*\n){{2,3}}?Rss: +(\d+)", maps))


def test_pages_survive_copying_and_become_nothing_when_pickled(tmp_path):
    pages = big(tmp_path).pages([])
    assert copy.deepcopy(pages) is pages
    assert pickle.loads(pickle.dumps(pages)) == Pages()
    pickle.loads(pickle.dumps(pages)).ahead()


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="how much memory there is is told by Linux")
def test_a_file_may_be_larger_than_all_memory(tmp_path):
    sizes = re.findall(r"^(?:MemTotal|SwapTotal): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    size = 2 * 1024 * sum(map(int, sizes))
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "one.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)  # a hole, which takes no disk
    assert MappedFiles([path]).tensors["a"][-3:].tolist() == [0, 0, 0]


def test_a_file_that_cannot_be_mapped_is_said(tmp_path, monkeypatch):
    def refuse(*given, **settings):
        raise OSError(12, "Cannot allocate memory")

    save_file(TENSORS, tmp_path / "one.safetensors")
    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(ModelError, match=r"one.safetensors cannot be mapped into memory: Cannot allocate"):
        MappedFiles([tmp_path / "one.safetensors"])


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such advice")
def test_what_is_read_ahead_is_all_of_the_tensors_and_nothing_else(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, *given: asked.append((os.fstat(file).st_ino, *given))
    )
    files = big(tmp_path)
    pages = files.pages([files.tensors["1.2"], files.tensors["1.1"], files.tensors["0.3"]])
    pages.ahead()
    files._ahead.shutdown()
    first = read_header(tmp_path / "0.safetensors")["0.3"]
    second = read_header(tmp_path / "1.safetensors")
    wanted = {0: (first.start, first.end), 1: (second["1.1"].start, second["1.2"].end)}
    for number, (start, end) in wanted.items():
        inode = (tmp_path / f"{number}.safetensors").stat().st_ino
        pieces = [(at, at + size) for file, at, size, _ in asked if file == inode]
        assert [at for at, _ in pieces] == list(range(start, end, READ_AHEAD_BYTES))
        assert [stop for _, stop in pieces] == [at for at, _ in pieces[1:]] + [end]
    assert {advice for *_, advice in asked} == {os.POSIX_FADV_WILLNEED}
