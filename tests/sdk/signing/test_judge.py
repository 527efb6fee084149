"""What a signature is worth: each way of not being signed as required has its own error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from signers import ed25519, p256, pinned, policy, signed_adapter

from edgelora.errors import (
    ChannelRefused,
    DigestMismatch,
    KeyRevoked,
    SignatureInvalid,
    SignatureUntrusted,
    SignedManifest,
    Unsigned,
)
from edgelora.manifest import manifest_bytes, read_manifest
from edgelora.signing import (
    Envelope,
    Revocation,
    Signature,
    TrustPolicy,
    check_trusted,
    give_identity,
    judge_folder,
    new_key,
    parse_envelope,
    pre_authentication,
    sign,
    signature_findings,
)

ONE, TWO, THREE = ed25519("one"), p256("two"), ed25519("three")
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return signed_adapter(tmp_path / "adapter", ONE)


def envelope_of(folder: Path) -> Envelope:
    return parse_envelope((folder / "edgelora.sig.json").read_bytes())


def replace_signatures(folder: Path, *signatures: Signature) -> None:
    payload = (folder / "edgelora.json").read_bytes()
    (folder / "edgelora.sig.json").write_bytes(Envelope(payload, signatures).encode())


def test_what_trusted_keys_signed_passes(folder: Path) -> None:
    sign(folder, [TWO])
    assert check_trusted(folder, policy(ONE, TWO, threshold=2)) == read_manifest(folder)


def test_unsigned_is_refused_where_a_signature_is_required(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    with pytest.raises(Unsigned, match=r"alice/decimals@1\.0\.0 is not signed, and 2 trusted sig") as caught:
        check_trusted(folder, policy(ONE, TWO, threshold=2))
    assert (caught.value.exit_code, caught.value.id) == (6, "unsigned") and caught.value.fix
    check_trusted(folder, policy(ONE, scope="bob"))
    with pytest.raises(Unsigned):
        check_trusted(folder, policy(ONE, scope="bob").requiring_signatures())


def test_one_of_two_is_not_two(folder: Path) -> None:
    with pytest.raises(SignatureUntrusted, match="signed by 1 of the 2 trusted keys it needs") as caught:
        check_trusted(folder, policy(ONE, TWO, threshold=2))
    assert caught.value.exit_code == 6


def test_another_key_does_not_count(folder: Path) -> None:
    with pytest.raises(SignatureUntrusted, match="signed by 0 of the 1 trusted keys") as caught:
        check_trusted(folder, policy(TWO))
    assert ONE.public.fingerprint in caught.value.problem
    with pytest.raises(SignatureUntrusted, match="0 of the 1"):
        check_trusted(folder, TrustPolicy(keys=pinned(ONE)).requiring_signatures())


def test_a_key_counts_only_in_its_namespace(folder: Path) -> None:
    other = policy(ONE, scope="bob").model_copy(update={"default": policy(TWO).namespaces["alice"]})
    with pytest.raises(SignatureUntrusted, match="0 of the 1"):
        check_trusted(folder, other)


@pytest.mark.parametrize("threshold", [1, 2])
def test_a_revoked_key_never_counts(folder: Path, threshold: int) -> None:
    revoked = {ONE.public.fingerprint: Revocation(reason="the laptop was lost")}
    struck = policy(ONE, TWO, threshold=threshold).model_copy(update={"revoked": revoked})
    with pytest.raises(KeyRevoked, match=r"key1 .* was revoked: the laptop was lost") as caught:
        check_trusted(folder, struck)
    assert (caught.value.id, caught.value.exit_code) == ("key-revoked", 6)
    sign(folder, [TWO])
    if threshold == 1:
        assert sorted(signer.standing for signer in judged(folder, struck)) == ["revoked", "trusted"]
    else:
        with pytest.raises(KeyRevoked):
            check_trusted(folder, struck)


def judged(folder: Path, rules: TrustPolicy):  # type: ignore[no-untyped-def]
    data = (folder / "edgelora.json").read_bytes()
    return judge_folder(folder, data, read_manifest(folder), rules).signers


def test_a_revoked_signature_alone_is_refused_even_where_none_is_required(folder: Path) -> None:
    with pytest.raises(KeyRevoked, match="was revoked"):
        check_trusted(folder, TrustPolicy(revoked={ONE.public.fingerprint: Revocation()}))


def test_a_wrong_signature_is_refused_even_if_others_suffice(folder: Path) -> None:
    right = envelope_of(folder).signatures[0]
    wrong = Signature(TWO.public.fingerprint, TWO.sign(b"something else"))
    replace_signatures(folder, *sorted([right, wrong], key=lambda signature: signature.keyid))
    with pytest.raises(SignatureInvalid, match=r"the signature of key2 over alice/dec"):
        check_trusted(folder, policy(ONE, TWO))


def test_the_keyid_is_the_fingerprint_of_the_key_that_signed(folder: Path) -> None:
    payload = (folder / "edgelora.json").read_bytes()
    forged = THREE.sign(pre_authentication(payload))
    replace_signatures(folder, Signature(ONE.public.fingerprint, forged))
    with pytest.raises(SignatureInvalid, match="is wrong"):
        check_trusted(folder, policy(ONE))
    replace_signatures(folder, Signature(THREE.public.fingerprint, envelope_of(folder).signatures[0].value))
    with pytest.raises(SignatureUntrusted):
        check_trusted(folder, policy(ONE))


def test_a_signature_over_another_payload_type_is_wrong(folder: Path) -> None:
    payload = (folder / "edgelora.json").read_bytes()
    other = ONE.sign(pre_authentication(payload, "application/vnd.in-toto+json"))
    replace_signatures(folder, Signature(ONE.public.fingerprint, other))
    with pytest.raises(SignatureInvalid, match="is wrong"):
        check_trusted(folder, policy(ONE))


def test_a_signature_over_the_bare_manifest_is_wrong(folder: Path) -> None:
    bare = ONE.sign((folder / "edgelora.json").read_bytes())
    replace_signatures(folder, Signature(ONE.public.fingerprint, bare))
    with pytest.raises(SignatureInvalid, match="is wrong"):
        check_trusted(folder, policy(ONE))


def test_the_signature_of_another_adapter_is_refused(tmp_path: Path, folder: Path) -> None:
    other = signed_adapter(tmp_path / "other", ONE, seed=3)
    shutil.copy(other / "edgelora.sig.json", folder)
    for rules in (policy(ONE), TrustPolicy()):
        with pytest.raises(SignatureInvalid, match="signs another manifest"):
            check_trusted(folder, rules)


def test_a_manifest_written_again_is_another_manifest(folder: Path) -> None:
    path = folder / "edgelora.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True))
    with pytest.raises(SignatureInvalid, match="signs another manifest"):
        check_trusted(folder, policy(ONE))


def test_the_twin_of_a_p256_signature_is_refused(tmp_path: Path) -> None:
    folder = signed_adapter(tmp_path / "p256", TWO)
    check_trusted(folder, policy(TWO))
    r, s = decode_dss_signature(envelope_of(folder).signatures[0].value)
    replace_signatures(folder, Signature(TWO.public.fingerprint, encode_dss_signature(r, ORDER - s)))
    with pytest.raises(SignatureInvalid, match="is wrong"):
        check_trusted(folder, policy(TWO))


def test_without_a_policy_a_signature_is_told_and_a_broken_one_refused(folder: Path) -> None:
    _, findings = signature_findings(folder, TrustPolicy())
    assert [(finding.id, finding.severity) for finding in findings] == [("signature-untrusted", "warning")]
    assert "a key you do not trust for this adapter" in findings[0].problem
    check_trusted(folder, TrustPolicy())
    (folder / "edgelora.sig.json").write_bytes(b"{}")
    with pytest.raises(SignatureInvalid, match="exactly payload"):
        check_trusted(folder, TrustPolicy())
    (folder / "edgelora.sig.json").unlink()
    (folder / "edgelora.sig.json").symlink_to(folder / "README.md")
    _, findings = signature_findings(folder, TrustPolicy())
    assert [finding.id for finding in findings] == ["signature-invalid"]


def test_a_signature_by_a_key_of_ones_own_is_checked_without_a_policy(tmp_path: Path) -> None:
    from edgelora.signing import open_private

    new_key("ops")
    folder = signed_adapter(tmp_path / "mine", open_private("ops"))
    assert [(signer.name, signer.standing) for signer in judged(folder, TrustPolicy())] == [("ops", "known")]
    signature = envelope_of(folder).signatures[0]
    replace_signatures(folder, Signature(signature.keyid, bytes(64)))
    with pytest.raises(SignatureInvalid, match="the signature of ops"):
        check_trusted(folder, TrustPolicy())


def test_only_allowed_channels_pass(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "beta")
    identity = read_manifest(folder).identity
    give_identity(folder, identity.model_copy(update={"channel": "beta"}))
    sign(folder, [ONE])
    check_trusted(folder, policy(ONE, channels=("beta", "stable")))
    with pytest.raises(
        ChannelRefused, match="of the channel beta, and the trust policy takes stable"
    ) as caught:
        check_trusted(folder, policy(ONE, channels=("stable",)))
    assert caught.value.exit_code == 6


def test_signing_is_repeatable_and_keeps_the_others(folder: Path) -> None:
    before = (folder / "edgelora.sig.json").read_bytes()
    assert (sign(folder, [ONE]).added, (folder / "edgelora.sig.json").read_bytes()) == (0, before)
    signed = sign(folder, [TWO, THREE])
    assert (signed.added, len(signed.keyids)) == (2, 3) and list(signed.keyids) == sorted(signed.keyids)
    check_trusted(folder, policy(ONE, TWO, THREE, threshold=3))


def test_a_signed_folder_keeps_its_identity(folder: Path) -> None:
    identity = read_manifest(folder).identity
    assert give_identity(folder, identity).identity == identity
    with pytest.raises(SignedManifest, match=r"is signed as alice/decimals@1\.0\.0") as caught:
        give_identity(folder, identity.model_copy(update={"version": "2.0.0"}))
    assert caught.value.exit_code == 6 and caught.value.fix.startswith("rm ")


def test_signing_does_not_build_on_a_signature_that_is_wrong(folder: Path) -> None:
    manifest = read_manifest(folder)
    replace_signatures(folder, Signature(ONE.public.fingerprint, bytes(64)))
    with pytest.raises(SignatureInvalid, match="holds a wrong signature by"):
        sign(folder, [ONE])
    (folder / "edgelora.json").write_bytes(manifest_bytes(manifest) + b"\n")
    with pytest.raises(SignatureInvalid, match="signs another manifest"):
        sign(folder, [TWO])


def test_a_damaged_folder_is_not_signed(folder: Path) -> None:
    (folder / "README.md").write_text("changed")
    with pytest.raises(DigestMismatch):
        sign(folder, [TWO])


def test_what_is_loaded_is_what_was_verified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that is swapped between two readings is noticed, though either one is sound."""
    from edgelora.signing import trusted
    from edgelora.verify import check

    def swapping(place: Path):  # type: ignore[no-untyped-def]
        manifest = check(place)
        path = place / "edgelora.json"
        path.write_bytes(manifest_bytes(manifest.model_copy(update={"license": "MIT"})))
        return manifest

    monkeypatch.setattr(trusted, "check", swapping)
    with pytest.raises(DigestMismatch, match="changed while it was read"):
        check_trusted(folder, TrustPolicy())
