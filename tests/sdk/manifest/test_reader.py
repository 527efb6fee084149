"""The strict reader: what it accepts is unambiguous, and nothing but a deliberate error escapes it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.errors import (
    DigestMismatch,
    EdgeloraError,
    FeatureRequired,
    ManifestError,
    MissingFile,
    PathError,
    SpecVersionUnsupported,
)
from edgelora.manifest import MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from edgelora.manifest.strict_json import NotStrict, parse

VALID = Path(__file__).parents[3] / "spec" / "v1" / "vectors" / "manifests" / "valid"
MINIMAL = (VALID / "minimal.json").read_bytes()
MAXIMAL = (VALID / "maximal.json").read_bytes()
quick = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(MINIMAL), **members}).encode()


def test_manifest_is_read_from_its_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "edgelora.json").write_bytes(MINIMAL)
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "edgelora.json") == parse_manifest(MINIMAL)


def test_members_have_python_names() -> None:
    manifest = parse_manifest(MAXIMAL)
    assert manifest.identity.release_sequence == 7
    assert manifest.components[0].parts["adapter"].options["dropout"] == "0.05"
    assert manifest.training is not None
    assert manifest.training.datasets[0].held_out_digest == "sha256:" + "9" * 64


def test_manifest_of_one_mebibyte_is_read_and_one_byte_more_is_refused() -> None:
    padded = MINIMAL + b" " * (MAX_MANIFEST_BYTES - len(MINIMAL))
    assert parse_manifest(padded) == parse_manifest(MINIMAL)
    with pytest.raises(ManifestError, match="larger than 1048576 bytes"):
        parse_manifest(padded + b" ")


def test_missing_manifest_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="there is no manifest") as caught:
        read_manifest(tmp_path)
    assert caught.value.fix == "pass the folder of an adapter"


def test_wrong_member_is_named_with_its_place() -> None:
    broken = json.loads(MAXIMAL)
    broken["components"][0]["config"]["rankPattern"] = {"q": "two"}
    with pytest.raises(ManifestError, match=r"components\.0: config\.rankPattern\.q: .*integer") as caught:
        parse_manifest(json.dumps(broken).encode(), "adapters/a/edgelora.json")
    assert caught.value.problem.startswith("adapters/a/edgelora.json: ")
    assert "spec/v1/manifest.md" in caught.value.fix


def test_other_major_version_says_what_to_install() -> None:
    with pytest.raises(SpecVersionUnsupported, match=r"specification 2\.0, .* reads version 1") as caught:
        parse_manifest(changed(specVersion="2.0"))
    assert "install an edgelora that reads it" in caught.value.fix


def test_unknown_feature_is_named_and_comes_before_wrong_members() -> None:
    with pytest.raises(FeatureRequired, match="requires 'time-travel'") as caught:
        parse_manifest(changed(requires=["time-travel"], components="of a future kind"))
    assert "install a newer edgelora" in caught.value.fix


def test_hostile_path_is_named() -> None:
    files = [{**json.loads(MINIMAL)["files"][0], "path": "../x.safetensors"}]
    with pytest.raises(
        PathError, match=r"edgelora\.json: the path '\.\./x\.safetensors' is not allowed"
    ) as caught:
        parse_manifest(changed(files=files))
    assert "use a relative path of plain names" in caught.value.fix


def test_wrong_tree_digest_gives_both_values() -> None:
    with pytest.raises(
        DigestMismatch, match=r"treeDigest is sha256:0+, and its files give sha256:"
    ) as caught:
        parse_manifest(changed(treeDigest="sha256:" + "0" * 64))
    assert "fetch the adapter again" in caught.value.fix


@quick
@given(st.binary(max_size=400))
def test_random_bytes_give_a_deliberate_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@quick
@given(st.integers(0, len(MAXIMAL) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_changed_bytes_give_a_manifest_or_a_deliberate_error(at: int, inserted: bytes, cut: int) -> None:
    try:
        parse_manifest(MAXIMAL[:at] + inserted + MAXIMAL[at + cut :])
    except EdgeloraError as error:
        assert error.fix


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.sampled_from(sorted(json.loads(MAXIMAL))), json_values)
def test_any_value_in_any_member_gives_a_manifest_or_a_deliberate_error(name: str, value: object) -> None:
    document = {**json.loads(MAXIMAL), name: value}
    try:
        parse_manifest(json.dumps(document).encode("utf-8", "surrogatepass"))
    except EdgeloraError as error:
        assert error.fix


@quick
@given(json_values)
def test_strict_values_read_as_the_usual_parser_reads_them(value: object) -> None:
    text = json.dumps(value)
    try:
        assert parse(text.encode()) == json.loads(text)
    except NotStrict as error:
        assert str(error)
