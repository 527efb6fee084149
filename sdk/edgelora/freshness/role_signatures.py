"""Signing the parts of a mirror's metadata with our keys, and refusing what a reader would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from edgelora.errors import SignatureUntrusted
from edgelora.signing import PrivateKey, PublicKey


def tuf_key(public: PublicKey) -> SSlibKey:
    """A public key as python-tuf takes it, known by the same fingerprint."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key: Any = load_der_public_key(public.der)
    return SSlibKey.from_crypto(key, keyid=public.fingerprint.removeprefix("sha256:"))


def sign_role(metadata: Metadata[Any], signers: Sequence[PrivateKey]) -> None:
    """Replace the signatures of a part."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(CryptoSigner(signer.key, tuf_key(signer.public)), append=True)


def check_signed(delegator: Any, role: str, metadata: Metadata[Any]) -> None:
    """Refuse a part that a reader would refuse, before it becomes current.

    Raises:
        SignatureUntrusted: Too few of the keys that it was delegated to signed it.
    """
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise SignatureUntrusted(
            f"the metadata of {role} is not signed by enough of its keys, so nothing is changed: {error}",
            fix="sign with the keys that it was delegated to",
        ) from error
