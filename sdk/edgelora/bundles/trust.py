"""Who signed a bundle and the adapters in it, and whether the trust policy lets them pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgelora.bundles.archive import SIGNATURE_NAME
from edgelora.bundles.index import BundledAdapter, Index
from edgelora.bundles.reading import MAX_SIGNATURE_BYTES, Bundle
from edgelora.errors import SignatureInvalid, Unsigned
from edgelora.manifest import SIGNATURE_NAME as ADAPTER_SIGNATURE_NAME
from edgelora.manifest import Manifest
from edgelora.signing import (
    Envelope,
    PrivateKey,
    Signature,
    Signer,
    TrustPolicy,
    judge,
    judge_envelope,
    parse_envelope,
    pre_authentication,
)
from edgelora.signing.policy import Rule

PAYLOAD_TYPE = "application/vnd.edgelora.bundle.v1+json"


def sign_index(index: bytes, keys: Sequence[PrivateKey]) -> bytes:
    """The bytes of ``index.sig.json``: an envelope around the index, signed with each key."""
    signed = pre_authentication(index, PAYLOAD_TYPE)
    signatures = [Signature(key.public.fingerprint, key.sign(signed)) for key in keys]
    return Envelope(index, (), PAYLOAD_TYPE).with_signatures(signatures).encode()


def judge_index(bundle: Bundle, policy: TrustPolicy, *, required: bool = False) -> tuple[Signer, ...]:
    """Check the signatures over a bundle's index.

    A signature that can be checked must hold. Where they are required, enough keys must have signed that the
    policy trusts for every adapter in the bundle, or by default for a bundle of bases only.

    Raises:
        Unsigned: A signature is required, and there is none.
        SignatureInvalid: The file is malformed, of another index, or a signature in it is wrong.
        KeyRevoked, SignatureUntrusted: Too few trusted keys signed.
    """
    where = f"the bundle's {SIGNATURE_NAME}"
    if bundle.signature is None:
        if required:
            raise Unsigned(
                "the bundle is not signed, and a signature is required",
                fix="ask for one that was made with --key, or import it without --require-signature",
            )
        return ()
    envelope = parse_envelope(bundle.signature, where, payload_type=PAYLOAD_TYPE, limit=MAX_SIGNATURE_BYTES)
    if envelope.payload != bundle.index_bytes:
        raise SignatureInvalid(f"{where} signs another index than the bundle's", fix="do not use this bundle")
    signers: tuple[Signer, ...] = ()
    for rule in _rules(bundle.index, policy):
        needed = rule.threshold if required else 0
        signers = judge_envelope(envelope, rule=rule, needed=needed, policy=policy, where=where).signers
    return signers


def judge_adapters(
    bundle: Bundle, pairs: Iterable[tuple[BundledAdapter, Manifest]], policy: TrustPolicy
) -> None:
    """Check each adapter's own signature, as a pull would.

    Raises:
        EdgeloraError: What `edgelora.signing.judge` finds.
    """
    for adapter, manifest in pairs:
        file = next((file for file in adapter.unlisted if file.path == ADAPTER_SIGNATURE_NAME), None)
        judge(
            bundle.read(adapter.manifest),
            None if file is None else bundle.read(file),
            identity=manifest.identity,
            policy=policy,
            where=str(adapter.reference),
        )


def _rules(index: Index, policy: TrustPolicy) -> list[Rule]:
    rules = [policy.rule_for(adapter.namespace, adapter.name) for adapter in index.adapters]
    return [rule for place, rule in enumerate(rules) if rule not in rules[:place]] or [policy.default]
