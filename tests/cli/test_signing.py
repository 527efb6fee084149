import os
import stat
from pathlib import Path

import pytest
from adapter_folders import write_adapter


@pytest.fixture
def adapter(edgelora) -> str:
    write_adapter(Path("adapter"), name="alice/decimals")
    return "adapter"


def test_a_release_is_signed_pushed_trusted_and_pulled(edgelora, adapter):
    assert edgelora("keys", "new", "ops").out.startswith("ops  ed25519  sha256:")
    signed = edgelora("sign", adapter, "--as", "acme/decimals@1.0.0", "--key", "ops", "--json").document
    assert (signed["reference"], signed["added"], signed["release_sequence"]) == ("acme/decimals@1.0.0", 1, 1)
    assert edgelora("push", adapter, "acme/decimals@1.0.0").exit_code == 0
    told = edgelora("keys", "trust", "ops", "--namespace", "acme")
    assert told.out.splitlines()[1] == "acme: 1 of 1 keys must sign"
    ran = edgelora("pull", "acme/decimals", "--require-signature")
    assert (ran.exit_code, ran.err) == (0, "") and ran.out.splitlines()[-1] == "  signed by ops"
    assert "signed by ops (trusted)" in edgelora("verify", "acme/decimals").out
    assert edgelora("keys", "list").out.splitlines()[1].split()[:4] == ["ops", "ed25519", "acme", "yes"]


