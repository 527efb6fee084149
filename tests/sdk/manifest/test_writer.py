"""The writer: one manifest, one sequence of bytes, readable by the strict reader."""

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgelora.errors import EdgeloraError, ManifestError
from edgelora.manifest import (
    Base,
    Component,
    DerivativeRef,
    EvaluationEntry,
    FileEntry,
    Identity,
    Manifest,
    PartRef,
    decimal_text,
    manifest_bytes,
    parse_manifest,
    tree_digest,
)

VALID = Path(__file__).parents[3] / "spec" / "v1" / "vectors" / "manifests" / "valid"
ONES = "sha256:" + "1" * 64


def made(**members: object) -> Manifest:
    weights = FileEntry(
        path="adapter_model.safetensors",
        size=1,
        sha256="a" * 64,
        media_type="application/vnd.safetensors",
        role="weights",
    )
    part = PartRef(
        name="lora", plugin="lora", distribution="edgelora", version="0.1.0", options={"dropout": 0.05}
    )
    component = Component(
        id="main",
        derivative=DerivativeRef(name="lora"),
        parts={"adapter": part},
        config={"r": 4, "alpha": 2.5, "targetModules": ("a", "b")},
        files=("adapter_model.safetensors",),
        dtype="F32",
    )
    identity = Identity(
        namespace="a", name="b", version="1.0.0", created_at="2026-11-22T08:00:00Z", release_sequence=1
    )
    base = Base(repo="micro", architecture="LlamaForCausalLM", tensors_digest=ONES, config_digest=ONES)
    given = {
        "identity": identity,
        "base": base,
        "components": (component,),
        "files": (weights,),
        "tree_digest": tree_digest([weights]),
        "license": "Apache-2.0",
    }
    return Manifest(**{**given, **members})


def test_manifest_made_in_python_reads_back_equal() -> None:
    manifest = made()
    assert parse_manifest(manifest_bytes(manifest)) == manifest


def test_bytes_are_sorted_indented_and_end_with_a_line() -> None:
    data = manifest_bytes(made(publisher="Zoë"))
    document = json.loads(data)
    assert data == (json.dumps(document, ensure_ascii=False, sort_keys=True, indent=2) + "\n").encode()
    assert "Zoë".encode() in data


def test_absent_members_are_left_out_and_free_nulls_are_kept() -> None:
    document = json.loads(manifest_bytes(made(ext={"x-a.example/b": {"c": None}})))
    assert "training" not in document
    assert document["ext"] == {"x-a.example/b": {"c": None}}


def test_floats_become_decimal_strings() -> None:
    entry = EvaluationEntry(metric="loss", value=1e-5, n=3, low=0.0, high=1234567.5)
    document = json.loads(manifest_bytes(made(evaluation=(entry,))))
    assert document["evaluation"][0] == {
        "metric": "loss",
        "value": "0.00001",
        "n": 3,
        "low": "0.0",
        "high": "1234567.5",
    }
    assert document["components"][0]["config"]["alpha"] == "2.5"
    assert document["components"][0]["parts"]["adapter"]["options"] == {"dropout": "0.05"}


@pytest.mark.parametrize("value", [0.1, 2e-4, 1e22, -3.5, 5e-324, 1 / 3])
def test_decimal_text_reads_back_exactly_and_has_no_exponent(value: float) -> None:
    assert float(decimal_text(value)) == value
    assert "e" not in decimal_text(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="not a finite number"):
        EvaluationEntry(metric="loss", value=value, n=1)
    with pytest.raises(ValidationError, match="not a finite number"):
        made(ext={"x-a.example/b": [value]})


@pytest.mark.parametrize("path", sorted(VALID.iterdir()), ids=lambda path: path.stem)
def test_reading_and_writing_keeps_every_member(path: Path) -> None:
    manifest = parse_manifest(path.read_bytes())
    if any(word in path.stem for word in ("unknown-member",)):
        with pytest.raises(ManifestError, match=r"is not a member of manifest 1\.0"):
            manifest_bytes(manifest)
        return
    written = manifest_bytes(manifest)
    assert parse_manifest(written) == manifest
    assert lost(json.loads(path.read_bytes()), json.loads(written)) == []
    assert manifest_bytes(parse_manifest(written)) == written


def lost(before: object, after: object, place: str = "") -> list[str]:
    """Places where something of ``before`` is missing or other in ``after``."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            each
            for name in before
            for each in (
                lost(before[name], after[name], f"{place}.{name}") if name in after else [place + name]
            )
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [each for item, other in zip(before, after, strict=True) for each in lost(item, other, place)]
    return [] if before == after else [place]


@pytest.mark.parametrize(
    "license", ["LicenseRef-acme", "Apache-2.0 OR MIT", "GPL-2.0-only WITH Classpath-exception-2.0"]
)
def test_license_is_an_spdx_expression(license: str) -> None:
    assert parse_manifest(manifest_bytes(made(license=license))).license == license


@pytest.mark.parametrize("license", ["Proprietary", "Apache 2.0", "MIT OR"])
def test_other_license_is_not_written_and_still_read(license: str) -> None:
    with pytest.raises(ManifestError, match="is no SPDX expression") as caught:
        manifest_bytes(made(license=license))
    assert "LicenseRef-" in caught.value.fix
    data = manifest_bytes(made()).replace(b'"Apache-2.0"', json.dumps(license).encode())
    assert parse_manifest(data).license == license


def test_unknown_members_of_a_newer_minor_version_are_written_back() -> None:
    source = json.loads((VALID / "maximal.json").read_bytes())
    source["specVersion"] = "1.9"
    source["novelty"] = {"deep": [1, None, "x"]}
    source["base"]["novelty"] = None
    source["components"][0]["derivative"]["plugin"]["novelty"] = [[]]
    source["evaluation"][0]["dataset"]["novelty"] = False
    assert json.loads(manifest_bytes(parse_manifest(json.dumps(source).encode()))) == filled(source)


def filled(source: dict) -> dict:
    """Optional members whose default the writer spells out."""
    for part in source["components"][0]["parts"].values():
        part.setdefault("options", {})
    return source


def test_unknown_member_of_this_version_is_refused_with_its_place() -> None:
    manifest = made(
        base={"repo": "micro", "architecture": "A", "tensorsDigest": ONES, "configDigest": ONES, "repp": 1}
    )
    with pytest.raises(ManifestError, match=r"base\.repp is not a member of manifest 1\.0") as caught:
        manifest_bytes(manifest)
    assert "x-acme.example/line" in caught.value.fix


def test_what_the_reader_would_refuse_is_not_written() -> None:
    manifest = made()
    with pytest.raises(EdgeloraError, match="treeDigest"):
        manifest_bytes(manifest.model_copy(update={"tree_digest": ONES}))
    with pytest.raises(ManifestError, match="surrogate"):
        manifest_bytes(manifest.model_copy(update={"publisher": "\ud800"}))
