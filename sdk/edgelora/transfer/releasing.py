"""Giving a folder the identity it will be published under, so that it can be signed before it is pushed."""

from __future__ import annotations

from pathlib import Path

from edgelora.errors import ReferenceFormError
from edgelora.manifest import Manifest, read_manifest
from edgelora.signing.signer import give_identity, now
from edgelora.store import open_store, parse_reference, parse_version


def release_as(folder: Path, reference: str, *, sequence: int | None = None) -> Manifest:
    """Make a folder the release ``ns/name@version``; its manifest is rewritten, its files stay.

    A folder that is this release already stays as it is.

    Args:
        folder: A sound adapter folder without signatures.
        reference: With a version; a store in it is asked for the next release sequence.
        sequence: The release sequence, instead.

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
    own = read_manifest(folder).identity
    named = own.model_copy(update={"namespace": wanted.namespace, "name": wanted.name, "version": version})
    if sequence is None:
        taken = open_store(wanted.store).release_sequence(wanted.namespace, wanted.name)
        sequence = own.release_sequence if named == own and own.release_sequence > taken else taken + 1
    changed = named.model_copy(update={"release_sequence": sequence})
    if changed != own:
        changed = changed.model_copy(update={"created_at": now()})
    return give_identity(folder, changed)
