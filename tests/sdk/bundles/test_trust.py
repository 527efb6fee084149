"""A bundle's signature covers all of it; the adapters in it are judged as by a pull."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from hostile_bundles import Member, archive

from edgelora.bundles import create_bundle, import_bundle, judge_index, open_bundle, sign_index
from edgelora.bundles.archive import member_bytes
from edgelora.errors import EdgeloraError, KeyRevoked, SignatureInvalid, SignatureUntrusted, Unsigned
from edgelora.signing import find_key, new_key, open_private, read_policy, revoke, sign, trust
from edgelora.store import DirectoryStore
from edgelora.transfer import pull, push


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    push(
        write_adapter(tmp_path / "adapter", name="acme/decimals", rows=1),
        "acme/decimals",
        to=str(tmp_path / "m"),
    )
    return str(tmp_path / "m")


def made(mirror: str, *signers: str, name: str = "out.edgelora") -> Path:
    keys = [open_private(signer) for signer in signers]
    return create_bundle(Path(mirror).parent / name, ["acme/decimals"], source=mirror, keys=keys).path


def test_a_bundle_signed_by_a_trusted_key_is_imported(mirror: str, tmp_path: Path) -> None:
    for name in ("ops", "other"):
        new_key(name)
    path = made(mirror, "ops", "other")
    policy = trust(find_key("ops"), ["acme"])
    unasked = policy.namespaces["acme"].model_copy(update={"require_signature": False})
    policy = policy.model_copy(update={"namespaces": {"acme": unasked}})
    done = import_bundle(path, str(tmp_path / "to"), policy=policy, require_signature=True)
    assert done.adapters == ("acme/decimals@1.0.0",)
    with open_bundle(path) as bundle:
        standing = {signer.fingerprint: signer.standing for signer in judge_index(bundle, policy)}
    assert standing[find_key("ops").public.fingerprint] == "trusted" and sorted(standing.values()) == [
        "known",
        "trusted",
    ]


def test_an_unsigned_an_untrusted_and_a_revoked_bundle_are_told_apart(mirror: str, tmp_path: Path) -> None:
    new_key("ops")
    with pytest.raises(Unsigned, match="the bundle is not signed"):
        import_bundle(made(mirror, name="a"), str(tmp_path / "to"), require_signature=True)
    signed = made(mirror, "ops", name="b")
    with pytest.raises(SignatureUntrusted):
        import_bundle(signed, str(tmp_path / "to"), require_signature=True)
    trust(find_key("ops"), ["elsewhere"])
    with pytest.raises(SignatureUntrusted):
        import_bundle(signed, str(tmp_path / "to"), require_signature=True)
    revoke(find_key("ops").public.fingerprint, "lost")
    with pytest.raises(KeyRevoked):
        import_bundle(signed, str(tmp_path / "to"), require_signature=True)
    assert not (tmp_path / "to").exists()


def test_the_adapters_are_judged_as_by_a_pull(mirror: str, tmp_path: Path) -> None:
    new_key("ops")
    trust(find_key("ops"), ["acme"])
    with pytest.raises(Unsigned, match=r"acme/decimals@1\.0\.0 is not signed"):
        import_bundle(made(mirror, "ops"), str(tmp_path / "to"), require_signature=True)
    folder = write_adapter(tmp_path / "signed", name="acme/decimals", rows=1)
    sign(folder, [open_private("ops")])
    push(folder, "acme/decimals", to=str(tmp_path / "n"))
    path = made(str(tmp_path / "n"), "ops", name="signed.edgelora")
    import_bundle(path, str(tmp_path / "to"), require_signature=True)
    assert (pull("acme/decimals", str(tmp_path / "to")).folder / "edgelora.sig.json").is_file()
    assert DirectoryStore(tmp_path / "to").fsck().is_clean


@pytest.mark.parametrize("stride", [37, pytest.param(1, marks=pytest.mark.acceptance, id="all")])
def test_one_flipped_byte_anywhere_in_a_signed_bundle_is_refused(
    mirror: str, tmp_path: Path, stride: int
) -> None:
    new_key("ops")
    trust(find_key("ops"), ["acme"])
    folder = write_adapter(tmp_path / "signed", name="acme/decimals", rows=1)
    sign(folder, [open_private("ops")])
    push(folder, "acme/decimals", to=str(tmp_path / "n"))
    path = made(str(tmp_path / "n"), "ops", name="signed.edgelora")
    whole, policy = path.read_bytes(), read_policy()
    flipped = tmp_path / "flipped.edgelora"
    for place in range(0, len(whole), stride):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        flipped.write_bytes(data)
        # What is there already would not be copied, so a flipped byte of it would never be read.
        shutil.rmtree(tmp_path / "to", ignore_errors=True)
        with pytest.raises(EdgeloraError):
            import_bundle(flipped, str(tmp_path / "to"), policy=policy, require_signature=True)
        assert not (tmp_path / "to/VERSION").exists() or DirectoryStore(tmp_path / "to").list_adapters() == []
    assert len(whole) > 8000


def test_a_signature_of_another_bundle_or_in_another_form_is_refused(mirror: str, tmp_path: Path) -> None:
    new_key("ops")
    with open_bundle(made(mirror, "ops")) as bundle:
        members = [Member(f"blobs/sha256/{blob.sha256}", bundle.read(blob)) for blob in bundle.index.blobs]
        index, signature = bundle.index_bytes, bundle.signature
    assert signature
    other = sign_index(index.replace(b'"1.0"', b'"1.1"'), [open_private("ops")])
    for wrong in (other, signature + b"\n", signature.replace(b"bundle.v1", b"manifest.v1"), b"{}", b""):
        path = tmp_path / "wrong.edgelora"
        path.write_bytes(archive([Member("index.json", index), Member("index.sig.json", wrong), *members]))
        with pytest.raises(SignatureInvalid):
            import_bundle(path, str(tmp_path / "to"))


def test_where_the_signature_lies_follows_from_its_length(mirror: str) -> None:
    new_key("ops")
    path = made(mirror, "ops")
    with open_bundle(path) as bundle:
        assert bundle.signature
        start = member_bytes(len(bundle.index_bytes)) + 512
        assert path.read_bytes()[start : start + len(bundle.signature)] == bundle.signature
