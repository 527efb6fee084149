"""The specification of bundles says what the models say."""

import re
from pathlib import Path

import pytest

from edgelora.bundles.index import Blob, BundledAdapter, BundledBase, Index, NamedBlob
from edgelora.manifest.fields import Wire

TEXT = (Path(__file__).parents[2] / "spec" / "v1" / "bundle.md").read_text(encoding="utf-8")
SECTIONS = {"Index": Index, "Blob": Blob, "Adapter": BundledAdapter, "Base": BundledBase}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_member_of_a_bundles_index_is_documented(title: str) -> None:
    match = re.search(rf"^##+ {title}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert match
    documented = set(re.findall(r"\*\*`([A-Za-z0-9]+)`\*\*", match[1]))
    declared = {field.alias for field in SECTIONS[title].model_fields.values()}
    assert documented - set(NamedBlob.model_fields) == declared - set(NamedBlob.model_fields)
    assert issubclass(SECTIONS[title], Wire)
