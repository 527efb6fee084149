"""The signatures to publish with an adapter: those of its folder, and those the version has already."""

from __future__ import annotations

from pathlib import Path

from edgelora.errors import DigestMismatch, FileSetMismatch, SignatureInvalid, SignedManifest
from edgelora.manifest import Manifest, parse_manifest
from edgelora.signing.envelope import parse_envelope
from edgelora.signing.judge import judge
from edgelora.signing.policy import TrustPolicy, read_policy
from edgelora.signing.signer import name_of, read_signature_file
from edgelora.store import Reference, Snapshot, Store
from edgelora.transfer.provenance import read_signature


def own_signature(folder: Path, manifest: Manifest, data: bytes) -> bytes | None:
    """The signature file of a folder that is to be published; None where it has none.

    Raises:
        SignatureInvalid: It is malformed, of another manifest, or a signature in it is wrong.
        KeyRevoked: Only keys that were revoked signed.
    """
    signature = read_signature_file(folder)
    policy = read_policy()
    # Whoever publishes need not be whoever signs: who is needed is for those to say who pull.
    unasked = TrustPolicy(keys=policy.keys, revoked=policy.revoked)
    judge(data, signature, identity=manifest.identity, policy=unasked, where=name_of(manifest.identity))
    return signature


def check_not_rewritten(signature: bytes | None, signed: bytes, published: bytes, target: Reference) -> None:
    """Refuse to publish a signed folder under an identity that it was not signed with.

    Raises:
        SignedManifest: The manifest would have to change.
    """
    if signature is None or signed == published:
        return
    own, wanted = parse_manifest(signed).identity, parse_manifest(published).identity
    raise SignedManifest(
        f"the folder is signed as {name_of(own)}, release {own.release_sequence}, and publishing it as "
        f"{name_of(wanted)}, release {wanted.release_sequence}, would change what was signed",
        fix=f"remove its edgelora.sig.json, then: edgelora sign DIR --as {target} "
        f"--sequence {wanted.release_sequence} --key NAME",
    )


def all_signatures(own: bytes | None, published: Snapshot | None, store: Store) -> bytes | None:
    """The signature file to publish: everyone's, of the folder and of the version that is there already.

    A damaged file that is there is replaced by that of the folder.

    Raises:
        SignatureInvalid, DigestMismatch, FileSetMismatch: The folder has none to replace a damaged one with.
    """
    if published is None:
        return own
    try:
        there = read_signature(store, published)
        if there is None or own is None:
            return own or there
        return parse_envelope(there).with_signatures(parse_envelope(own).signatures).encode()
    except (SignatureInvalid, DigestMismatch, FileSetMismatch):
        if own is None:
            raise
        return own
