"""Strategies that start from valid vectors and break them: bytes, members, values, nesting, size."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

VECTORS = Path(__file__).parents[2] / "spec" / "v1" / "vectors"
MANIFESTS = [path.read_bytes() for path in sorted((VECTORS / "manifests" / "valid").iterdir())]
DOCUMENTS = [json.loads(data) for data in MANIFESTS]
WEIGHTS = [path.read_bytes() for path in sorted((VECTORS / "weights").glob("*.safetensors"))]
PATHS = [json.loads(path.read_bytes()) for path in sorted((VECTORS / "paths").glob("[!i]*.json"))]

EDGES: list[Any] = [None, True, False, 0, 1, -1, 2**53 - 1, 2**53, -(2**53), 10**30, 0.5, [], {}, [[]], [{}]]
EDGES += [
    "",
    " ",
    "a",
    "A",
    "1.0",
    "1.0.0",
    "-1",
    "0.5",
    "01",
    "x" * 300,
    "a\n",
    "\x7f",
    "\ud800",
    "é",
    "e\u0301",
]
EDGES += ["2026-11-22T08:00:00Z", "2027-02-29T08:00:00Z", "sha256:" + "0" * 64, "0" * 64, "F" * 64]
EDGES += ["..", "a/b", "A/b", "a\\b", "con", ".git", "\ufb01", "\u202e", "edgelora.json", "x-a.b/c", "en-US"]
EDGES += [">=1,<2", "~=1", "==1.*", "plugin", "compose:sum", "MIT OR Apache-2.0", {"a": None}, ["a", "a"]]
CHANGES = ("nudge", "remove", "replace", "swap", "wrap", "add", "rename", "repeat")
values = st.recursive(
    st.sampled_from(EDGES) | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document, itself excluded."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *places(item, (*path, key)))]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        document = document[key]
    return document


def changed(draw: st.DrawFn, source: Any) -> Any:
    """A copy of a document with up to three changes of its members."""
    document = copy.deepcopy(source)
    for _ in range(draw(st.integers(0, 3))):
        everywhere = places(document)
        if not everywhere:
            break
        *above, key = draw(st.sampled_from(everywhere))
        holder = at(document, tuple(above))
        other = at(document, draw(st.sampled_from(everywhere)))
        change = draw(st.sampled_from(CHANGES))
        if change == "nudge" and isinstance(holder[key], int):
            holder[key] += draw(st.sampled_from([-8, -4, -1, 1, 4, 8]))
        elif change == "nudge" and isinstance(holder[key], str):
            holder[key] = draw(
                st.sampled_from([holder[key].upper(), holder[key] + "\n", holder[key][1:], "../x"])
            )
        elif change == "remove":
            del holder[key]
        elif change == "wrap":
            depth = draw(st.integers(1, 34))
            for _ in range(depth):
                holder[key] = [holder[key]] if draw(st.booleans()) else {"a": holder[key]}
        elif change in ("replace", "swap"):
            holder[key] = copy.deepcopy(draw(values) if change == "replace" else other)
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8)) if change == "rename" else draw(members)] = copy.deepcopy(other)
        else:
            holder.append(copy.deepcopy(holder[key] if change == "repeat" else draw(values)))
    return document


members = st.sampled_from(
    sorted({str(place[-1]) for document in DOCUMENTS for place in places(document) if place})
)


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """The bytes of a broken manifest; its tree digest is often made right again, to get further."""
    document = changed(draw, DOCUMENTS[draw(st.integers(0, len(DOCUMENTS) - 1))])
    if draw(st.booleans()):
        repair(document)
    data = json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data


def repair(document: Any) -> None:
    """Compute the tree digest anew where the list of files has its form."""
    try:
        lines = sorted(
            (entry["path"].encode(), f"{entry['sha256']} {entry['size']} ".encode())
            for entry in document["files"]
        )
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
        return
    tree = b"edgelora-tree-v1\n" + b"".join(size + path + b"\n" for path, size in lines)
    document["treeDigest"] = f"sha256:{hashlib.sha256(tree).hexdigest()}"


@st.composite
def weights(draw: st.DrawFn) -> bytes:
    """The bytes of a broken safetensors file; its length and offsets are often made right again."""
    source = WEIGHTS[draw(st.integers(0, len(WEIGHTS) - 1))]
    if draw(st.integers(0, 5)) == 0:
        return draw(damaged(source))
    length = int.from_bytes(source[:8], "little")
    try:
        header = json.loads(source[8 : 8 + length])
    except ValueError:
        return draw(damaged(source))
    text = json.dumps(changed(draw, header)).encode()
    if draw(st.integers(0, 5)) == 0:
        text = draw(damaged(text))
    size = len(text) if draw(st.integers(0, 9)) else draw(st.integers(0, 2**64 - 1))
    return struct.pack("<Q", size) + text + source[8 + length :]


TOKENS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"/*"]
TOKENS += [
    b"NaN",
    b"1e999",
    b"-",
    b"-0",
    b"0.0",
    b"null",
    b" ",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc0\xaf",
]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few cuts, insertions and repetitions."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        inserted = draw(st.sampled_from(TOKENS) | st.binary(max_size=4)) * draw(
            st.sampled_from([0, 1, 1, 1, 40, 3000])
        )
        data = data[:start] + inserted + data[end:]
    return data


SEGMENTS = sorted({segment for each in PATHS for path in each for segment in path.split("/")})
segments = st.lists(st.sampled_from(SEGMENTS) | st.text(max_size=3), min_size=1, max_size=3).map("".join)
paths = st.lists(st.lists(segments, min_size=1, max_size=4).map("/".join), min_size=1, max_size=4)
"""The paths of an adapter, out of pieces of those in the suite."""
