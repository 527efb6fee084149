"""Whatever the bytes are: a bundle, or an error of edgelora; nothing outside is touched, memory is bounded.

Short by default; with ``EDGELORA_FUZZ_SECONDS=600`` it goes on for ten minutes.
"""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hostile_bundles import Member, archive, sound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelora.bundles import import_bundle, read_bundle
from edgelora.errors import EdgeloraError
from edgelora.manifest.canonical_json import canonical_json
from edgelora.store import DirectoryStore

SECONDS = float(os.environ.get("EDGELORA_FUZZ_SECONDS", "0"))
MOST_MEMORY = 32 * 2**20
NAMES = st.sampled_from(
    [
        "../x",
        "/x",
        "index.json",
        "index.sig.json",
        "blobs/sha256/" + "0" * 64,
        "./index.json",
        "C:\\x",
        "a\0b",
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.sampled_from(
        [0, 1, 512, 2**33, 2**53, "", "..", "../x", "sha256:" + "0" * 64, "0" * 64, [], {}, [[]]]
    ).map(deepcopy),
    st.text(max_size=20),
)
KINDS = st.sampled_from(list(b"\0001234567LKSxgVMDNA"))
SIZES = st.sampled_from(
    [b"00000000000\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"            "]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@st.composite
def bundles(draw: st.DrawFn) -> bytes:
    """The bytes of a sound bundle after some damage on each level: index, members, bytes."""
    parts = sound()
    index, members = deepcopy(parts.index), parts.members()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(places(index)))
        holder: Any = index
        for key in place[:-1]:
            holder = holder[key]
        if place and draw(st.booleans()):
            del holder[place[-1]]
        elif place:
            holder[place[-1]] = draw(VALUES)
    try:
        members[0] = Member("index.json", canonical_json(index))
    except ValueError:
        members[0] = Member("index.json", repr(index).encode())
    for _ in range(draw(st.integers(0, 2))):
        members = draw(st.sampled_from([_swap, _repeat, _drop, _rename, _patch, _insert]))(draw, members)
    data = bytearray(archive(members, draw(st.sampled_from([bytes(1024), bytes(1024), bytes(10240), b""]))))
    for _ in range(draw(st.integers(0, 2))):
        data = _damage(draw, data)
    return bytes(data)


def _swap(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    return draw(st.permutations(members))


def _repeat(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    return [*members, draw(st.sampled_from(members))] if members else members


def _drop(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    place = draw(st.integers(0, max(len(members) - 1, 0)))
    return members[:place] + members[place + 1 :]


def _rename(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    return _change(draw, members, lambda member: replace(member, name=draw(NAMES)))


def _patch(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    anywhere = st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=8))
    patch = draw(
        st.one_of(KINDS.map(lambda kind: (156, bytes([kind]))), SIZES.map(lambda size: (124, size)), anywhere)
    )
    return _change(
        draw, members, lambda member: replace(member, patches={patch[0]: patch[1][: 512 - patch[0]]})
    )


def _insert(draw: st.DrawFn, members: list[Member]) -> list[Member]:
    place = draw(st.integers(0, len(members)))
    return [*members[:place], Member(draw(NAMES), draw(st.binary(max_size=600))), *members[place:]]


def _change(draw: st.DrawFn, members: list[Member], change: Callable[[Member], Member]) -> list[Member]:
    if not members:
        return members
    place = draw(st.integers(0, len(members) - 1))
    return [*members[:place], change(members[place]), *members[place + 1 :]]


def _damage(draw: st.DrawFn, data: bytearray) -> bytearray:
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    match draw(st.sampled_from(["flip", "cut", "insert", "delete", "overwrite"])):
        case "flip" if data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        case "cut":
            del data[place:]
        case "insert":
            data[place:place] = draw(st.binary(max_size=1024))
        case "delete":
            del data[place : place + draw(st.integers(1, 1024))]
        case _:
            piece = draw(st.binary(max_size=64))
            data[place : place + len(piece)] = piece
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(data=bundles())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def attack(folder: Path, home: Path, data: bytes) -> None:
    """Read, and import into an empty store below an empty home, in little memory."""
    tracemalloc.start()
    try:
        read_and_import(folder, home, data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def read_and_import(folder: Path, home: Path, data: bytes) -> None:
    try:
        read_bundle(BytesIO(data), len(data))
    except EdgeloraError:
        # An import opens the file in just this way.
        return
    (folder / "in.edgelora").write_bytes(data)
    mirror = folder / "mirror"
    for place in (mirror, home / "bases"):
        shutil.rmtree(place, ignore_errors=True)
    try:
        done = import_bundle(folder / "in.edgelora", str(mirror))
        assert len(done.adapters) == len(set(done.adapters)) <= 1
        assert DirectoryStore(mirror).fsck().is_clean or not done.adapters
    except EdgeloraError:
        pass
    assert set(os.listdir(folder)) <= {"in.edgelora", "mirror"}
    assert set(os.listdir(home)) <= {"bases", "cache", "config", "locks"}


def test_any_bytes_are_a_bundle_or_an_error(
    folder: Path, edgelora_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    end = time.monotonic() + SECONDS
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        attack(folder, edgelora_home)
        rounds += 1
    print(f"{rounds} rounds of 150 inputs")


@given(data=st.binary(max_size=4096))
@settings(max_examples=100, deadline=None, database=None)
def test_noise_is_an_error(data: bytes) -> None:
    with pytest.raises(EdgeloraError):
        read_bundle(BytesIO(data), len(data))
