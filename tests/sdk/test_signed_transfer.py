"""Signed adapters through a store: who signed is asked before anything is fetched, and signatures add up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from crashes import die_at_every_step
from signers import ed25519, p256, policy, signed_adapter

from edgelora.errors import (
    DigestMismatch,
    KeyRevoked,
    ReferenceFormError,
    SignatureInvalid,
    SignatureUntrusted,
    SignedManifest,
    Unsigned,
)
from edgelora.locations import home
from edgelora.manifest import SIGNATURE_NAME, read_manifest
from edgelora.signing import Revocation, check_trusted, parse_envelope, sign
from edgelora.store import DirectoryStore, parse_reference
from edgelora.store.blobs import blob_path
from edgelora.transfer import pull, push, release_as, remove
from edgelora.verify import verify

ONE, TWO = ed25519("one"), p256("two")
BOTH = policy(ONE, TWO, threshold=2)


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    return str(tmp_path / "mirror")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return signed_adapter(tmp_path / "adapter", ONE)


def keyids(folder: Path) -> set[str]:
    envelope = parse_envelope((folder / "edgelora.sig.json").read_bytes())
    return {signature.keyid for signature in envelope.signatures}


def test_a_signature_travels_with_its_adapter(folder: Path, mirror: str) -> None:
    assert push(folder, "alice/decimals", to=mirror).files == 5
    pulled = pull("alice/decimals", mirror, policy=policy(ONE))
    assert (pulled.folder / "edgelora.sig.json").read_bytes() == (folder / "edgelora.sig.json").read_bytes()
    assert [(signer.name, signer.standing) for signer in pulled.signers] == [("key1", "trusted")]
    check_trusted(pulled.folder, policy(ONE))
    assert verify(pulled.folder) == [] and pulled.remarks == ()


def test_nothing_is_fetched_before_the_policy_is_met(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, "alice/decimals", to=mirror)
    push(write_adapter(folder.parent / "bare", name="alice/bare"), "alice/bare", to=mirror)
    opened: list[str] = []
    open_file = DirectoryStore.open_file

    def noted(self, snapshot, path, *, offset=0):  # type: ignore[no-untyped-def]
        opened.append(path)
        return open_file(self, snapshot, path, offset=offset)

    monkeypatch.setattr(DirectoryStore, "open_file", noted)
    revoked = policy(ONE).model_copy(update={"revoked": {ONE.public.fingerprint: Revocation()}})
    for rules, error in (
        (BOTH, SignatureUntrusted),
        (policy(TWO), SignatureUntrusted),
        (revoked, KeyRevoked),
    ):
        with pytest.raises(error):
            pull("alice/decimals", mirror, policy=rules)
    with pytest.raises(Unsigned):
        pull("alice/bare", mirror, policy=BOTH)
    assert set(opened) == {"edgelora.sig.json"}
    assert not (home() / "adapters").exists() and not (home() / "state/releases").exists()


def test_the_policy_in_force_decides_when_an_adapter_is_pulled(
    folder: Path, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, "alice/decimals", to=mirror)
    (tmp_path / "trust.yaml").write_text("default: {require_signature: true}\n")
    monkeypatch.setenv("EDGELORA_TRUST_POLICY", str(tmp_path / "trust.yaml"))
    with pytest.raises(SignatureUntrusted, match="0 of the 1"):
        pull("alice/decimals", mirror)


def test_a_stranger_who_signed_is_told(folder: Path, mirror: str) -> None:
    push(folder, "alice/decimals", to=mirror)
    assert [remark.split("sha256:")[0] for remark in pull("alice/decimals", mirror).remarks] == [
        "alice/decimals@1.0.0 is signed by "
    ]


def test_a_second_signer_adds_to_a_version_that_is_there(folder: Path, mirror: str, tmp_path: Path) -> None:
    first = push(folder, "alice/decimals", to=mirror)
    with pytest.raises(SignatureUntrusted, match="1 of the 2"):
        pull("alice/decimals", mirror, policy=BOTH)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "edgelora.sig.json").unlink()
    sign(other, [TWO])
    second = push(other, "alice/decimals", to=mirror)
    assert (second.reused, second.manifest_digest) == (False, first.manifest_digest)
    pulled = pull("alice/decimals", mirror, policy=BOTH)
    assert keyids(pulled.folder) == {ONE.public.fingerprint, TWO.public.fingerprint}
    store = DirectoryStore(Path(mirror))
    assert store.fsck().problems == ()
    assert store.versions("alice", "decimals") == ["1.0.0"]
    assert store.head("alice", "decimals") == second.commit != first.commit
    assert push(folder, "alice/decimals", to=mirror).reused, "a subset of the signatures changes nothing"
    assert push(other, "alice/decimals", to=mirror).reused
    bare = write_adapter(tmp_path / "bare")
    assert push(bare, "alice/decimals", to=mirror).reused, "nor does the same adapter without signatures"
    assert keyids(pull("alice/decimals", mirror, policy=BOTH).folder) == keyids(pulled.folder)


def test_a_pulled_adapter_gets_the_signatures_that_were_added(folder: Path, mirror: str) -> None:
    push(folder, "alice/decimals", to=mirror)
    pulled = pull("alice/decimals", mirror)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=mirror)
    again = pull("alice/decimals", mirror, policy=BOTH)
    assert again.reused and again.fetched_bytes == 0
    assert len(keyids(pulled.folder)) == 2


def test_signing_does_not_move_the_order_of_versions(folder: Path, mirror: str, tmp_path: Path) -> None:
    push(folder, "alice/decimals", to=mirror)
    newer = push(write_adapter(tmp_path / "newer", version="1.1.0"), "alice/decimals@1.1.0", to=mirror)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=mirror)
    store = DirectoryStore(Path(mirror))
    assert store.head("alice", "decimals") == newer.commit
    main = store.resolve(parse_reference("alice/decimals@main"))
    assert main.reference.version == "1.1.0"
    assert store.fsck().problems == ()


@pytest.mark.parametrize("removed", [False, True])
def test_adding_a_signature_that_dies_leaves_the_old_version_or_the_new(
    folder: Path, tmp_path: Path, removed: bool
) -> None:
    mirror, template = tmp_path / "mirror", tmp_path / "template"
    push(folder, "alice/decimals", to=str(template))
    if removed:
        remove("alice/decimals@1.0.0", str(template))
    sign(folder, [TWO])
    seen = []

    def restore() -> None:
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(template, mirror)

    for _ in die_at_every_step(lambda: push(folder, "alice/decimals", to=str(mirror)), restore):
        store = DirectoryStore(mirror)
        assert store.fsck().problems == ()
        if store.versions("alice", "decimals"):
            shutil.rmtree(tmp_path / "got", ignore_errors=True)
            pulled = pull("alice/decimals", str(mirror), tmp_path / "got", policy=policy(ONE, TWO))
            seen.append(len(keyids(pulled.folder)))
        receipt = push(folder, "alice/decimals", to=str(mirror))
        assert store.head("alice", "decimals") == receipt.commit
        assert store.fsck().problems == ()
    assert seen == sorted(seen) and set(seen) == {1, 2}


def test_two_who_sign_at_the_same_time_both_count(folder: Path, mirror: str, tmp_path: Path) -> None:
    """The second one gathered its signatures on a commit that was replaced, and gathers them again."""
    bare = write_adapter(tmp_path / "bare")
    push(bare, "alice/decimals", to=mirror)
    other = tmp_path / "other"
    shutil.copytree(bare, other)
    sign(other, [TWO])
    publish = DirectoryStore.publish
    interrupted = False

    def late(self, publication):  # type: ignore[no-untyped-def]
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            push(other, "alice/decimals", to=mirror)
        return publish(self, publication)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectoryStore, "publish", late)
        push(folder, "alice/decimals", to=mirror)
    assert len(keyids(pull("alice/decimals", mirror, policy=BOTH).folder)) == 2


def test_a_signed_folder_is_published_as_it_is_or_not_at_all(folder: Path, mirror: str) -> None:
    with pytest.raises(SignedManifest, match=r"is signed as alice/decimals@1\.0\.0, release 1") as caught:
        push(folder, "factory/line-7@2.0.0", to=mirror)
    assert "edgelora sign DIR --as" in caught.value.fix
    assert not Path(mirror, "repos").exists()
    push(write_adapter(folder.parent / "first", version="0.9.0"), "alice/decimals", to=mirror)
    with pytest.raises(SignedManifest, match="release 2, would change what was signed"):
        push(folder, "alice/decimals", to=mirror)


def test_a_folder_gets_its_identity_before_it_is_signed(tmp_path: Path, mirror: str) -> None:
    push(write_adapter(tmp_path / "first"), "factory/line-7@0.9.0", to=mirror)
    folder = write_adapter(tmp_path / "second", seed=2)
    manifest = release_as(folder, f"{Path(mirror).as_uri()}#factory/line-7@1.0.0", channel="beta")
    assert (manifest.identity.release_sequence, manifest.identity.channel) == (2, "beta")
    assert verify(folder) == [] and read_manifest(folder) == manifest
    assert release_as(folder, f"{Path(mirror).as_uri()}#factory/line-7@1.0.0") == manifest
    sign(folder, [ONE])
    receipt = push(folder, "factory/line-7@1.0.0", to=mirror)
    rules = policy(ONE, scope="factory/line-7")
    assert pull("factory/line-7", mirror, channel="beta", policy=rules).manifest == manifest
    assert receipt.reference == "factory/line-7@1.0.0"
    with pytest.raises(ReferenceFormError, match="does not say which version"):
        release_as(folder, "factory/line-7")


def test_a_wrong_signature_file_is_not_published(folder: Path, mirror: str) -> None:
    (folder / "edgelora.sig.json").write_bytes((folder / "edgelora.sig.json").read_bytes() + b"\n")
    with pytest.raises(SignatureInvalid, match="canonical form"):
        push(folder, "alice/decimals", to=mirror)


def test_a_damaged_signature_in_a_mirror_is_seen_and_repaired(folder: Path, mirror: str) -> None:
    push(folder, "alice/decimals", to=mirror)
    snapshot = DirectoryStore(Path(mirror)).resolve(parse_reference("alice/decimals"))
    (file,) = (file for file in snapshot.files if file.path == "edgelora.sig.json")
    blob = Path(mirror, blob_path(file.sha256))
    blob.chmod(0o644)
    blob.write_bytes(bytes(file.size))
    with pytest.raises(DigestMismatch, match=r"edgelora\.sig\.json of .* is not the file the store lists"):
        pull("alice/decimals", mirror)
    assert os.listdir(home()) in ([], ["state"], ["locks"])
    with pytest.raises(DigestMismatch):
        push(write_adapter(folder.parent / "bare"), "alice/decimals", to=mirror)
    push(folder, "alice/decimals", to=mirror)
    pull("alice/decimals", mirror, policy=policy(ONE))


def test_a_mirror_that_drops_or_swaps_a_signature_is_refused(
    folder: Path, mirror: str, tmp_path: Path
) -> None:
    """The mirror's owner may write what they like into its records; the policy still asks for a signature."""
    push(folder, "alice/decimals", to=mirror)
    push(write_adapter(tmp_path / "bare"), "alice/decimals", to=str(tmp_path / "stripped"))
    with pytest.raises(Unsigned):
        pull("alice/decimals", str(tmp_path / "stripped"), policy=policy(ONE))
    other = signed_adapter(tmp_path / "other", ONE, seed=9)
    forged = signed_adapter(tmp_path / "forged", TWO)
    shutil.copy(other / "edgelora.sig.json", forged)
    with pytest.raises(SignatureInvalid, match="another manifest"):
        push(forged, "alice/decimals", to=str(tmp_path / "swapped"))


