"""Signing an adapter folder, one signer after another, and giving it its final identity before that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DigestMismatch, MissingFile, PathError, SignatureInvalid, SignedManifest
from edgelora.files import atomic_write, exclusive_lock
from edgelora.locations import home
from edgelora.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    DerivedFrom,
    Identity,
    Manifest,
    manifest_bytes,
    parse_manifest,
)
from edgelora.signing.envelope import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    Signature,
    parse_envelope,
    pre_authentication,
)
from edgelora.signing.judge import check_payload
from edgelora.signing.keys import PrivateKey
from edgelora.verify import check


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed folder."""

    folder: Path
    manifest: Manifest
    manifest_digest: str
    keyids: tuple[str, ...]
    """Everyone who signed, those before included."""
    added: int
    """Signatures that were not there before."""


def sign(folder: Path, keys: Sequence[PrivateKey]) -> Signed:
    """Sign a sound adapter folder. Signatures that are there stay; a key that signed does not sign again.

    Raises:
        SignatureInvalid: The signature file that is there is malformed, of another manifest, or holds a wrong
            signature by one of these keys.
        EdgeloraError: What `edgelora.verify.check` finds.
    """
    with _locked(folder):
        data, manifest = _read_sound(folder)
        existing = _existing(folder, data)
        signed = pre_authentication(data)
        before = {signature.keyid: signature for signature in existing.signatures}
        made = []
        for key in keys:
            public = key.public
            mine = before.get(public.fingerprint)
            if mine is None:
                made.append(Signature(public.fingerprint, key.sign(signed)))
            elif not public.verifies(mine.value, signed):
                raise SignatureInvalid(
                    f"{folder / SIGNATURE_NAME} holds a wrong signature by {public.fingerprint}",
                    fix=f"rm {folder / SIGNATURE_NAME}, then let everyone sign again",
                )
        envelope = existing.with_signatures(made)
        encoded = envelope.encode()
        if made:
            atomic_write(folder / SIGNATURE_NAME, encoded)
    return Signed(
        folder=folder,
        manifest=manifest,
        manifest_digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        keyids=tuple(signature.keyid for signature in envelope.signatures),
        added=len(envelope.signatures) - len(existing.signatures),
    )


def give_identity(
    folder: Path,
    identity: Identity,
    *,
    expires: str | None = None,
    derived_from: tuple[DerivedFrom, ...] | None = None,
) -> Manifest:
    """Rewrite the manifest of an unsigned folder, so that it can be signed and published as it is.

    Args:
        folder: A sound adapter folder.
        identity: The new one.
        expires: Until when the release may be pulled; None keeps what the manifest says.
        derived_from: Where it comes from; None keeps what the manifest says.

    Raises:
        SignedManifest: The folder is signed under another identity.
        EdgeloraError: What `edgelora.verify.check` finds.
    """
    with _locked(folder):
        _, manifest = _read_sound(folder)
        changed = manifest.model_copy(
            update={
                "identity": identity,
                "expires": expires or manifest.expires,
                "derived_from": derived_from or manifest.derived_from,
            }
        )
        if changed == manifest:
            return manifest
        if os.path.lexists(folder / SIGNATURE_NAME):
            raise SignedManifest(
                f"{folder} is signed as {name_of(manifest.identity)}, so its identity cannot change",
                fix=f"rm {folder / SIGNATURE_NAME}, then give the identity and let everyone sign again",
            )
        data = manifest_bytes(changed)
        atomic_write(folder / MANIFEST_NAME, data)
    return parse_manifest(data)


def now() -> str:
    """This moment, as manifests write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def name_of(identity: Identity) -> str:
    """``ns/name@version``."""
    return f"{identity.namespace}/{identity.name}@{identity.version}"


def read_signature_file(folder: Path) -> bytes | None:
    """The bytes of a folder's signature file; None where there is none.

    Raises:
        SignatureInvalid: It is longer than allowed, no plain file, or cannot be read.
    """
    try:
        return read_regular(folder, SIGNATURE_NAME, limit=MAX_ENVELOPE_BYTES)
    except MissingFile:
        return None
    except (PathError, OSError) as error:
        raise SignatureInvalid(
            f"{folder / SIGNATURE_NAME} cannot be read: {error}",
            fix="fetch the adapter again, or sign it again if it is yours",
        ) from error


def _read_sound(folder: Path) -> tuple[bytes, Manifest]:
    manifest = check(folder)
    data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    if parse_manifest(data, str(folder / MANIFEST_NAME)) != manifest:
        raise DigestMismatch(
            f"{folder / MANIFEST_NAME} changed while it was read", fix="leave the folder alone, and try again"
        )
    return data, manifest


def _existing(folder: Path, manifest: bytes) -> Envelope:
    data = read_signature_file(folder)
    if data is None:
        return Envelope(manifest, ())
    envelope = parse_envelope(data, str(folder / SIGNATURE_NAME))
    check_payload(envelope, manifest, str(folder))
    return envelope


def _locked(folder: Path) -> AbstractContextManager[None]:
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    return exclusive_lock(home() / "locks" / f"sign-{key}.lock")
