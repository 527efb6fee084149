"""The trust policy is asked when an adapter is applied, before the base is even looked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from adapter_folders import write_adapter
from signers import ed25519, signed_adapter

from edgelora.engine.apply import apply, load_adapted
from edgelora.errors import SignatureInvalid, SignatureUntrusted, Unsigned
from edgelora.registry import Registry
from edgelora.signing import NamedKey, trust


@pytest.fixture
def trusted_key() -> None:
    trust(NamedKey("ops", ed25519("one").public, can_sign=False), ["alice"])


def refuse(folder: Path, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_adapted(str(folder), Registry.discover())
    with pytest.raises(error):
        apply(SimpleNamespace(name_or_path="nowhere"), str(folder))


@pytest.mark.usefixtures("trusted_key")
def test_an_adapter_that_the_policy_refuses_is_not_applied(tmp_path: Path) -> None:
    refuse(write_adapter(tmp_path / "bare"), Unsigned)
    refuse(signed_adapter(tmp_path / "stranger", ed25519("two")), SignatureUntrusted)
    tampered = signed_adapter(tmp_path / "tampered", ed25519("one"))
    manifest = tampered / "edgelora.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"Apache-2.0", b"Apache-1.0"))
    refuse(tampered, SignatureInvalid)
