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
_WHERE = f"the bundle's {SIGNATURE_NAME}"


def sign_index(index: bytes, keys: Sequence[PrivateKey]) -> bytes:
    """The bytes of ``index.sig.json``: an envelope around the index, signed with each key."""
    signed = pre_authentication(index, PAYLOAD_TYPE)
    signatures = [Signature(key.public.fingerprint, key.sign(signed)) for key in keys]
    return Envelope(index, (), PAYLOAD_TYPE).with_signatures(signatures).encode()


def judge_index(bundle: Bundle, policy: TrustPolicy, *, required: bool = False) -> tuple[Signer, ...]:
    """Check the signatures over a bundle's index, and hold them against the policy.

    A signature that can be checked must hold. Enough keys must have signed that the policy trusts, for every
    adapter of which it requires signatures. Bases belong to nobody: the rule of an adapter that requires
    signatures will do for them, and otherwise the default rule is asked.

    Args:
        bundle: The bundle.
        policy: Whose signatures count.
        required: A signature is required, whatever the policy says.

    Raises:
        Unsigned: A signature is required, and there is none.
        SignatureInvalid: The file is malformed, of another index, or a signature in it is wrong.
        KeyRevoked, SignatureUntrusted: Too few trusted keys signed.
    """
    if required:
        policy = policy.requiring_signatures()
    rules = _rules(bundle.index, policy)
    envelope = _envelope(bundle)
    if envelope is None:
        if any(rule.require_signature for rule in rules):
            raise Unsigned(
                "the bundle is not signed, and a signature is required",
                fix="ask for one that was made with --key, or let the trust policy allow it unsigned",
            )
        return ()
    needed = [rule.threshold if rule.require_signature else 0 for rule in rules]
    judged = [_judge(envelope, rule, policy, needed=each) for rule, each in zip(rules, needed, strict=True)]
    return judged[-1]


def index_signers(bundle: Bundle, policy: TrustPolicy) -> tuple[Signer, ...]:
    """Who signed a bundle's index, however many signatures the policy requires.

    Raises:
        SignatureInvalid: The file is malformed, of another index, or a signature in it is wrong.
        KeyRevoked: Only keys that were revoked signed.
    """
    envelope = _envelope(bundle)
    if envelope is None:
        return ()
    judged = [_judge(envelope, rule, policy, needed=0) for rule in _rules(bundle.index, policy)]
    return judged[-1]


def may_yank(bundle: Bundle, adapter: BundledAdapter, policy: TrustPolicy, *, is_new: bool) -> bool:
    """Whether a bundle's word counts that a version was withdrawn.

    Enough keys must have signed its index that the policy trusts for the adapter. Of a version that the
    bundle itself brought, where the policy requires no signatures, its word is as good as the version.
    """
    rule = policy.rule_for(adapter.namespace, adapter.name)
    envelope = _envelope(bundle)
    if envelope is None or (is_new and not rule.require_signature):
        return is_new and not rule.require_signature
    return sum(signer.counts for signer in _judge(envelope, rule, policy, needed=0)) >= rule.threshold


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


def _envelope(bundle: Bundle) -> Envelope | None:
    if bundle.signature is None:
        return None
    envelope = parse_envelope(bundle.signature, _WHERE, payload_type=PAYLOAD_TYPE, limit=MAX_SIGNATURE_BYTES)
    if envelope.payload != bundle.index_bytes:
        raise SignatureInvalid(
            f"{_WHERE} signs another index than the bundle's", fix="do not use this bundle"
        )
    return envelope


def _judge(envelope: Envelope, rule: Rule, policy: TrustPolicy, *, needed: int) -> tuple[Signer, ...]:
    return judge_envelope(envelope, rule=rule, needed=needed, policy=policy, where=_WHERE).signers


def _rules(index: Index, policy: TrustPolicy) -> list[Rule]:
    named = [policy.rule_for(adapter.namespace, adapter.name) for adapter in index.adapters]
    rules = [rule for place, rule in enumerate(named) if rule not in named[:place]]
    if index.bases and not any(rule.require_signature for rule in rules):
        rules.append(policy.default)
    return rules or [policy.default]
