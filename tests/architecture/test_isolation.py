"""Tests leave neither this machine nor their own home directory."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def test_a_socket_to_elsewhere_is_refused() -> None:
    with socket.socket() as outside, pytest.raises(AssertionError, match="loopback only"):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(AssertionError, match="loopback only"):
        socket.create_connection(("example.org", 443), timeout=1)


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]):
        server.accept()[0].close()


def test_each_test_has_an_empty_home(edgelora_home: Path) -> None:
    assert os.environ["EDGELORA_HOME"] == str(edgelora_home)
    assert list(edgelora_home.iterdir()) == []


def test_libraries_are_told_to_stay_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
