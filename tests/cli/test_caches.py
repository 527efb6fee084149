from pathlib import Path

import pytest
from adapter_folders import write_adapter


@pytest.fixture
def pulled(edgelora, hub) -> str:
    write_adapter(Path("adapter"), rows=1024)
    assert edgelora("push", "adapter", f"{hub.url}#alice/decimals@1.0.0").exit_code == 0
    assert edgelora("pull", f"{hub.url}#alice/decimals").exit_code == 0
    return "alice/decimals"


def test_push_and_pull_name_an_endpoint_by_address_or_by_name(edgelora, hub):
    write_adapter(Path("adapter"), extra={"README.md": b"---\ntags: [edgelora]\n---\n"})
    assert edgelora("stores", "add", "fleet", hub.url, "--token-env", "FLEET_TOKEN").exit_code == 0
    ran = edgelora("push", "adapter", "alice/decimals", "--to", "fleet", "--json")
    assert "FLEET_TOKEN" in edgelora("stores", "list").out
    assert edgelora("stores", "list", "--json").document["stores"][0]["token_env"] == "FLEET_TOKEN"
    assert ran.exit_code == 3 and "FLEET_TOKEN" in ran.document["error"]["problem"]
    assert edgelora("push", "adapter", "alice/decimals", "--to", hub.url, "--public").exit_code == 3
    assert edgelora("stores", "add", "fleet", hub.url).exit_code == 0
    assert edgelora("push", "adapter", "alice/decimals", "--to", "fleet", "--public").exit_code == 0
    assert not hub.repos["alice/decimals"].private
    assert edgelora("list", "--from", "fleet", "--json").document["adapters"][0]["license"] == "Apache-2.0"


def test_a_store_without_encryption_is_added_with_a_warning(edgelora):
    ran = edgelora("stores", "add", "site", "http://mirror.example")
    assert ran.exit_code == 0 and "http://mirror.example is not encrypted" in ran.err


def test_offline_exits_9_with_what_to_do(edgelora):
    ran = edgelora("pull", "hf://acme/decimals", "--offline", "--json")
    assert ran.exit_code == 9 and ran.document["error"]["id"] == "offline-not-cached"


def test_list_shows_digest_size_and_what_the_files_are_of(edgelora, pulled):
    ran = edgelora("cache", "list")
    assert "alice/decimals@1.0.0" in ran.out and "4 files" in ran.out
    document = edgelora("cache", "list", "--json").document
    assert document["bytes"] == sum(file["size_bytes"] for file in document["files"])
    assert edgelora("cache", "verify").out == "4 files intact, 0 damaged and dropped\n"


def test_prune_says_what_it_would_delete_and_asks(edgelora, pulled):
    ran = edgelora("cache", "prune", "--max-size", "0", "--dry-run")
    assert ran.out.startswith("4 files would be deleted") and "bytes freed" in ran.out
    assert edgelora("cache", "prune", "--max-size", "0").exit_code == 2
    document = edgelora(
        "cache", "prune", "--max-size", "1KB", "--older-than", "30d", "--yes", "--json"
    ).document
    assert document["deleted"] and document["bytes"] > 100_000
    assert edgelora("cache", "prune", "--older-than", "30 moons").exit_code == 2
    assert edgelora("cache", "prune").exit_code == 2


def test_remove_by_name_or_all(edgelora, pulled):
    assert edgelora("cache", "remove").exit_code == 2
    assert edgelora("cache", "remove", "bob/other", "--yes").exit_code == 4
    assert edgelora("cache", "remove", pulled, "--yes").out.startswith("4 files deleted")
    assert edgelora("cache", "remove", "--all", "--yes").out == "0 files deleted, 0 bytes freed\n"
    assert edgelora("cache", "list").out == "the cache is empty\n"
