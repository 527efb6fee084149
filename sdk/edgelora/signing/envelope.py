"""``edgelora.sig.json``: a DSSE envelope around the exact bytes of a manifest, with one form only.

spec/v1/signatures.md defines it. An envelope is accepted only if writing down what was read gives the same
bytes, so that no byte of the file can be changed without being noticed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from edgelora.errors import SignatureInvalid
from edgelora.manifest import MAX_MANIFEST_BYTES, SIGNATURE_NAME
from edgelora.manifest.canonical_json import canonical_json
from edgelora.manifest.strict_json import NotStrict, parse

PAYLOAD_TYPE = "application/vnd.edgelora.manifest.v1+json"
MAX_SIGNATURES = 16
MAX_ENVELOPE_BYTES = 4 * (MAX_MANIFEST_BYTES // 3 + 1) + 64 * 2**10
"""A manifest of the greatest length in base64, and 64 KiB for everything else."""

FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_DEPTH = 3
_MAX_SIGNATURE_BYTES = 128
_FIX = "fetch the adapter again, or sign it again if it is yours"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signer's statement about the payload."""

    keyid: str
    """The fingerprint of the key."""
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and the signatures over it, sorted by key."""

    payload: bytes
    """The bytes of the manifest."""
    signatures: tuple[Signature, ...]
    payload_type: str = PAYLOAD_TYPE

    def with_signatures(self, signatures: Iterable[Signature]) -> Envelope:
        """The same payload with these signatures added; of two by one key, the one that is there stays."""
        by_key = {signature.keyid: signature for signature in (*signatures, *self.signatures)}
        return replace(self, signatures=tuple(by_key[keyid] for keyid in sorted(by_key)))

    def encode(self) -> bytes:
        """The bytes of the file.

        Raises:
            SignatureInvalid: It holds no signature, or more than a reader accepts.
        """
        _check_number(len(self.signatures), "the signature file to be written")
        return _encode(self)


def pre_authentication(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The bytes that are signed (DSSE 1.0, "PAE"): no other type or length gives the same ones."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(
    data: bytes,
    where: str = SIGNATURE_NAME,
    *,
    payload_type: str = PAYLOAD_TYPE,
    limit: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """Read a signature file. What its signatures are worth is `judge`'s to say.

    Args:
        data: The bytes of the file.
        where: How errors name it.
        payload_type: The only one that is accepted.
        limit: The most bytes it may have.

    Raises:
        SignatureInvalid: It is too long, no strict JSON, of another payload type, not sorted, names a key
            twice, or is spelled in another way than the one that is allowed.
    """
    if len(data) > limit:
        raise _refused(where, f"it is longer than {limit} bytes")
    try:
        envelope = _from_document(parse(data, max_depth=_DEPTH), where, payload_type)
    except NotStrict as error:
        raise _refused(where, str(error)) from error
    if _encode(envelope) != data:
        raise _refused(where, "it is not in the canonical form of its own content")
    return envelope


def _from_document(document: Any, where: str, payload_type: str) -> Envelope:
    match document:
        case {"payload": str(payload), "payloadType": str(kind), "signatures": list(items), **others}:
            if others:
                raise _refused(where, f"it holds the unknown member {ascii(next(iter(others)))[:60]}")
            if kind != payload_type:
                raise _refused(where, f"its payload is of the type {ascii(kind)[:80]}, not {payload_type}")
            _check_number(len(items), where)
            signatures = tuple(_signature(item, where) for item in items)
            keyids = [signature.keyid for signature in signatures]
            if keyids != sorted(set(keyids)):
                raise _refused(where, "its signatures are not sorted by key, or a key signs twice")
            return Envelope(_bytes_of(payload, where), signatures, payload_type)
        case _:
            raise _refused(where, "it does not hold exactly payload, payloadType and signatures")


def _signature(item: Any, where: str) -> Signature:
    match item:
        case {"keyid": str(keyid), "sig": str(value), **others} if not others:
            if not FINGERPRINT.fullmatch(keyid):
                raise _refused(where, f"{ascii(keyid)[:80]} is not the fingerprint of a key")
            signature = _bytes_of(value, where)
            if len(signature) > _MAX_SIGNATURE_BYTES:
                raise _refused(where, f"a signature has {len(signature)} bytes")
            return Signature(keyid, signature)
        case _:
            raise _refused(where, "a signature does not hold exactly keyid and sig, both text")


def _bytes_of(text: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(where, f"it holds text that is not base64 ({error})") from error
    # Unused bits at the end may differ between two texts of the same bytes.
    if base64.b64encode(data).decode() != text:
        raise _refused(where, "it holds base64 that is not in its only form")
    return data


def _check_number(count: int, where: str) -> None:
    if not 1 <= count <= MAX_SIGNATURES:
        raise _refused(where, f"it holds {count} signatures, and 1 to {MAX_SIGNATURES} are allowed")


def _encode(envelope: Envelope) -> bytes:
    return canonical_json(
        {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": signature.keyid, "sig": base64.b64encode(signature.value).decode()}
                for signature in envelope.signatures
            ],
        }
    )


def _refused(where: str, problem: str) -> SignatureInvalid:
    return SignatureInvalid(f"{where} is refused: {problem}", fix=_FIX)
