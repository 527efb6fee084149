"""Giving a folder the identity it will be published under, so that it can be signed before it is pushed."""

from __future__ import annotations

from pathlib import Path

from edgelora.errors import ReferenceFormError
from edgelora.manifest import MANIFEST_NAME, Manifest, read_manifest
from edgelora.signing.signer import give_identity, now
from edgelora.store import open_store, parse_reference, parse_version
from edgelora.transfer.pushing import with_origin


def release_as(
    folder: Path,
    reference: str,
    *,
    sequence: int | None = None,
    channel: str | None = None,
    expires: str | None = None,
) -> Manifest:
    """Make a folder the release ``ns/name@version``; its manifest is rewritten, its files stay.

    A folder that is this release already stays as it is.

    Args:
        folder: A sound adapter folder without signatures.
        reference: With a version; a store in it is asked for the next release sequence.
        sequence: The release sequence, instead.
        channel: Which releases it follows; None keeps what the manifest says.
        expires: Until when it may be pulled, as ``2027-06-30T00:00:00Z``; None keeps what the manifest says.

    Raises:
        ReferenceFormError: The reference names no version.
        SignedManifest: The folder is signed under another identity.
        EdgeloraError: What `edgelora.verify.check` finds.
    """
    wanted = parse_reference(reference)
    if wanted.version is None:
        raise ReferenceFormError(
            f"{wanted} does not say which version is released", fix=f"write {wanted.at('1.0.0')}"
        )
    version = str(parse_version(wanted.version))
    manifest = read_manifest(folder)
    own = manifest.identity
    named = own.model_copy(
        update={
            "namespace": wanted.namespace,
            "name": wanted.name,
            "version": version,
            "channel": channel or own.channel,
        }
    )
    if sequence is None:
        taken = open_store(wanted.store).release_sequence(wanted.namespace, wanted.name)
        sequence = own.release_sequence if named == own and own.release_sequence > taken else taken + 1
    changed = named.model_copy(update={"release_sequence": sequence})
    if changed != own:
        changed = changed.model_copy(update={"created_at": now()})
    origin = with_origin(manifest, (folder / MANIFEST_NAME).read_bytes(), wanted).derived_from
    return give_identity(folder, changed, expires=expires, derived_from=origin)
