"""The specification of prepared bases says what the model says."""

import re
from pathlib import Path

from edgelora.prepared import FORMAT_VERSION, INDEX_NAMES, RECORD_NAME, PreparedBase

TEXT = (Path(__file__).parents[2] / "spec" / "v1" / "prepared-base.md").read_text(encoding="utf-8")


def test_every_member_of_the_record_is_documented_with_its_necessity() -> None:
    rows = re.findall(r"^- \*\*`([A-Za-z]+)`\*\* .*?(REQUIRED|OPTIONAL)\.", TEXT, re.MULTILINE)
    declared = {
        field.alias: "REQUIRED" if field.is_required() or name == "format_version" else "OPTIONAL"
        for name, field in PreparedBase.model_fields.items()
    }
    assert dict(rows) == declared


def test_the_names_and_the_version_are_those_that_are_written() -> None:
    assert all(f"`{name}`" in TEXT for name in (RECORD_NAME, *INDEX_NAMES.values()))
    assert f'`"{FORMAT_VERSION}"`' in TEXT
