"""The specification's text and schema say what the models say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgelora.manifest.components import PartRef  # noqa: F401  (defines the models)
from edgelora.manifest.fields import Wire
from edgelora.manifest.models import Manifest
from edgelora.manifest.schema import schema_text

SPEC = Path(__file__).parents[2] / "spec"
TEXT = (SPEC / "v1" / "manifest.md").read_text(encoding="utf-8")
MODELS = [model for model in Wire.__subclasses__() if model.__module__.startswith("edgelora.manifest.")]


def section(title: str) -> str:
    match = re.search(rf"^##+ {title}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert match, f"manifest.md has no section {title}"
    return match[1]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_member_is_documented_with_its_necessity(model: type[Wire]) -> None:
    title = {"Manifest": "The manifest"}.get(model.__name__, model.__name__)
    text = section(title)
    documented = {}
    for line in re.findall(r"^- (\*\*`.*)", text, re.MULTILINE):
        names, _, rest = line.rpartition("`**")
        necessity = "REQUIRED" if rest.split("OPTIONAL")[0].count("REQUIRED") else "OPTIONAL"
        documented |= dict.fromkeys(re.findall(r"`([^`]+)`", names + "`"), necessity)
    written_always = {"specVersion", "kind", "requires"} if model is Manifest else set()
    declared = {
        field.alias: "REQUIRED" if field.is_required() or field.alias in written_always else "OPTIONAL"
        for field in model.model_fields.values()
    }
    assert documented == declared


def test_every_example_in_the_text_is_strict_json() -> None:
    from edgelora.manifest.strict_json import parse

    examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        parse(example.encode())


def test_schema_is_the_one_generated_from_the_models() -> None:
    checked_in = (SPEC / "v1" / "manifest.schema.json").read_text(encoding="utf-8")
    assert checked_in == schema_text(), "run: python -m edgelora.manifest.schema spec/v1/manifest.schema.json"


def test_schema_command_prints_the_schema() -> None:
    command = [sys.executable, "-W", "error", "-m", "edgelora.manifest.schema"]
    printed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    assert json.loads(printed) == json.loads(schema_text())


def test_spec_holds_no_python() -> None:
    assert not list(SPEC.rglob("*.py"))
