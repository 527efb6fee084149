"""One changed byte anywhere in a signed adapter is refused: every byte of every file is tried."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from signers import ed25519, p256, policy, signed_adapter

from edgelora.errors import EdgeloraError
from edgelora.manifest import read_manifest
from edgelora.signing import TrustPolicy, check_trusted, judge
from edgelora.transfer import pull, push
from edgelora.verify import read_verified

ONE, TWO = ed25519("one"), p256("two")
POLICY = policy(ONE, TWO, threshold=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed_adapter(tmp_path_factory.mktemp("flips") / "adapter", ONE, TWO, rows=1)


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << (position % 8)
    return bytes(changed)


def test_every_byte_of_the_signature_file(folder: Path) -> None:
    manifest = (folder / "edgelora.json").read_bytes()
    signature = (folder / "edgelora.sig.json").read_bytes()
    identity = read_manifest(folder).identity
    judge(manifest, signature, identity=identity, policy=POLICY, where="it")
    for position in range(len(signature)):
        with pytest.raises(EdgeloraError) as caught:
            judge(manifest, flipped(signature, position), identity=identity, policy=POLICY, where="it")
        assert caught.value.exit_code == 6, position
    for end in range(len(signature)):
        with pytest.raises(EdgeloraError):
            judge(manifest, signature[:end], identity=identity, policy=POLICY, where="it")


def test_every_byte_of_the_manifest(folder: Path) -> None:
    manifest = (folder / "edgelora.json").read_bytes()
    signature = (folder / "edgelora.sig.json").read_bytes()
    identity = read_manifest(folder).identity
    for position in range(len(manifest)):
        with pytest.raises(EdgeloraError) as caught:
            judge(flipped(manifest, position), signature, identity=identity, policy=POLICY, where="it")
        assert caught.value.id == "signature-invalid", position


def test_every_byte_of_every_file(folder: Path) -> None:
    manifest = check_trusted(folder, POLICY)
    count = 0
    for entry in manifest.files:
        path = folder / entry.path
        data = path.read_bytes()
        for position in range(len(data)):
            path.write_bytes(flipped(data, position))
            with pytest.raises(EdgeloraError) as caught:
                read_verified(folder, manifest, entry.path)
            assert caught.value.id == "digest-mismatch"
            count += 1
        path.write_bytes(data)
    assert count == sum(entry.size for entry in manifest.files) > 300
    check_trusted(folder, POLICY)


@pytest.mark.parametrize("step", [1, 97])
def test_the_whole_check_refuses_samples_of_every_file(folder: Path, step: int) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for position in (0, len(data) // 2, len(data) - 1) if step == 1 else range(0, len(data), step):
            path.write_bytes(flipped(data, position))
            with pytest.raises(EdgeloraError):
                check_trusted(folder, POLICY)
        path.write_bytes(data)
    check_trusted(folder, POLICY)


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.acceptance)])
def test_every_byte_of_what_is_pulled_by_digest_without_signatures(
    folder: Path, tmp_path: Path, step: int
) -> None:
    mirror = tmp_path / "mirror"
    (tmp_path / "plain").mkdir()
    for path in folder.iterdir():
        if path.name != "edgelora.sig.json":
            (tmp_path / "plain" / path.name).write_bytes(path.read_bytes())
    push(tmp_path / "plain", "alice/decimals", to=str(mirror))
    manifest = (tmp_path / "plain/edgelora.json").read_bytes()
    reference = f"alice/decimals@sha256:{hashlib.sha256(manifest).hexdigest()}"
    places = [f"blobs/sha256/{d[:2]}/{d}" for d in digests(tmp_path / "plain")]
    tried = 0
    for place in places:
        blob = mirror / place
        data = blob.read_bytes()
        blob.chmod(0o644)
        for position in range(0, len(data), step):
            blob.write_bytes(flipped(data, position))
            with pytest.raises(EdgeloraError):
                pull(reference, str(mirror), tmp_path / "got")
            assert not (tmp_path / "got").exists()
            tried += 1
        blob.write_bytes(data)
    assert tried > 2000 / step
    assert pull(reference, str(mirror), tmp_path / "got").fetched_bytes


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_without_a_policy_a_flip_in_the_signature_file_is_seen_where_the_key_is_known(folder: Path) -> None:
    manifest = (folder / "edgelora.json").read_bytes()
    signature = (folder / "edgelora.sig.json").read_bytes()
    known = TrustPolicy(keys=POLICY.keys)
    payload_end = signature.index(b'","payloadType"')
    for position in range(payload_end):
        with pytest.raises(EdgeloraError):
            judge(
                manifest,
                flipped(signature, position),
                identity=read_manifest(folder).identity,
                policy=known,
                where="it",
            )
