"""What holds for every test: loopback only, a home directory of its own, no plugin choice inherited.

A test's home is empty. Fixtures of module or session scope see another one, the session's.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_distributions import FakeEnvironment
from loopback_hub import LoopbackHub, go_online

# Before any test module is imported: libraries read these while they are imported.
for _variable in (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
):
    os.environ[_variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _variable in ("EDGELORA_BLOCK", "EDGELORA_ONLY"):
    os.environ.pop(_variable, None)
_session_home = tempfile.TemporaryDirectory(prefix="edgelora-tests-")
os.environ["EDGELORA_HOME"] = _session_home.name

_LOOPBACK = ("127.", "localhost", "::1")


class NetworkUsed(AssertionError):
    """A test tried to leave this machine."""


def _check_address(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOOPBACK):
        raise NetworkUsed(f"a test opened a socket to {address!r}; tests reach loopback only")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Raise when a socket goes to anything but loopback, or a name other than localhost is looked up."""
    patch = pytest.MonkeyPatch()
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        _check_address(self.family, address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        _check_address(self.family, address)
        return connect_ex(self, address)

    def checked_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "0.0.0.0", "::", socket.gethostname()):
            _check_address(socket.AF_INET, (name,))
        return look_up(host, *arguments, **options)

    patch.setattr(socket.socket, "connect", checked_connect)
    patch.setattr(socket.socket, "connect_ex", checked_connect_ex)
    patch.setattr(socket, "getaddrinfo", checked_look_up)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def edgelora_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, in ``EDGELORA_HOME``."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EDGELORA_HOME", str(home))
    return home


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEnvironment]:
    """A place on ``sys.path`` to install fake distributions with plugins into."""
    fake = FakeEnvironment(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(fake.folder))
    yield fake
    fake.forget_modules()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub on loopback, for a process that is allowed to use the network and never waits."""
    go_online(monkeypatch, tmp_path)
    with LoopbackHub() as hub:
        yield hub
