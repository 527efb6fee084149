from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digest caches of their own, so that no test sees another's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EDGELORA_HOME", str(home))
    return home
