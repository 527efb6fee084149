from pathlib import Path

import pytest
from adapter_folders import write_adapter


@pytest.fixture
def adapter(edgelora) -> str:
    write_adapter(Path("adapter"), name="alice/decimals")
    return "adapter"


@pytest.fixture
def published(edgelora, adapter) -> str:
    assert edgelora("push", adapter, "acme/decimals@1.0.0").exit_code == 0
    return "acme/decimals@1.0.0"


def test_push_says_what_was_published_and_what_to_do_next(edgelora, adapter):
    ran = edgelora("push", adapter, "acme/decimals@1.0.0")
    assert ran.out.startswith("acme/decimals@1.0.0 published\n")
    assert ran.err == "next: edgelora pull acme/decimals@1.0.0\n"


def test_pushing_the_same_again_changes_nothing(edgelora, adapter, published):
    document = edgelora("push", adapter, published, "--json").document
    assert document["reused"] and document["reference"] == published


def test_pull_puts_a_verified_folder_below_home(edgelora, published, tmp_path):
    ran = edgelora("pull", published, "--json")
    folder = Path(ran.document["folder"])
    assert folder.is_relative_to(tmp_path / "home") and (folder / "adapter_model.safetensors").exists()
    assert not ran.document["reused"] and edgelora("pull", published, "--json").document["reused"]


def test_pull_from_a_directory_into_a_folder(edgelora, adapter, tmp_path):
    mirror = str(tmp_path / "usb")
    assert edgelora("push", adapter, "acme/decimals@1.0.0", "--to", mirror).exit_code == 0
    assert edgelora("pull", "acme/decimals", "--from", mirror, "--into", "here").exit_code == 0
    assert edgelora("verify", "here").exit_code == 0


def test_pull_of_what_is_not_there_exits_4(edgelora, published):
    ran = edgelora("pull", "acme/decimal", "--json")
    assert ran.exit_code == 4
    assert ran.document["error"]["id"] == "adapter-not-found"


def test_list_shows_what_was_pulled_and_what_a_store_holds(edgelora, published):
    assert "no adapter was pulled to this machine" in edgelora("list").out
    assert published in edgelora("list", "--from", "local").out
    edgelora("pull", published)
    assert edgelora("list", "--json").document["adapters"][0]["reference"] == published


def test_search_finds_by_word_and_by_derivative(edgelora, published):
    assert published in edgelora("search", "decimals").out
    assert published in edgelora("search", "--derivative", "lora", "--language", "id").out
    assert edgelora("search", "--base", "llama").out == "nothing was found\n"


def test_show_reads_a_folder_and_a_store(edgelora, adapter, published):
    assert edgelora("show", adapter).out.startswith("alice/decimals@1.0.0, made ")
    document = edgelora("show", published, "--from", "local", "--json").document
    assert document["identity"]["namespace"] == "acme"


def test_verify_of_a_sound_adapter_names_its_tree(edgelora, adapter):
    document = edgelora("verify", adapter, "--json").document
    assert document["sound"] and document["findings"] == [] and document["tree_digest"].startswith("sha256:")


def test_verify_reports_everything_that_is_wrong_and_exits_by_the_first(edgelora, adapter):
    weights = Path(adapter, "adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    Path(adapter, "extra.txt").write_text("not listed")
    ran = edgelora("verify", adapter, "--json")
    document = ran.document
    assert not document["sound"] and len(document["findings"]) >= 2
    assert ran.exit_code == document["error"]["exit_code"] == 5
    assert "error[digest-mismatch]" in ran.err and "error[file-set-mismatch]" in ran.err


def test_remove_asks_and_without_anybody_to_answer_wants_yes(edgelora, published):
    ran = edgelora("remove", published, "--from", "local")
    assert ran.exit_code == 2 and "pass --yes" in ran.err
    assert edgelora("remove", published, "--from", "local", "--yes").out.startswith(f"removed {published}")
    assert edgelora("search", "decimals").out == "nothing was found\n"


@pytest.mark.parametrize("form", ["usb:acme/decimals@1.0.0", "{address}#acme/decimals@1.0.0"])
def test_remove_asks_about_the_store_that_the_reference_names(edgelora, adapter, tmp_path, form):
    address = (tmp_path / "usb").as_uri()
    edgelora("stores", "add", "usb", address)
    edgelora("push", adapter, "acme/decimals@1.0.0", "--to", "usb")
    ran = edgelora("remove", form.format(address=address))
    assert ran.exit_code == 2
    assert f"Remove acme/decimals@1.0.0 from the store {address}?" in ran.err
    ran = edgelora("remove", form.format(address=address), "--yes")
    assert ran.out == f"removed acme/decimals@1.0.0 from {address}\n"


@pytest.mark.parametrize("command", [("remove", "--yes"), ("show",)])
def test_two_names_for_the_store_are_refused(edgelora, published, tmp_path, command):
    ran = edgelora(*command, f"local:{published}", "--from", str(tmp_path / "usb"))
    assert ran.exit_code == 3
    assert "names the store local, and the option names" in ran.err
    assert f"leave one of them out: {published}" in ran.err
    assert published in edgelora("list", "--from", "local").out


def test_remove_without_a_store_asks_about_this_machine(edgelora, published):
    edgelora("pull", published)
    assert f"Remove {published} from this machine?" in edgelora("remove", published).err


def test_a_reference_of_another_form_is_refused(edgelora):
    ran = edgelora("pull", "decimals")
    assert ran.exit_code == 3 and ran.err.startswith("error[reference-invalid]: 'decimals'")


def test_an_unknown_store_names_the_known(edgelora, adapter):
    ran = edgelora("push", adapter, "acme/decimals", "--to", "usb")
    assert ran.exit_code == 4 and "error[store-not-found]: no store is named 'usb'" in ran.err


def test_a_yanked_version_is_refused_with_its_reason_and_exit_6(edgelora, published):
    why = "answers 9.11 again"
    document = edgelora("yank", published, "--reason", why, "--json").document
    assert (document["reference"], document["yanked"]) == (published, why)
    ran = edgelora("pull", published)
    assert ran.exit_code == 6
    assert f"error[yanked]: {published} was yanked by its publisher: {why}" in ran.err
    assert why in edgelora("list", "--from", "local").err
    assert edgelora("search", "--json").document["adapters"][0]["yanked"] == {"1.0.0": why}
    assert why in edgelora("show", published, "--from", "local").err
    ran = edgelora("pull", published, "--allow-yanked", "--json")
    assert why in ran.err and ran.document["yanked"] == why
    assert edgelora("yank", published, "--undo").out.startswith(f"{published} stands\n")
    assert edgelora("pull", published).exit_code == 0


def test_a_yank_wants_a_reason_or_undo_and_not_both(edgelora, published):
    for flags in ((), ("--undo", "--reason", "x")):
        ran = edgelora("yank", published, *flags)
        assert ran.exit_code == 2 and "say why with --reason" in ran.err


def test_show_tells_publisher_use_and_origin(edgelora):
    write_adapter(Path("adapter"), name="alice/decimals")
    edgelora("push", "adapter", "alice/decimals@1.0.0")
    edgelora("push", "adapter", "acme/decimals@1.0.0")
    out = edgelora("show", "acme/decimals", "--from", "local").out
    assert "\nrepublished sha256:" in out
    assert "license   Apache-2.0\n" in out


def test_push_warns_where_no_licence_was_given(edgelora):
    write_adapter(Path("adapter"), license="LicenseRef-unspecified")
    assert (
        "names no licence, so nobody else may use it"
        in edgelora("push", "adapter", "acme/decimals@1.0.0").err
    )
