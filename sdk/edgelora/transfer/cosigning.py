"""The signatures to publish with an adapter: those of its folder, and those the version has already."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgelora.errors import DigestMismatch, FileSetMismatch, KeyRevoked, SignatureInvalid, SignedManifest
from edgelora.manifest import Manifest, parse_manifest
from edgelora.signing.envelope import Envelope, parse_envelope
from edgelora.signing.judge import Judgement, check_payload, judge, judge_envelope
from edgelora.signing.policy import Rule, TrustPolicy, read_policy
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


def merged_signatures(
    folder: Path, manifest: bytes, offered: bytes | None, *, judgement: Judgement, policy: TrustPolicy
) -> bytes | None:
    """The signature file for a pulled folder: what a store offers, and those that the folder has already.

    A file in the folder that is damaged, of another manifest, or holds a wrong signature is not kept.

    Args:
        folder: Where the adapter is, or will be.
        manifest: The bytes of its ``edgelora.json``.
        offered: The store's signature file, judged.
        judgement: What was found of that.
        policy: Whose signatures count.
    """
    own = _own_envelope(folder, manifest, policy)
    if own is None or offered is None:
        return own.encode() if own else offered
    theirs = parse_envelope(offered)
    # Not so many strangers' signatures that there is no room for those of the folder.
    told = {signer.fingerprint for signer in judgement.signers if signer.standing != "unknown"}
    known = tuple(signature for signature in theirs.signatures if signature.keyid in told)
    for envelope in (theirs, replace(theirs, signatures=known)):
        with suppress(SignatureInvalid):
            return envelope.with_signatures(own.signatures).encode()
    return offered


def _own_envelope(folder: Path, manifest: bytes, policy: TrustPolicy) -> Envelope | None:
    try:
        data = read_signature_file(folder)
        if data is None:
            return None
        envelope = parse_envelope(data)
        check_payload(envelope, manifest, str(folder))
        judge_envelope(
            envelope, rule=Rule(require_signature=False), needed=0, policy=policy, where=str(folder)
        )
    except (SignatureInvalid, KeyRevoked):
        return None
    return envelope
