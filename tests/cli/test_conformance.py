"""``edgelora conformance``: the report, its exit code, and the reader to compare with."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

VECTORS = Path(__file__).parents[2] / "spec" / "v1" / "vectors"
OWN = f"'{sys.executable}' -m edgelora_cli conformance read --kind {{kind}} {{path}}"
ACCEPTS = f"'{sys.executable}' -S -c 'pass' {{path}}"
REFUSES = f"'{sys.executable}' -S -c 'print(chr(123) + chr(125)); raise SystemExit(1)' {{path}}"


def conformance(edgelora, command, *more):
    return edgelora("conformance", "run", "--vectors", str(VECTORS), "--command", command, *more)


def test_own_reader_passes_as_a_foreign_one(edgelora):
    done = conformance(edgelora, OWN, "--kind", "bases", "--json")
    assert done.exit_code == 0
    assert done.document["wrong"] == done.document["skipped"] == 0
    assert done.document["right"] == done.document["kinds"]["bases"]["right"] > 10
    assert done.document["vectors"] == []


def test_reader_that_accepts_everything_fails_every_refusal(edgelora, tmp_path):
    report = tmp_path / "report.xml"
    done = conformance(edgelora, ACCEPTS, "--kind", "bases", "--json", "--junit", str(report))
    assert done.exit_code == done.document["error"]["exit_code"] == 10
    assert done.document["error"]["id"] == "gate-failed"
    wrong = {each["vector"]: each for each in done.document["vectors"]}
    assert wrong["bases/tokenizer-differs"]["expected_id"] == "wrong-base"
    assert "bases/the-same" not in wrong
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert int(suite.attrib["failures"]) == len(wrong) == len(suite.findall("testcase/failure"))


def test_reader_that_refuses_everything_is_told_what_must_be_accepted(edgelora):
    done = conformance(edgelora, REFUSES, "--kind", "bases")
    assert done.exit_code == 10
    assert "WRONG  bases/the-same: must accept, was refused" in done.out
    assert "wrong outcome for 4 of 13 vectors: bases/chat-template-differs" in done.err


def test_skipped_vectors_are_left_out(edgelora):
    names = ["the-same", "sharded-otherwise", "configuration-saved-again", "chat-template-differs"]
    skips = [word for name in names for word in ("--skip", f"bases/{name}")]
    done = conformance(edgelora, REFUSES, "--kind", "bases", *skips, "--json")
    assert (done.exit_code, done.document["right"]) == (0, 9)


def test_other_ids_are_differences_and_no_failures(edgelora):
    command = (
        f"""'{sys.executable}' -S -c 'import sys; print(sys.argv[1]); sys.exit(1)' '{{"id": "x"}}' {{path}}"""
    )
    done = conformance(edgelora, command, "--kind", "bases", "--skip", "bases/the-same")
    assert "other id  bases/tokenizer-differs: x, and edgelora says wrong-base" in done.out


def test_folder_without_vectors_is_named_with_what_to_pass(edgelora, tmp_path):
    done = edgelora("conformance", "run", "--vectors", str(tmp_path), "--command", ACCEPTS)
    assert done.exit_code == 4
    assert "there are no conformance vectors" in done.err and "spec/v1/vectors" in done.err


def test_unknown_kinds_and_vectors_are_usage_errors(edgelora):
    assert "there are no vectors of the kind 'x'" in conformance(edgelora, ACCEPTS, "--kind", "x").err
    assert "there is no kind and no vector 'x'" in conformance(edgelora, ACCEPTS, "--skip", "x").err
    assert edgelora("conformance", "read", "--kind", "x", str(VECTORS)).exit_code == 2


def test_reading_one_vector_names_the_error(edgelora):
    done = edgelora("conformance", "read", "--kind", "weights", str(VECTORS / "weights" / "hole.safetensors"))
    assert done.exit_code == 10
    assert json.loads(done.out.splitlines()[-1])["id"] == "tensors-invalid"
    whole = edgelora(
        "conformance", "read", "--kind", "weights", str(VECTORS / "weights" / "whole.safetensors")
    )
    assert whole.exit_code == 0


@pytest.mark.parametrize("kind", ["paths", "versions", "digests"])
@pytest.mark.parametrize("content", [b"{}", b"[1]", b"\xff", b"nonsense", b"[" * 100_000])
def test_what_is_no_vector_of_its_kind_is_told(edgelora, tmp_path, kind, content):
    path = tmp_path / "odd"
    path.write_bytes(content)
    ran = edgelora("conformance", "read", "--kind", kind, str(path))
    assert ran.exit_code == 3 and f"is no vector of the kind {kind}" in ran.err
