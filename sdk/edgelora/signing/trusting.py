"""Changing the trust policy: pinning a key for a namespace, and revoking one."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgelora.errors import KeyNotFound, KeyRevoked
from edgelora.files import atomic_write, exclusive_lock
from edgelora.signing.envelope import FINGERPRINT
from edgelora.signing.keyring import NamedKey, find_key, list_keys, read_key_file
from edgelora.signing.keys import PublicKey, read_private_pem, read_public_pem
from edgelora.signing.policy import TrustPolicy, parse_policy, policy_path, read_policy

_BEGINNING = re.compile(r"sha256:[0-9a-f]{12,64}")
_HEADER = """\
# Whose signatures count. Written by `edgelora keys trust` and `edgelora keys revoke`, which keep no other
# comments; you may edit it. An unknown key is an error.
"""


def trust(
    key: NamedKey, namespaces: Sequence[str], *, threshold: int | None = None, policy: Path | None = None
) -> TrustPolicy:
    """Let a key's signatures count in these namespaces, and require signatures there.

    Args:
        key: Whose.
        namespaces: ``ns`` or ``ns/name``, at least one.
        threshold: How many trusted signatures are needed; None keeps what the policy says, or 1.
        policy: The file; None takes the one in force.

    Raises:
        TrustPolicyError: The policy is not valid, or would not be.
        KeyRevoked: The key was revoked, and would not count.
    """
    fingerprint = key.public.fingerprint

    def change(document: dict[str, Any]) -> None:
        if fingerprint in document.get("revoked", ()):
            raise KeyRevoked(
                f"the key {fingerprint} was revoked, so it would not count",
                fix=f"trust another key, or correct revoked in {policy_path(policy)} if that was wrong",
            )
        keys = document.setdefault("keys", {})
        keys[fingerprint] = {"name": key.name, "public_key": base64.b64encode(key.public.der).decode()}
        for scope in namespaces:
            rule = document.setdefault("namespaces", {}).setdefault(scope, {"require_signature": True})
            rule["keys"] = sorted({*rule.get("keys", ()), fingerprint})
            rule["threshold"] = threshold or rule.get("threshold", 1)

    return _change(policy, change)


def revoke(fingerprint: str, reason: str = "", *, policy: Path | None = None) -> TrustPolicy:
    """Let a key never count again, whatever a rule says.

    Raises:
        TrustPolicyError: The policy is not valid.
    """

    def change(document: dict[str, Any]) -> None:
        document.setdefault("revoked", {})[fingerprint] = {"reason": reason} if reason else {}

    return _change(policy, change)


def key_named(what: str, policy: Path | None = None) -> NamedKey:
    """The key of a PEM file, or one of the keyring or the policy by its name or fingerprint.

    Of a fingerprint the beginning is enough, 12 digits of it at least, where only one begins so.

    Raises:
        KeyNotFound: It is none of these.
        KeyFileError: The file holds no key that can be used.
    """
    file = Path(what).expanduser()
    if file.is_file():
        return NamedKey(file.stem, _public_of(file), can_sign=False)
    pinned = read_policy_to_change(policy).keys.items()
    known = {key.public.fingerprint: key for key in list_keys()}
    known |= {found: NamedKey(entry.name, entry.key, can_sign=False) for found, entry in pinned}
    beginning = f"sha256:{what.removeprefix('sha256:').rstrip('…')}"
    meant = [
        key
        for fingerprint, key in known.items()
        if what == key.name or (_BEGINNING.fullmatch(beginning) and fingerprint.startswith(beginning))
    ]
    return meant[0] if len(meant) == 1 else find_key(what)


def fingerprint_named(what: str, policy: Path | None = None) -> str:
    """The fingerprint of such a key; one that is known nowhere is taken as it is.

    Raises:
        KeyNotFound: It is neither a key nor a fingerprint.
    """
    try:
        return key_named(what, policy).public.fingerprint
    except KeyNotFound:
        if FINGERPRINT.fullmatch(what):
            return what
        raise


def read_policy_to_change(path: Path | None = None) -> TrustPolicy:
    """The policy in force, or an empty one where there is no file yet."""
    return read_policy(path) if policy_path(path).exists() else TrustPolicy()


def _public_of(file: Path) -> PublicKey:
    data = read_key_file(file)
    if b"PRIVATE KEY" in data:
        return read_private_pem(data, str(file)).public
    return read_public_pem(data, str(file))


def _change(path: Path | None, change: Callable[[dict[str, Any]], None]) -> TrustPolicy:
    place = policy_path(path).resolve()
    with exclusive_lock(place.with_name(f".{place.name}.lock")):
        document = _document_of(read_policy_to_change(path))
        change(document)
        text = _HEADER + yaml.safe_dump(document, sort_keys=True, width=120)
        changed = parse_policy(text, f"the new {place}")
        atomic_write(place, text.encode())
    return changed


def _document_of(policy: TrustPolicy) -> dict[str, Any]:
    document = policy.model_dump(mode="json", exclude_none=True)
    if policy.default == TrustPolicy().default:
        del document["default"]
    return {section: content for section, content in document.items() if content}
