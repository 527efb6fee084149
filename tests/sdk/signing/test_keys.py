"""Keys, their files, and signatures that have no second form."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from signers import ed25519, p256

from edgelora.errors import KeyFileError, KeyNotFound, MissingFile
from edgelora.locations import config_dir
from edgelora.signing import find_key, import_key, list_keys, new_key, open_private
from edgelora.signing.keys import KeyType, read_private_pem, read_public_der, read_public_pem

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("key", [ed25519("one"), p256("one")], ids=["ed25519", "p256"])
def test_a_signature_holds_for_its_key_and_its_bytes_only(key) -> None:  # type: ignore[no-untyped-def]
    signature = key.sign(b"data")
    assert key.public.verifies(signature, b"data")
    assert not key.public.verifies(signature, b"Data")
    assert not type(key)(ed25519("two").key).public.verifies(signature, b"data")
    assert not key.public.verifies(b"", b"data")
    assert not key.public.verifies(signature + b"\0", b"data")


def test_every_signature_of_p256_has_the_lower_s() -> None:
    key = p256("one")
    for number in range(20):
        assert decode_dss_signature(key.sign(bytes([number])))[1] <= ORDER // 2


def test_the_twin_and_loose_der_of_a_p256_signature_are_refused() -> None:
    key = p256("one")
    signature = key.sign(b"data")
    r, s = decode_dss_signature(signature)
    twin = encode_dss_signature(r, ORDER - s)
    key.key.public_key().verify(twin, b"data", ec.ECDSA(serialization_hash()))  # a loose verifier takes it
    assert not key.public.verifies(twin, b"data")
    longer = b"\x30\x81" + signature[1:]
    assert not key.public.verifies(longer, b"data")


def serialization_hash():  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def test_the_fingerprint_is_the_digest_of_the_subject_public_key_info() -> None:
    key = ed25519("one").public
    assert key.fingerprint == "sha256:" + __import__("hashlib").sha256(key.der).hexdigest()
    assert read_public_pem(key.pem, "it") == read_public_der(key.der, "it") == key


def test_a_compressed_point_is_another_spelling_and_refused() -> None:
    public = p256("one").key.public_key()
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    with pytest.raises(KeyFileError, match="unusual form"):
        read_public_der(der, "it")


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_new_key_is_kept_for_its_owner_alone(kind: KeyType) -> None:
    key = new_key("ops", kind)
    path = config_dir() / "keys/private/ops.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert open_private("ops").public == key.public
    assert [found.name for found in list_keys()] == ["ops"]
    assert find_key(key.public.fingerprint).can_sign


def test_a_key_may_need_a_passphrase() -> None:
    new_key("ops", passphrase=b"correct horse")
    assert find_key("ops").is_locked
    assert open_private("ops", b"correct horse").public == find_key("ops").public
    with pytest.raises(KeyFileError, match="the key ops is encrypted") as caught:
        open_private("ops")
    assert caught.value.fix == "set EDGELORA_KEY_PASSPHRASE to its passphrase"
    with pytest.raises(KeyFileError, match="does not open with this passphrase"):
        open_private("ops", b"wrong")


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o640, 0o604])
def test_a_private_key_that_others_can_use_does_not_sign(mode: int) -> None:
    new_key("ops")
    path = config_dir() / "keys/private/ops.pem"
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="others than you can use the private key") as caught:
        open_private("ops")
    assert caught.value.fix.startswith(f"chmod 600 {path}")
    path.chmod(0o600)
    path.parent.chmod(0o722)
    with pytest.raises(KeyFileError) as caught:
        open_private("ops")
    assert caught.value.fix.startswith(f"chmod 700 {path.parent}")
    path.parent.chmod(0o700)
    assert open_private("ops")


def test_a_key_is_never_replaced() -> None:
    first = new_key("ops")
    with pytest.raises(KeyFileError, match="keys are never replaced"):
        new_key("ops")
    assert find_key("ops") == first
    with pytest.raises(KeyFileError, match="cannot be the name of a key"):
        new_key("../ops")


def test_keys_are_imported_from_pem(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(ed25519("one").pem())
    public.write_bytes(p256("two").public.pem)
    assert import_key("mine", private).can_sign
    assert not import_key("theirs", public).can_sign
    with pytest.raises(KeyNotFound, match="only the public half of the key theirs") as caught:
        open_private("theirs")
    assert caught.value.exit_code == 4
    with pytest.raises(MissingFile, match="there is no key file"):
        import_key("none", tmp_path / "none.pem")


def test_an_unknown_key_is_told_with_those_there_are() -> None:
    new_key("ops")
    for name in ("obs", "sha256:" + "0" * 64, "../ops"):
        with pytest.raises(KeyNotFound) as caught:
            find_key(name)
        assert caught.value.fix == "use one of ops"


def test_other_kinds_of_keys_and_other_files_are_refused() -> None:
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(KeyFileError, match="another kind"):
        read_private_pem(other, "it")
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = curve.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFileError, match="another kind"):
        read_public_pem(pem, "it")
    for read in (read_private_pem, read_public_pem, read_public_der):
        with pytest.raises(KeyFileError, match="it is no p"):
            read(b"no key", "it")


def test_halves_that_do_not_belong_together_are_refused() -> None:
    new_key("ops")
    (config_dir() / "keys/public/ops.pem").write_bytes(ed25519("one").public.pem)
    with pytest.raises(KeyFileError, match="do not belong together"):
        open_private("ops")


def test_files_that_are_no_keys_do_not_hinder_those_that_are() -> None:
    new_key("ops")
    folder = config_dir() / "keys/public"
    (folder / "notes.pem").write_text("no key")
    (folder / "long.pem").write_bytes(bytes(2**20))
    (folder / "gone.pem").symlink_to("nowhere")
    assert [found.name for found in list_keys()] == ["ops"]
