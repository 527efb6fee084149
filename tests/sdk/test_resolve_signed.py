"""A pulled adapter is held to the policy again when it is used: a key may be revoked meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from signers import ed25519, signed_adapter

from edgelora.errors import KeyRevoked, Unsigned
from edgelora.signing import NamedKey, revoke, trust
from edgelora.transfer import pull, push, resolve_adapter

ONE = ed25519("one")


def test_revoking_a_key_reaches_what_was_pulled_before(tmp_path: Path) -> None:
    trust(NamedKey("ops", ONE.public, can_sign=False), ["alice"])
    push(signed_adapter(tmp_path / "adapter", ONE), "alice/decimals", to=str(tmp_path / "mirror"))
    folder = pull("alice/decimals", str(tmp_path / "mirror")).folder
    assert resolve_adapter("alice/decimals") == folder
    revoke(ONE.public.fingerprint, "lost")
    with pytest.raises(KeyRevoked, match="was revoked: lost"):
        resolve_adapter("alice/decimals")


def test_a_signature_that_was_taken_away_is_missed(tmp_path: Path) -> None:
    trust(NamedKey("ops", ONE.public, can_sign=False), ["alice"])
    push(signed_adapter(tmp_path / "adapter", ONE), "alice/decimals", to=str(tmp_path / "mirror"))
    folder = pull("alice/decimals", str(tmp_path / "mirror")).folder
    (folder / "edgelora.sig.json").unlink()
    with pytest.raises(Unsigned):
        resolve_adapter(folder)
    pull("alice/decimals", str(tmp_path / "mirror"))
    assert resolve_adapter(folder) == folder
