from pathlib import Path

import pytest
from adapter_folders import write_adapter


@pytest.fixture
def bundle(edgelora) -> str:
    write_adapter(Path("adapter"), name="acme/decimals")
    edgelora("push", "adapter", "acme/decimals@1.0.0", "--to", "./elsewhere")
    made = edgelora(
        "bundles", "create", "out.edgelora", "acme/decimals", "--from", "./elsewhere", "--base", "micro"
    )
    assert made.exit_code == 0, made.err
    return "out.edgelora"


def test_a_bundle_is_made_shown_imported_and_pulled_from(edgelora, bundle):
    document = edgelora("bundles", "show", bundle, "--json").document
    assert [each["reference"] for each in document["adapters"]] == ["acme/decimals@1.0.0"]
    assert [each["repo"] for each in document["bases"]] == ["micro"] and document["signers"] == []
    assert "acme/decimals@1.0.0" in edgelora("bundles", "show", bundle).out
    ran = edgelora("bundles", "import", bundle)
    assert (
        "acme/decimals@1.0.0 imported\n" in ran.out and "next: edgelora pull acme/decimals@1.0.0" in ran.err
    )
    assert "was there already" in edgelora("bundles", "import", bundle).out
    assert edgelora("pull", "acme/decimals").exit_code == 0


def test_the_digest_that_create_prints_is_that_of_the_file(edgelora, bundle):
    import hashlib

    again = edgelora(
        "bundles", "create", "again", "acme/decimals", "--from", "./elsewhere", "--base", "micro", "--json"
    ).document
    assert again["sha256"] == hashlib.sha256(Path(bundle).read_bytes()).hexdigest()


def test_what_is_no_bundle_exits_3(edgelora, bundle):
    Path("cut.edgelora").write_bytes(Path(bundle).read_bytes()[:5000])
    ran = edgelora("bundles", "import", "cut.edgelora")
    assert (
        ran.exit_code == 3
        and "error[bundle-invalid]: cut.edgelora: this is no bundle that can be read" in ran.err
    )


def test_a_bundle_that_is_not_there_exits_4(edgelora):
    assert edgelora("bundles", "show", "gone.edgelora").exit_code == 4


def test_a_signed_bundle_shows_who_signed_and_an_unsigned_one_exits_6(edgelora, bundle):
    edgelora("keys", "new", "ops")
    made = edgelora(
        "bundles", "create", "signed", "acme/decimals", "--from", "./elsewhere", "--key", "ops", "--json"
    )
    assert made.document["signed"], made.err
    signers = edgelora("bundles", "show", "signed", "--json").document["signers"]
    assert [(signer["name"], signer["standing"]) for signer in signers] == [("ops", "known")]
    assert "signed by ops: known" in edgelora("bundles", "show", "signed").out
    assert edgelora("bundles", "import", "signed", "--require-signature").exit_code == 6
    ran = edgelora("bundles", "import", bundle, "--require-signature")
    assert ran.exit_code == 6 and "error[unsigned]: the bundle is not signed" in ran.err


def test_a_yank_on_nobodys_word_is_told_and_not_done(edgelora, bundle):
    edgelora("bundles", "import", bundle)
    edgelora("yank", "acme/decimals@1.0.0", "--from", "./elsewhere", "--reason", "answers 9.11 again")
    edgelora("bundles", "create", "yanked", "acme/decimals@1.0.0", "--from", "./elsewhere")
    ran = edgelora("bundles", "import", "yanked", "--json")
    assert ran.document["yanks_ignored"] == {"acme/decimals@1.0.0": "answers 9.11 again"}, ran.err
    assert "warning: the bundle says that acme/decimals@1.0.0 was yanked" in ran.err
    assert edgelora("pull", "acme/decimals").exit_code == 0
