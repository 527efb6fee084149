"""Ed25519 and ECDSA P-256 keys: their files, their fingerprints, and signatures that have one form only.

`cryptography` is imported when a key is used, not before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgelora.errors import KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    AnyPublic = Ed25519PublicKey | EllipticCurvePublicKey
    AnyPrivate = Ed25519PrivateKey | EllipticCurvePrivateKey

KeyType = Literal["ed25519", "p256"]
MAX_KEY_BYTES = 16 * 2**10
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_FIX = "pass an Ed25519 or ECDSA P-256 key in PEM; make one with: edgelora keys new NAME"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that checks signatures."""

    der: bytes
    """SubjectPublicKeyInfo, in the only form in which it is written."""
    type: KeyType

    @property
    def fingerprint(self) -> str:
        """``sha256:`` and the digest of ``der``: what signatures and policies call the key."""
        return f"sha256:{hashlib.sha256(self.der).hexdigest()}"

    @property
    def pem(self) -> bytes:
        """As a file."""
        import base64
        import textwrap

        body = "\n".join(textwrap.wrap(base64.b64encode(self.der).decode(), 64))
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made ``signature`` over ``data``, and made it in the only form that is allowed."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = _load_public(self.der)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, data)
            else:
                if not _is_strict(signature):
                    return False
                key.verify(signature, data, _ecdsa())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that makes signatures."""

    key: AnyPrivate

    @property
    def public(self) -> PublicKey:
        """Its other half."""
        return _public(self.key.public_key(), "the private key")

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``: 64 bytes of Ed25519, or strict DER with the lower S of P-256."""
        from cryptography.hazmat.primitives.asymmetric import utils
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(data)
        r, s = utils.decode_dss_signature(self.key.sign(data, _ecdsa()))
        return utils.encode_dss_signature(r, min(s, _P256_ORDER - s))

    def pem(self, passphrase: bytes | None = None) -> bytes:
        """PKCS#8, encrypted where a passphrase is given."""
        from cryptography.hazmat.primitives import serialization as form

        how: form.KeySerializationEncryption = (
            form.BestAvailableEncryption(passphrase) if passphrase else form.NoEncryption()
        )
        return self.key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, how)


def new_private_key(kind: KeyType) -> PrivateKey:
    """A fresh key from the system's random numbers."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    makers: dict[str, Any] = {
        "ed25519": Ed25519PrivateKey.generate,
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    return PrivateKey(makers[kind]())


def read_private_pem(data: bytes, where: str, passphrase: bytes | None = None) -> PrivateKey:
    """A private key from a PEM file.

    Raises:
        KeyFileError: It is no such key, of another kind, or encrypted and the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(data, passphrase if is_encrypted(data) else None)
    except TypeError as error:
        raise KeyFileError(
            f"{where} is encrypted", fix="set EDGELORA_KEY_PASSPHRASE to its passphrase"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = "does not open with this passphrase" if is_encrypted(data) else "is no private key in PEM"
        raise KeyFileError(f"{where} {problem}", fix=_FIX) from error
    _public(key.public_key(), where)
    return PrivateKey(key)


def is_encrypted(data: bytes) -> bool:
    """Whether a PEM file needs a passphrase."""
    return b"ENCRYPTED" in data


def read_public_pem(data: bytes, where: str) -> PublicKey:
    """A public key from a PEM file.

    Raises:
        KeyFileError: It is no public key, or of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return _public(load_pem_public_key(data), where)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{where} is no public key in PEM", fix=_FIX) from error


def read_public_der(der: bytes, where: str) -> PublicKey:
    """A public key from its SubjectPublicKeyInfo.

    Raises:
        KeyFileError: It is no public key, of another kind, or spelled in an unusual way.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = _public(_load_public(der), where)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{where} is no public key", fix=_FIX) from error
    if key.der != der:
        raise KeyFileError(f"{where} is a public key in an unusual form", fix="export it again as PEM")
    return key


def _public(key: Any, where: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    kind: KeyType
    if isinstance(key, Ed25519PublicKey):
        kind = "ed25519"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        kind = "p256"
    else:
        raise KeyFileError(f"{where} is of another kind than Ed25519 and ECDSA P-256", fix=_FIX)
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), kind)


def _load_public(der: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(der)


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256())


def _is_strict(signature: bytes) -> bool:
    """Every ECDSA signature has a twin with the other S, and DER can be written loosely: neither is taken."""
    from cryptography.hazmat.primitives.asymmetric import utils

    try:
        r, s = utils.decode_dss_signature(signature)
    except ValueError:
        return False
    return s <= _P256_ORDER // 2 and utils.encode_dss_signature(r, s) == signature
