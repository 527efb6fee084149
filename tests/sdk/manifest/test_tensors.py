"""safetensors headers: read exactly as the library does where both accept, refused by name elsewhere."""

import hashlib
import json
import random
import struct
from io import BytesIO
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from edgelora.errors import EdgeloraError, MissingFile, ModelError, TensorFileError
from edgelora.manifest import describe_files, summarize_tensors
from edgelora.manifest.tensor_digest import hash_weights, tensors_digest
from edgelora.manifest.tensors import MAX_BASE_HEADER, header_of, read_header

VECTORS = Path(__file__).parents[3] / "spec" / "v1" / "vectors" / "weights"
WHOLE = (VECTORS / "whole.safetensors").read_bytes()
quick = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], **metadata: str) -> Path:
    """Written by the safetensors library, which orders and pads as it likes."""
    arrays = {
        name: numpy.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in tensors.items()
    }
    path.write_bytes(save(arrays, metadata or None))
    return path


def some_tensors(seed: int) -> dict[str, tuple[str, list[int], bytes]]:
    source = random.Random(seed)
    shapes = [[3, 5], [1], [4, 2, 2], [0, 7], [64, 64]]
    return {
        f"layers.{index}.weight": ("float32", shape, source.randbytes(4 * _product(shape)))
        for index, shape in enumerate(shapes)
    }


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def test_entries_point_at_the_bytes_the_library_wrote(tmp_path: Path) -> None:
    tensors = some_tensors(1)
    path = write(tmp_path / "a.safetensors", tensors, format="pt")
    header = read_header(path)
    assert set(header) == set(tensors)
    for name, (_, shape, data) in tensors.items():
        entry = header[name]
        assert (entry.dtype, entry.shape) == ("F32", tuple(shape))
        assert path.read_bytes()[entry.start : entry.end] == data


def test_summary_counts_tensors_and_their_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", some_tensors(1))
    summary = summarize_tensors(tmp_path, describe_files(tmp_path))
    assert (summary.count, summary.bytes) == (5, 4 * (15 + 1 + 16 + 0 + 4096))


def test_long_header_is_read_only_where_the_caller_allows_it(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"note": "x" * 2_000_000}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert read_header(path, max_header=MAX_BASE_HEADER) == {}
    with pytest.raises(TensorFileError, match="over the limit of 1048576"):
        read_header(path)


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelora.manifest.tensors.MAX_TENSORS", 4)
    path = write(tmp_path / "a.safetensors", some_tensors(1))
    with pytest.raises(TensorFileError, match="names 5 tensors, over the limit of 4"):
        read_header(path)


def test_malformed_file_is_named_with_a_fix() -> None:
    with pytest.raises(
        TensorFileError, match=r"hole\.safetensors is no safe safetensors file: .* starts"
    ) as caught:
        read_header(VECTORS / "hole.safetensors")
    assert caught.value.fix == "fetch it again, or write it again with the safetensors library"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"there is no file .*none\.safetensors"):
        read_header(tmp_path / "none.safetensors")


@quick
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_changed_bytes_give_a_header_or_a_deliberate_error(at: int, inserted: bytes, cut: int) -> None:
    data = WHOLE[:at] + inserted + WHOLE[at + cut :]
    try:
        header = header_of(BytesIO(data), "fuzz")
    except EdgeloraError as error:
        assert error.id == "tensors-invalid"
    else:
        assert all(0 < entry.start <= entry.end <= len(data) for entry in header.values())


@quick
@given(st.binary(max_size=200), st.booleans())
def test_random_header_gives_a_deliberate_error(data: bytes, is_framed: bool) -> None:
    framed = struct.pack("<Q", len(data) + 1) + b"{" + data if is_framed else data
    try:
        header_of(BytesIO(framed), "fuzz")
    except EdgeloraError as error:
        assert error.id == "tensors-invalid"


@pytest.mark.parametrize("seed", range(5))
def test_resharding_renaming_and_metadata_leave_the_tensors_digest_alone(tmp_path: Path, seed: int) -> None:
    tensors = some_tensors(seed)
    whole = tensors_digest([write(tmp_path / "model.safetensors", tensors)])
    names = list(tensors)
    random.Random(seed).shuffle(names)
    cut = random.Random(seed).randrange(1, len(names))
    first = write(tmp_path / "x.safetensors", {name: tensors[name] for name in names[:cut]}, format="pt")
    second = write(tmp_path / "y.safetensors", {name: tensors[name] for name in names[cut:]}, note="other")
    assert tensors_digest([first, second]) == tensors_digest([second, first]) == whole


def test_one_changed_bit_name_dtype_or_shape_changes_the_tensors_digest(tmp_path: Path) -> None:
    data = bytes(range(16))
    variants = [
        {"a": ("float32", [2, 2], data)},
        {"a": ("float32", [2, 2], data[:-1] + b"\x00")},
        {"b": ("float32", [2, 2], data)},
        {"a": ("int32", [2, 2], data)},
        {"a": ("float32", [4], data)},
        {"a": ("float32", [2, 2], data), "b": ("float32", [0], b"")},
    ]
    digests = {tensors_digest([write(tmp_path / f"{i}.safetensors", one)]) for i, one in enumerate(variants)}
    assert len(digests) == len(variants)


def test_tensor_in_two_files_is_refused_naming_both(tmp_path: Path) -> None:
    tensors = {"a": ("uint8", [1], b"x")}
    paths = [write(tmp_path / name, tensors) for name in ("p.safetensors", "q.safetensors")]
    with pytest.raises(
        TensorFileError, match=r"tensor 'a' is in p\.safetensors and in q\.safetensors"
    ) as caught:
        tensors_digest(paths)
    assert caught.value.fix == "keep one set of weights files in the folder"


def test_unreadable_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors cannot be read: No such file") as caught:
        tensors_digest([tmp_path / "none.safetensors"])
    assert caught.value.fix == "make it a readable file"


def test_file_digest_comes_from_the_same_pass(tmp_path: Path) -> None:
    big = {
        "big": ("uint8", [3_000_001], random.Random(0).randbytes(3_000_001)),
        "small": ("uint8", [1], b"s"),
    }
    path = write(tmp_path / "a.safetensors", big)
    hashed = hash_weights(path)
    assert hashed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashed.size == path.stat().st_size
    assert hashed.tensors["big"].sha256 == hashlib.sha256(big["big"][2]).hexdigest()
