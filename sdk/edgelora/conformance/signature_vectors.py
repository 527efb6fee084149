"""What this implementation says about a signed release: a manifest, its signature file, and who asks when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgelora.manifest import MANIFEST_NAME, parse_manifest
from edgelora.signing import PinnedKey, Revocation, Rule, TrustPolicy, judge, read_signature_file
from edgelora.transfer.clock import parse_moment, refuse_future
from edgelora.transfer.provenance import refuse_expired
from edgelora.transfer.releases import Release, compare_releases, release_of

QUESTION_NAME = "question.json"


def read_signed_release(folder: Path) -> None:
    """Decide whether the release may be fetched, as spec/v1/signatures.md says.

    Raises:
        EdgeloraError: It may not.
    """
    question: dict[str, Any] = json.loads((folder / QUESTION_NAME).read_bytes())
    data = (folder / MANIFEST_NAME).read_bytes()
    manifest = parse_manifest(data)
    policy = _policy(question)
    signature = read_signature_file(folder)
    judgement = judge(data, signature, identity=manifest.identity, policy=policy, where=folder.name)
    asked_by = question["askedBy"]
    is_named = asked_by in ("version", "digest")
    release = release_of(manifest, data, by_name=is_named)
    for member in ("seen", "seenByName"):
        seen = question.get(member)
        if seen is None:
            continue
        highest = Release(
            adapter=release.adapter,
            channel=release.channel,
            issuer=release.issuer,
            version=seen["version"],
            release_sequence=seen["releaseSequence"],
            manifest_digest=seen["manifestDigest"],
            by_name=member == "seenByName",
        )
        compare_releases(release, highest, may_be_older=is_named)
    now = parse_moment(question["now"])
    is_allowed = asked_by == "digest" or question.get("ignoreExpiry", False)
    if judgement.is_trusted and not is_allowed:
        refuse_future(manifest.identity.created_at, now, folder.name)
    refuse_expired(manifest, now, allowed=is_allowed)


def _policy(question: dict[str, Any]) -> TrustPolicy:
    required = question["threshold"]
    rule = Rule(
        keys=tuple(question["trusted"]),
        threshold=required or 1,
        require_signature=required > 0,
        channels=tuple(question["channels"]) if "channels" in question else None,
    )
    return TrustPolicy(
        keys={fingerprint: PinnedKey(public_key=key) for fingerprint, key in question["keys"].items()},
        default=rule,
        revoked={fingerprint: Revocation() for fingerprint in question["revoked"]},
    )
