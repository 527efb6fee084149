"""The store's tests do without the disk's acknowledgement: no test can take the power away."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing the kernel has. What is synced, and when, is in test_durability.py."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
