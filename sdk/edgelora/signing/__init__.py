"""Signatures of adapters: keys, the trust policy, signing, and what a signature file is worth."""

from edgelora.signing.envelope import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    parse_envelope,
    pre_authentication,
)
from edgelora.signing.judge import Judgement, Signer, judge, judge_envelope
from edgelora.signing.keyring import NamedKey, find_key, import_key, list_keys, new_key, open_private
from edgelora.signing.keys import PrivateKey, PublicKey, new_private_key
from edgelora.signing.policy import (
    PinnedKey,
    Revocation,
    Rule,
    TrustPolicy,
    parse_policy,
    policy_path,
    read_policy,
)
from edgelora.signing.signer import Signed, give_identity, read_signature_file, sign
from edgelora.signing.trusted import check_trusted, judge_folder, signature_findings, trusted_weights
from edgelora.signing.trusting import fingerprint_named, key_named, revoke, trust

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "PAYLOAD_TYPE",
    "Envelope",
    "Judgement",
    "NamedKey",
    "PinnedKey",
    "PrivateKey",
    "PublicKey",
    "Revocation",
    "Rule",
    "Signature",
    "Signed",
    "Signer",
    "TrustPolicy",
    "check_trusted",
    "find_key",
    "fingerprint_named",
    "give_identity",
    "import_key",
    "judge",
    "judge_envelope",
    "judge_folder",
    "key_named",
    "list_keys",
    "new_key",
    "new_private_key",
    "open_private",
    "parse_envelope",
    "parse_policy",
    "policy_path",
    "pre_authentication",
    "read_policy",
    "read_signature_file",
    "revoke",
    "sign",
    "signature_findings",
    "trust",
    "trusted_weights",
]
