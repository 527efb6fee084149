"""The trust policy is one small file, read strictly, and edited by two commands."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from signers import ed25519, p256, policy

from edgelora.errors import KeyNotFound, KeyRevoked, MissingFile, TrustPolicyError
from edgelora.locations import config_dir
from edgelora.signing import (
    NamedKey,
    TrustPolicy,
    fingerprint_named,
    key_named,
    new_key,
    parse_policy,
    read_policy,
    revoke,
    trust,
)

KEY = ed25519("one").public
DER = base64.b64encode(KEY.der).decode()
OTHER = p256("two").public.fingerprint


def test_without_a_file_nothing_is_required_and_nobody_is_trusted() -> None:
    found = read_policy()
    assert found == TrustPolicy()
    assert not found.rule_for("alice", "decimals").require_signature


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFile, match="no trust policy"):
        read_policy(tmp_path / "none.yaml")
    monkeypatch.setenv("EDGELORA_TRUST_POLICY", str(tmp_path / "none.yaml"))
    with pytest.raises(MissingFile, match="no trust policy"):
        read_policy()


def test_the_longer_scope_wins() -> None:
    text = f"""
    keys: {{"{KEY.fingerprint}": {{public_key: {DER}}}}}
    default: {{require_signature: true}}
    namespaces:
      alice: {{keys: ["{KEY.fingerprint}"]}}
      alice/open: {{require_signature: false}}
    """
    found = parse_policy(text, "it")
    assert found.rule_for("alice", "decimals").keys == (KEY.fingerprint,)
    assert not found.rule_for("alice", "open").require_signature
    assert found.rule_for("bob", "x").require_signature


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("namespace: {}", "unknown key 'namespace'", "did you mean 'namespaces'?"),
        (
            "namespaces: {a: {treshold: 2}}",
            "unknown key 'namespaces.a.treshold'",
            "did you mean 'threshold'?",
        ),
        ("keys: {x: {public_key: a}}", "keys.x", "correct"),
        (f"keys: {{'{OTHER}': {{public_key: {DER}}}}}", f"is the key {KEY.fingerprint}", "correct"),
        (f"keys: {{'{OTHER}': {{public_key: bm8}}}}", "is no key in base64", "correct"),
        (f"namespaces: {{a: {{keys: ['{OTHER}']}}}}", "which is not under keys", "correct"),
        ("namespaces: {A: {}}", "neither a namespace nor ns/name", "correct"),
        ("namespaces: {a/b/c: {}}", "neither a namespace nor ns/name", "correct"),
        (
            f"keys: {{'{KEY.fingerprint}': {{public_key: {DER}}}}}\n"
            f"namespaces: {{a: {{keys: ['{KEY.fingerprint}'], threshold: 2}}}}",
            "threshold is 2, and there are 1 keys",
            "correct",
        ),
        (
            f"keys: {{'{KEY.fingerprint}': {{public_key: {DER}}}}}\n"
            f"namespaces: {{a: {{keys: ['{KEY.fingerprint}', '{KEY.fingerprint}']}}}}",
            "a key is named twice",
            "correct",
        ),
        ("default: {}\ndefault: {}", "given twice", "correct that line"),
        ("a: [", "not valid YAML", "correct that line"),
        ("[]", "valid dictionary", "correct"),
        ("default: {require_signature: 'no'}", "default.require_signature", "correct"),
        ("default: {require_signature: 0}", "default.require_signature", "correct"),
        ("default: {ignore_expiry: 'false'}", "default.ignore_expiry", "correct"),
        ("default: {threshold: true}", "default.threshold", "correct"),
        ("default: {threshold: 2.0}", "default.threshold", "correct"),
        ("default: {threshold: '2'}", "default.threshold", "correct"),
        ("format: 2", "format: Input should be 1", "correct"),
        ("format: true", "format: write it as a whole number", "correct"),
        ("format: 1.0", "format: write it as a whole number", "correct"),
        ("default: &a {}\nnamespaces: {alice: *a}", "aliases are not allowed", "correct that line"),
        ("default: {<<: {threshold: 2}}", "merge keys are not allowed", "correct that line"),
        ("", "is empty, so it does not say", "restore it"),
        ("---\n", "is empty, so it does not say", "restore it"),
        ("null", "is empty, so it does not say", "restore it"),
        ("# nothing\n", "is empty, so it does not say", "restore it"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_was_meant(text: str, problem: str, fix: str) -> None:
    with pytest.raises(TrustPolicyError, match=problem) as caught:
        parse_policy(text, "it")
    assert caught.value.fix.startswith(fix) and caught.value.exit_code == 3


def test_a_policy_that_was_cut_off_requires_no_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trust.yaml").write_bytes(b"")
    monkeypatch.setenv("EDGELORA_TRUST_POLICY", str(tmp_path / "trust.yaml"))
    with pytest.raises(TrustPolicyError, match="is empty"):
        read_policy()
    with pytest.raises(TrustPolicyError, match="is empty"):
        trust(NamedKey("ops", KEY, can_sign=False), ["alice"])


def test_a_policy_may_say_of_which_format_it_is() -> None:
    assert parse_policy("format: 1", "it") == parse_policy("{}", "it") == TrustPolicy()
    trust(NamedKey("ops", KEY, can_sign=False), ["alice"])
    assert "\nformat: 1\n" in (config_dir() / "trust.yaml").read_text()


def test_trusting_a_key_writes_a_policy_that_says_so() -> None:
    changed = trust(NamedKey("ops", KEY, can_sign=False), ["alice", "bob/x"])
    assert read_policy() == changed
    assert changed.rule_for("bob", "x").require_signature
    two = trust(NamedKey("two", p256("two").public, can_sign=False), ["alice"], threshold=2)
    assert (two.rule_for("alice", "d").threshold, len(two.rule_for("alice", "d").keys)) == (2, 2)
    text = (config_dir() / "trust.yaml").read_text()
    assert text.startswith("# Whose signatures count.") and DER in text


def test_trusting_more_signers_than_there_are_is_refused() -> None:
    with pytest.raises(TrustPolicyError, match="threshold is 2, and there are 1 keys"):
        trust(NamedKey("ops", KEY, can_sign=False), ["alice"], threshold=2)
    assert not (config_dir() / "trust.yaml").exists()


def test_revoking_needs_no_key_at_hand(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    assert fingerprint_named(OTHER, file) == OTHER
    revoke(OTHER, "lost", policy=file)
    revoke(KEY.fingerprint, policy=file)
    found = read_policy(file)
    assert found.revoked[OTHER].reason == "lost" and KEY.fingerprint in found.revoked
    with pytest.raises(KeyNotFound):
        fingerprint_named("nobody", file)


def test_a_key_is_named_by_file_name_or_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "ops.pem"
    file.write_bytes(KEY.pem)
    private = tmp_path / "private.pem"
    private.write_bytes(ed25519("one").pem())
    mine = new_key("mine").public
    assert key_named(str(file)).public == key_named(str(private)).public == KEY
    assert key_named("mine").public == key_named(mine.fingerprint).public == mine
    trust(key_named(str(file)), ["alice"])
    assert key_named(KEY.fingerprint).name == "ops"


def test_requiring_signatures_changes_who_must_sign_not_who_counts() -> None:
    found = policy(ed25519("one"), require_signature=False).requiring_signatures()
    assert found.rule_for("alice", "x").require_signature and found.default.require_signature
    assert found.rule_for("alice", "x").keys == (KEY.fingerprint,)


def test_a_revoked_key_is_not_trusted_again_by_accident() -> None:
    revoke(KEY.fingerprint, "lost")
    with pytest.raises(KeyRevoked, match="was revoked, so it would not count") as caught:
        trust(NamedKey("ops", KEY, can_sign=False), ["alice"])
    assert "trust.yaml" in caught.value.fix
    assert not read_policy().namespaces


def test_a_policy_may_be_a_link_as_containers_make_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/trust.yaml").write_text("default: {require_signature: true}\n")
    (tmp_path / "trust.yaml").symlink_to("data/trust.yaml")
    assert read_policy(tmp_path / "trust.yaml").default.require_signature
    revoke(OTHER, policy=tmp_path / "trust.yaml")
    assert (tmp_path / "trust.yaml").is_symlink() and OTHER in (tmp_path / "data/trust.yaml").read_text()
