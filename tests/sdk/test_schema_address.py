"""A manifest's ``$schema`` is for editors: nothing ever fetches it, nor any other address in a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub
from signers import ed25519

from edgelora.bundles import create_bundle, import_bundle
from edgelora.manifest import read_manifest
from edgelora.signing import check_trusted, sign
from edgelora.transfer import find_manifest, list_published, pull, push, resolve_adapter
from edgelora.verify import verify


@pytest.mark.parametrize("member", ["$schema", "base.repo"])
def test_the_address_of_a_schema_is_never_fetched(hub: LoopbackHub, tmp_path: Path, member: str) -> None:
    folder = write_adapter(tmp_path / "adapter", base=f"{hub.url}/base" if member == "base.repo" else "micro")
    if member == "$schema":
        document = json.loads((folder / "edgelora.json").read_text())
        (folder / "edgelora.json").write_text(json.dumps({"$schema": f"{hub.url}/v1.json"} | document))
        assert read_manifest(folder).schema_address == f"{hub.url}/v1.json"
    assert verify(folder) == []
    sign(folder, [ed25519("one")])
    check_trusted(folder)
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    list_published(str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"))
    find_manifest("alice/decimals")
    resolve_adapter("alice/decimals")
    made = create_bundle(tmp_path / "b.edgelora", ["alice/decimals"])
    import_bundle(made.path, str(tmp_path / "other"))
    assert hub.log == []
