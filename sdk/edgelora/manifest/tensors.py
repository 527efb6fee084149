"""safetensors files read without numpy or torch: a strict header parser, and what it gives to a manifest.

The parser is stricter than the safetensors library, which accepts duplicate names, huge headers made of
spaces, and names such as ``../../x``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from edgelora.errors import MissingFile, TensorFileError, UnusableFile
from edgelora.manifest.models import SAFETENSORS_TYPE, FileEntry, TensorsSummary
from edgelora.manifest.strict_json import NotStrict, parse

MAX_ADAPTER_HEADER = 1024 * 1024
MAX_BASE_HEADER = 100_000_000
MAX_TENSORS = 100_000
_LENGTH_BYTES = 8
_NAME = re.compile(r"(?!/)(?!.*\.\.)[!-\[\]-~]{1,512}")
DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one element, by safetensors' names of dtypes."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes ``start`` to ``end`` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def shape_text(self) -> str:
        """As digests spell it: ``[64,128]``."""
        return f"[{','.join(map(str, self.shape))}]"


def read_header(path: Path, *, max_header: int = MAX_ADAPTER_HEADER) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name, in the order of their bytes.

    Args:
        path: The file.
        max_header: Bytes of header to accept; `MAX_BASE_HEADER` for base models.

    Raises:
        MissingFile: There is no such file.
        TensorFileError: The file breaks a rule of spec/v1/layout.md, "Weights".
        UnusableFile: The system refuses to read it.
    """
    try:
        with open(path, "rb") as file:
            return header_of(file, str(path), max_header=max_header)
    except FileNotFoundError as error:
        raise MissingFile(f"there is no file {path}", fix="pass a safetensors file") from error
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}", fix="make it readable") from error


def header_of(file: BinaryIO, where: str, *, max_header: int = MAX_ADAPTER_HEADER) -> dict[str, TensorEntry]:
    """As `read_header`, for an open file, which is left behind its header.

    Raises:
        TensorFileError: The file breaks a rule.
    """
    try:
        return _parse(file, max_header)
    except (_Malformed, NotStrict) as error:
        raise TensorFileError(
            f"{where} is no safe safetensors file: {error}",
            fix="fetch it again, or write it again with the safetensors library",
        ) from error


def summarize_tensors(folder: Path, files: Iterable[FileEntry]) -> TensorsSummary:
    """The ``tensors`` member of a manifest, over the safetensors files among ``files`` in ``folder``.

    Raises:
        MissingFile: One of them is not there.
        TensorFileError: One of them is malformed.
    """
    weights = [entry.path for entry in files if entry.media_type == SAFETENSORS_TYPE]
    return summary_of([read_header(folder / path) for path in weights])


def summary_of(headers: Iterable[Mapping[str, TensorEntry]]) -> TensorsSummary:
    r"""Count, bytes and the digest of names and shapes.

    ``keysDigest`` is sha256 of ``edgelora-keys-v1\n``, then ``<name> <dtype> <shape>\n`` for each tensor,
    sorted by bytes.
    """
    tensors = [(name, entry) for header in headers for name, entry in header.items()]
    lines = sorted(f"{name} {entry.dtype} {entry.shape_text}\n".encode() for name, entry in tensors)
    digest = hashlib.sha256(b"edgelora-keys-v1\n" + b"".join(lines))
    return TensorsSummary(
        count=len(tensors),
        bytes=sum(entry.end - entry.start for _, entry in tensors),
        keys_digest=f"sha256:{digest.hexdigest()}",
    )


class _Malformed(ValueError):
    pass


def _parse(file: BinaryIO, max_header: int) -> dict[str, TensorEntry]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES:
        raise _Malformed(f"it has {size} bytes, less than the length of a header")
    if length > max_header:
        raise _Malformed(f"its header claims {length} bytes, over the limit of {max_header}")
    if _LENGTH_BYTES + length > size:
        raise _Malformed(f"its header claims {length} bytes, but the file has {size}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise _Malformed("its header does not start with '{'")
    header = parse(text, max_depth=3)
    _check_metadata(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise _Malformed(f"it names {len(header)} tensors, over the limit of {MAX_TENSORS}")
    origin = _LENGTH_BYTES + length
    entries = {name: _entry(name, item, origin) for name, item in header.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].end))
    _refuse_gaps(ordered, origin, size)
    return dict(ordered)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Malformed("__metadata__ is not an object of strings")


def _entry(name: str, item: Any, origin: int) -> TensorEntry:
    if not _NAME.fullmatch(name):
        raise _Malformed(f"the tensor name {ascii(name)[:80]} is not allowed")
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise _Malformed(f"tensor {name[:80]!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _Malformed(f"tensor {name[:80]!r} is of the unknown dtype {ascii(dtype)[:40]}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _Malformed(f"tensor {name[:80]!r} has a shape or offsets that are no counts")
    start, end = offsets
    bits = prod(shape) * DTYPE_BITS[dtype]
    if (end - start) * 8 != bits:
        raise _Malformed(f"tensor {name[:80]!r} has {end - start} bytes, and its shape needs {bits} bits")
    return TensorEntry(dtype, tuple(shape), origin + start, origin + end)


def _are_counts(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 32
        and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    )


def _refuse_gaps(ordered: list[tuple[str, TensorEntry]], origin: int, size: int) -> None:
    at = origin
    for name, entry in ordered:
        if entry.start != at:
            raise _Malformed(f"tensor {name[:80]!r} starts at byte {entry.start}, and {at} is next")
        at = entry.end
    if at != size:
        raise _Malformed(f"its tensors end at byte {at}, and the file at {size}")