def test_an_unsigned_adapter_is_refused_with_exit_6(edgelora, adapter):
    edgelora("push", adapter, "acme/decimals@1.0.0")
    ran = edgelora("pull", "acme/decimals", "--require-signature", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (6, "unsigned")
    ran = edgelora("verify", adapter, "--require-signature", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (6, "unsigned")
    assert edgelora("verify", adapter).exit_code == 0


def test_two_signers_and_a_policy_file_for_a_gateway(edgelora, adapter):
    for name in ("one", "two"):
        edgelora("keys", "new", name, "--type", "p256")
        edgelora("keys", "trust", name, "--namespace", "alice", "--trust-policy", "gateway.yaml")
    edgelora(
        "keys", "trust", "two", "--namespace", "alice", "--threshold", "2", "--trust-policy", "gateway.yaml"
    )
    edgelora("sign", adapter, "--key", "one")
    ran = edgelora("verify", adapter, "--trust-policy", "gateway.yaml", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (6, "signature-untrusted")
    edgelora("sign", adapter, "--key", "two")
    os.rename(Path(os.environ["EDGELORA_HOME"], "config/keys"), "elsewhere")
    assert edgelora("verify", adapter, "--trust-policy", "gateway.yaml").exit_code == 0
    two = edgelora("keys", "list", "--trust-policy", "gateway.yaml", "--json").document["keys"][0]
    assert two["trusted_for"] == ["alice"] and not two["can_sign"]
    revoked = edgelora(
        "keys", "revoke", two["fingerprint"], "--reason", "lost", "--trust-policy", "gateway.yaml"
    )
    assert revoked.out == f"{two['fingerprint']} is revoked\n"
    ran = edgelora("verify", adapter, "--trust-policy", "gateway.yaml", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (6, "key-revoked")


def test_a_stranger_who_signed_is_warned_of(edgelora, adapter):
    edgelora("keys", "new", "ops")
    edgelora("sign", adapter, "--key", "ops")
    ran = edgelora("verify", adapter)
    assert ran.exit_code == 0 and "a key you do not trust for this adapter" in ran.err
    assert "signed by ops (known)" in ran.out


def test_an_encrypted_key_opens_with_its_passphrase(edgelora, adapter, monkeypatch):
    assert edgelora("keys", "new", "ops", "--encrypt").exit_code == 2
    monkeypatch.setenv("EDGELORA_KEY_PASSPHRASE", "correct horse")
    assert edgelora("keys", "new", "ops", "--encrypt").exit_code == 0
    pem = Path(os.environ["EDGELORA_HOME"], "config/keys/private/ops.pem")
    assert b"ENCRYPTED" in pem.read_bytes() and stat.S_IMODE(pem.stat().st_mode) == 0o600
    assert edgelora("sign", adapter, "--key", "ops").exit_code == 0
    copy = edgelora("keys", "new", "copy", "--from", str(pem), "--json").document
    assert [key["fingerprint"] for key in edgelora("keys", "list", "--json").document["keys"]] == [
        copy["fingerprint"]
    ]
    monkeypatch.setenv("EDGELORA_KEY_PASSPHRASE", "wrong")
    ran = edgelora("sign", adapter, "--key", "ops", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (3, "key-invalid")


def test_what_says_nothing_alone_is_refused(edgelora, adapter):
    edgelora("keys", "new", "ops")
    assert edgelora("sign", adapter, "--key", "ops", "--sequence", "3").exit_code == 2
    ran = edgelora("sign", adapter, "--key", "obs", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (4, "key-not-found")
    ran = edgelora("keys", "trust", "obs", "--namespace", "a", "--json")
    assert (ran.exit_code, ran.document["error"]["fix"]) == (4, "use one of ops")


def test_an_older_release_asked_for_by_name_is_told(edgelora, adapter):
    edgelora("push", adapter, "acme/decimals@1.0.0")
    write_adapter(Path("newer"), seed=2)
    edgelora("push", "newer", "acme/decimals@1.1.0")
    edgelora("pull", "acme/decimals")
    ran = edgelora("pull", "acme/decimals@1.0.0")
    assert ran.exit_code == 0
    assert "warning: acme/decimals@1.0.0 is release 1; release 2 (1.1.0) was seen before" in ran.err


def test_a_mirror_proves_that_it_is_current(edgelora, adapter):
    for name in ("alice", "bob", "release", "gateway"):
        edgelora("keys", "new", name)
    edgelora("push", adapter, "acme/decimals@1.0.0", "--to", "./mirror")
    root = ("--root", "alice", "--root", "bob")
    made = edgelora("tuf", "init", "./mirror", *root, "--threshold", "2", "--online", "gateway")
    assert made.exit_code == 0 and made.out.startswith("give readers ")
    delegated = edgelora(
        "tuf", "delegate", "./mirror", "acme", "--key", "release", *root, "--online", "gateway", "--json"
    )
    assert delegated.document["timestamp"] == 2
    listed = edgelora("tuf", "publish", "./mirror", "acme", "--key", "release", "--online", "gateway")
    assert listed.out.splitlines()[:2] == ["1 releases of acme are listed", "  acme/decimals@1.0.0 is new"]
    trusted = edgelora("tuf", "trust", "./mirror", "mirror/tuf/1.root.json", "--namespace", "acme", "--json")
    assert (trusted.exit_code, trusted.document["namespaces"]) == (0, ["acme"])
    assert edgelora("pull", "acme/decimals", "--from", "./mirror").exit_code == 0
    assert edgelora("tuf", "refresh", "./mirror", "--online", "gateway", "--days", "30").exit_code == 0
    write_adapter(Path("newer"), seed=2)
    edgelora("push", "newer", "acme/decimals@1.1.0", "--to", "./mirror")
    ran = edgelora("pull", "acme/decimals", "--from", "./mirror", "--json")
    assert (ran.exit_code, ran.document["error"]["id"]) == (6, "mix-and-match")


def test_a_key_is_revoked_by_its_name_or_the_beginning_of_its_fingerprint(edgelora, tmp_path):
    fingerprint = edgelora("keys", "new", "ops", "--json").document["fingerprint"]
    pem = tmp_path / "gateway.pem"
    pem.write_text(edgelora("keys", "new", "second", "--json").document["public_key"])
    policy = ("--trust-policy", str(tmp_path / "trust.yaml"))
    edgelora("keys", "trust", str(pem), "--namespace", "acme", *policy)
    # By the name that the policy gives it, which no key of this machine has.
    assert edgelora("keys", "revoke", "gateway", *policy).exit_code == 0
    revoked = edgelora("keys", "revoke", f"{fingerprint[:20]}…", "--json", *policy)
    assert revoked.document["fingerprint"] == fingerprint
    assert edgelora("keys", "revoke", fingerprint[:12], *policy).exit_code == 4


def test_a_public_key_that_is_kept_is_said_not_to_sign(edgelora, tmp_path, adapter):
    pem = tmp_path / "ops.pem"
    pem.write_text(edgelora("keys", "new", "ops", "--json").document["public_key"])
    kept = edgelora("keys", "new", "theirs", "--from", str(pem))
    assert "that is a public key, which cannot sign" in kept.err
    ran = edgelora("sign", adapter, "--as", "acme/decimals@1.0.0", "--key", "theirs")
    assert ran.exit_code == 4 and "edgelora keys new OTHERNAME --from FILE" in ran.err


@pytest.mark.parametrize("moment", ["tomorrow", "2027-06-30"])
def test_a_moment_of_another_form_is_told_its_form(edgelora, adapter, moment):
    edgelora("keys", "new", "ops")
    ran = edgelora("sign", adapter, "--as", "acme/a@1.0.0", "--expires", moment, "--key", "ops")
    assert ran.exit_code == 2 and "write it as 2027-06-30T00:00:00Z" in ran.err


def test_a_store_that_is_no_directory_cannot_be_held_to_metadata(edgelora, tmp_path):
    (tmp_path / "1.root.json").write_text("{}")
    ran = edgelora("tuf", "trust", "http://127.0.0.1:9", str(tmp_path / "1.root.json"))
    assert ran.exit_code == 3 and "from directories only" in ran.err


def test_show_tells_number_channel_and_expiry_of_a_release(edgelora, adapter):
    edgelora("keys", "new", "ops")
    choices = ("--sequence", "7", "--channel", "beta", "--expires", "2999-01-01T00:00:00Z")
    assert edgelora("sign", adapter, "--as", "acme/a@1.0.0", *choices, "--key", "ops").exit_code == 0
    shown = edgelora("show", adapter).out
    assert "release   7 of channel beta, not to be pulled after 2999-01-01T00:00:00Z" in shown
