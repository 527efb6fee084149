"""The store's tests do without the disk's acknowledgement: no test can take the power away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub, go_online


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing the kernel has. What is synced, and when, is in test_durability.py."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub on loopback, for a process that is allowed to use the network and never waits."""
    go_online(monkeypatch, tmp_path)
    with LoopbackHub() as hub:
        yield hub
