"""What a signature file is worth: whose signatures hold, and whether the trust policy is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora.errors import ChannelRefused, KeyRevoked, SignatureInvalid, SignatureUntrusted, Unsigned
from edgelora.manifest import DEFAULT_CHANNEL, SIGNATURE_NAME, Identity
from edgelora.signing.envelope import Envelope, parse_envelope, pre_authentication
from edgelora.signing.keyring import list_keys
from edgelora.signing.keys import PublicKey
from edgelora.signing.policy import Rule, TrustPolicy

Standing = Literal["trusted", "known", "unknown", "revoked"]


@dataclass(frozen=True, slots=True)
class Signer:
    """One signature of an adapter."""

    fingerprint: str
    name: str
    """As the policy or the keyring calls the key; empty for an unknown one."""
    standing: Standing
    """``trusted``: it counts. ``known``: it holds, and does not count here. ``unknown``: nobody can tell."""

    @property
    def counts(self) -> bool:
        """Whether it is a trusted one."""
        return self.standing == "trusted"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Who signed an adapter, as far as this machine can tell."""

    signers: tuple[Signer, ...]
    threshold: int
    """How many trusted keys must have signed for the release to be theirs."""
    needed: int
    """Trusted signatures without which it is refused; 0 where none is required."""

    @property
    def trusted_count(self) -> int:
        """Signatures that hold and count."""
        return sum(signer.counts for signer in self.signers)

    @property
    def is_trusted(self) -> bool:
        """Whether as many trusted keys signed as make it theirs, required or not."""
        return self.trusted_count >= self.threshold


def judge(
    manifest: bytes, envelope: bytes | None, *, identity: Identity, policy: TrustPolicy, where: str
) -> Judgement:
    """Check every signature that can be checked, and hold the result against the policy.

    A signature by a key that is at hand must hold, counted or not; one by an unknown key says nothing. A
    revoked key never counts.

    Args:
        manifest: The bytes of ``edgelora.json``.
        envelope: The bytes of ``edgelora.sig.json``, or None where there is none.
        identity: As the manifest says.
        policy: Whose signatures count.
        where: How errors name the adapter.

    Raises:
        SignatureInvalid: The file is malformed, of another manifest, or a signature in it is wrong.
        Unsigned: A signature is required, and there is none.
        KeyRevoked: Too few keys signed that are not revoked, and one did that is.
        SignatureUntrusted: Too few trusted keys signed.
        ChannelRefused: The policy allows other channels.
    """
    rule = policy.rule_for(identity.namespace, identity.name)
    _check_channel(identity, rule, where)
    needed = rule.threshold if rule.require_signature else 0
    if envelope is None:
        if needed:
            raise Unsigned(
                f"{where} is not signed, and {needed} {_signatures(needed)} required",
                fix="ask its publisher for a signed release, or let the trust policy allow it unsigned",
            )
        return Judgement((), rule.threshold, needed)
    parsed = parse_envelope(envelope, f"{SIGNATURE_NAME} of {where}")
    check_payload(parsed, manifest, where)
    return judge_envelope(parsed, rule=rule, needed=needed, policy=policy, where=where)


def judge_envelope(
    envelope: Envelope, *, rule: Rule, needed: int, policy: TrustPolicy, where: str
) -> Judgement:
    """Check the signatures of an envelope, around whatever it is, and hold them against a rule.

    Raises:
        SignatureInvalid: A signature in it is wrong.
        KeyRevoked: Too few keys signed that are not revoked, and one did that is.
        SignatureUntrusted: Too few trusted keys signed.
    """
    judgement = Judgement(tuple(_signers(envelope, rule, policy, where)), rule.threshold, needed)
    _check_threshold(judgement, policy, where)
    return judgement


def check_payload(envelope: Envelope, manifest: bytes, where: str) -> None:
    """Refuse an envelope that is around another manifest.

    Raises:
        SignatureInvalid: It is.
    """
    if envelope.payload != manifest:
        raise SignatureInvalid(
            f"{SIGNATURE_NAME} of {where} signs another manifest than the one that is there",
            fix="fetch the adapter again, or sign it again if it is yours",
        )


def _signers(envelope: Envelope, rule: Rule, policy: TrustPolicy, where: str) -> list[Signer]:
    keys = _known_keys(policy)
    signed = pre_authentication(envelope.payload, envelope.payload_type)
    found = []
    for signature in envelope.signatures:
        name, key = keys.get(signature.keyid, ("", None))
        # The key is looked up by its own fingerprint, never by what a file calls it.
        if key is not None and not key.verifies(signature.value, signed):
            raise SignatureInvalid(
                f"the signature of {name or signature.keyid} over {where} is wrong",
                fix="fetch the adapter again; if it is wrong again, do not use this source",
            )
        standing: Standing = "known" if key else "unknown"
        if signature.keyid in policy.revoked:
            standing = "revoked"
        elif key and signature.keyid in rule.keys:
            standing = "trusted"
        found.append(Signer(signature.keyid, name, standing))
    return found


def _known_keys(policy: TrustPolicy) -> dict[str, tuple[str, PublicKey]]:
    mine = {key.public.fingerprint: (key.name, key.public) for key in list_keys()}
    pinned = {fingerprint: (entry.name, entry.key) for fingerprint, entry in policy.keys.items()}
    return mine | pinned


def _check_threshold(judgement: Judgement, policy: TrustPolicy, where: str) -> None:
    revoked = [signer for signer in judgement.signers if signer.standing == "revoked"]
    if revoked and not judgement.is_trusted:
        name, reason = revoked[0].name, policy.revoked[revoked[0].fingerprint].reason
        called = f"{name} ({revoked[0].fingerprint})" if name else revoked[0].fingerprint
        raise KeyRevoked(
            f"{where} is signed by the key {called}, which was revoked" + (f": {reason}" if reason else ""),
            fix="ask its publisher for a release signed with another key",
        )
    if judgement.trusted_count < judgement.needed:
        others = ", ".join(s.name or s.fingerprint for s in judgement.signers if not s.counts)
        raise SignatureUntrusted(
            f"{where} is signed by {judgement.trusted_count} of the {judgement.needed} trusted keys it needs"
            + (f"; signed also by {others}, which the trust policy does not name here" if others else ""),
            fix="ask its publisher for the missing signatures, or trust the key: edgelora keys trust",
        )


def _check_channel(identity: Identity, rule: Rule, where: str) -> None:
    channel = channel_of(identity)
    if rule.channels is not None and channel not in rule.channels:
        raise ChannelRefused(
            f"{where} is a release of the channel {channel}, and the trust policy takes "
            f"{', '.join(rule.channels) or 'none'}",
            fix="choose a release of an allowed channel, or add the channel to the trust policy",
        )


def channel_of(identity: Identity) -> str:
    """The channel a release is of."""
    return identity.channel or DEFAULT_CHANNEL


def _signatures(count: int) -> str:
    return "trusted signature is" if count == 1 else "trusted signatures are"
