"""Signatures in a remote store: with the version's commit, and later ones beside it, so that no tag moves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from signers import ed25519, policy, signed_adapter

from edgelora.errors import SignatureUntrusted, VersionExists
from edgelora.signing import parse_envelope, sign
from edgelora.store import open_store
from edgelora.transfer import pull, push, remove

ONE, TWO = ed25519("one"), ed25519("two")
BOTH = policy(ONE, TWO, threshold=2)
SIGNATURE = "edgelora.sig.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return signed_adapter(tmp_path / "adapter", ONE)


def signer_count(folder: Path) -> int:
    return len(parse_envelope((folder / SIGNATURE).read_bytes()).signatures)


def test_a_signature_travels_with_its_version(hub: LoopbackHub, folder: Path) -> None:
    receipt = push(folder, "alice/decimals", to=hub.url)
    assert SIGNATURE in hub.repos["alice/decimals"].commits[receipt.commit]
    assert signer_count(pull("alice/decimals", hub.url, policy=policy(ONE)).folder) == 1


def test_a_second_signer_adds_to_a_version_that_stays_the_same_commit(
    hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    first = push(folder, "alice/decimals", to=hub.url)
    main = hub.repos["alice/decimals"].branches["main"]
    with pytest.raises(SignatureUntrusted):
        pull("alice/decimals", hub.url, policy=BOTH)
    other = shutil.copytree(folder, tmp_path / "other")
    (other / SIGNATURE).unlink()
    sign(other, [TWO])
    second = push(other, "alice/decimals", to=hub.url)
    assert not second.reused and second.commit == first.commit == main
    assert hub.repos["alice/decimals"].tags == {"1.0.0": main}
    assert hub.repos["alice/decimals"].branches["main"] == main
    assert signer_count(pull("alice/decimals", hub.url, policy=BOTH).folder) == 2
    assert push(other, "alice/decimals", to=hub.url).reused


def test_two_who_sign_at_the_same_time_both_count(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    push(folder, "alice/decimals", to=hub.url)
    others = []
    for name in ("two", "three"):
        others.append(shutil.copytree(folder, tmp_path / name))
        sign(others[-1], [ed25519(name)])

    def be_faster() -> None:
        hub.before_commit = lambda: None
        push(others[1], "alice/decimals", to=hub.url)

    hub.before_commit = be_faster
    push(others[0], "alice/decimals", to=hub.url)
    assert signer_count(pull("alice/decimals", hub.url).folder) == 3


def test_a_version_that_comes_back_keeps_the_signatures_it_got(
    hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    push(folder, "alice/decimals", to=hub.url)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=hub.url)
    remove("alice/decimals@1.0.0", hub.url)
    push(folder, "alice/decimals", to=hub.url)
    assert signer_count(pull("alice/decimals", hub.url, policy=BOTH).folder) == 2


def test_other_content_is_refused_however_it_is_signed(
    hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    push(folder, "alice/decimals", to=hub.url)
    other = signed_adapter(tmp_path / "other", ONE, seed=5)
    with pytest.raises(VersionExists):
        push(other, "alice/decimals", to=hub.url)


def test_a_signed_version_can_be_pulled_offline(
    hub: LoopbackHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, "alice/decimals", to=hub.url)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=hub.url)
    pull("alice/decimals", hub.url, policy=BOTH)
    monkeypatch.setenv("EDGELORA_OFFLINE", "1")
    pulled = pull("alice/decimals@1.0.0", hub.url, tmp_path / "again", policy=BOTH)
    assert signer_count(pulled.folder) == 2 and pulled.fetched_bytes == 0
    assert type(open_store(hub.url)).__name__ == "OfflineStore"