def sides(tmp_path: Path) -> tuple[str, str]:
    """Two mirrors of one release: one holds both signatures, the other one of them."""
    write_adapter(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "both")
    for name, keys in (("one", [ONE]), ("both", [ONE, TWO])):
        sign(tmp_path / name, keys)
        push(tmp_path / name, "alice/decimals", to=str(tmp_path / f"mirror-{name}"))
    return str(tmp_path / "mirror-both"), str(tmp_path / "mirror-one")


def test_a_mirror_that_has_fewer_signatures_takes_none_away(tmp_path: Path) -> None:
    both, one = sides(tmp_path)
    folder = pull("alice/decimals", both, policy=policy(ONE)).folder
    pulled = pull("alice/decimals", one, policy=policy(ONE))
    assert pulled.reused
    assert check_trusted(folder, policy(ONE, TWO, threshold=2))
    (folder / "README.md").write_text("damaged")
    assert not pull("alice/decimals", one, policy=policy(ONE)).reused
    assert check_trusted(folder, policy(ONE, TWO, threshold=2)), "nor where the files are fetched again"


def test_a_mirror_that_has_more_signatures_adds_them(tmp_path: Path) -> None:
    both, one = sides(tmp_path)
    folder = pull("alice/decimals", one, policy=policy(ONE)).folder
    pull("alice/decimals", both, policy=policy(ONE))
    assert check_trusted(folder, policy(ONE, TWO, threshold=2))


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"payload":""}'])
def test_a_damaged_signature_file_of_a_folder_is_replaced(tmp_path: Path, damage: bytes) -> None:
    both, _ = sides(tmp_path)
    folder = pull("alice/decimals", both, policy=policy(ONE)).folder
    (folder / SIGNATURE_NAME).write_bytes(damage)
    pull("alice/decimals", both, policy=policy(ONE))
    assert check_trusted(folder, policy(ONE, TWO, threshold=2))


def test_a_crowd_of_strangers_drives_no_signature_out(tmp_path: Path) -> None:
    both, one = sides(tmp_path)
    folder = pull("alice/decimals", both, policy=policy(ONE)).folder
    sign(tmp_path / "one", [ed25519(f"stranger{number}") for number in range(15)])
    push(tmp_path / "one", "alice/decimals", to=one)
    pull("alice/decimals", one, policy=policy(ONE, TWO))
    assert check_trusted(folder, policy(ONE, TWO, threshold=2))
