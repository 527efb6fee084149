import json

import pytest

from edgelora.errors import EdgeloraError, ModelError, PathError, SpecVersionUnsupported
from edgelora.manifest import Base, PartRef
from edgelora.manifest.base import BaseFile
from edgelora.prepared import (
    MAX_RECORD_BYTES,
    RECORD_NAME,
    PreparedBase,
    parse_record,
    prepared_base,
    record_bytes,
)

DIGEST = "sha256:" + 64 * "a"


def record(**changes):
    return PreparedBase(
        **{
            "source": Base(
                repo="m", architecture="LlamaForCausalLM", tensors_digest=DIGEST, config_digest=DIGEST
            ),
            "quantizer": PartRef(
                name="nf4", plugin="qlora", distribution="edgelora", version="1", options={"block_size": 64}
            ),
            "dtype": "BF16",
            "form": "own",
            "files": (BaseFile(path="model-00001-of-00001.safetensors", size=3, sha256=64 * "b"),),
            "tensors_digest": DIGEST,
            **changes,
        }
    )


def test_a_record_reads_back_as_it_was_written(tmp_path):
    (tmp_path / RECORD_NAME).write_bytes(record_bytes(record(skip_modules=("up_proj",))))
    assert prepared_base(tmp_path) == record(skip_modules=("up_proj",))


def test_equal_records_have_equal_bytes():
    assert record_bytes(record()) == record_bytes(parse_record(record_bytes(record())))


def test_a_folder_without_a_record_is_no_prepared_base(tmp_path):
    assert prepared_base(tmp_path) is None
    assert prepared_base(tmp_path / "missing") is None


def test_members_of_a_newer_minor_version_are_kept():
    document = json.loads(record_bytes(record())) | {"formatVersion": "1.7", "later": "x"}
    assert parse_record(json.dumps(document).encode()).model_extra == {"later": "x"}


def changed(**changes):
    return json.dumps(json.loads(record_bytes(record())) | changes).encode()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", ModelError, "edgelora-base.json is refused: it is not JSON"),
        (b"PK\x03\x04", ModelError, "it is not JSON"),
        (b"[]", ModelError, "is no record of a prepared base: it has no formatVersion"),
        (b'{"specVersion": "1.0"}', ModelError, "it has no formatVersion"),
        (b" " * (MAX_RECORD_BYTES + 1), ModelError, f"is larger than {MAX_RECORD_BYTES} bytes"),
        (changed(formatVersion="2.0"), SpecVersionUnsupported, "is of format '2.0'"),
        (changed(form="gguf"), ModelError, "form: Input should be 'own' or 'stock'"),
        (changed(source="micro"), ModelError, "source"),
        (changed(files=[]), ModelError, "files"),
        (changed(dtype="bfloat16"), ModelError, "dtype"),
        (
            changed(files=[{"path": "../x.safetensors", "size": 1, "sha256": 64 * "b"}]),
            PathError,
            "a segment is '.' or '..'",
        ),
        (
            changed(files=[{"path": "a/x.safetensors", "size": 1, "sha256": 64 * "b"}]),
            ModelError,
            "'a/x.safetensors' is no file beside the record",
        ),
        (
            changed(files=[{"path": RECORD_NAME, "size": 1, "sha256": 64 * "b"}]),
            ModelError,
            "is no file beside the record",
        ),
    ],
)  # fmt: skip
def test_a_record_that_breaks_a_rule_is_refused_with_the_rule(data, error, words):
    with pytest.raises(EdgeloraError) as caught:
        parse_record(data)
    assert type(caught.value) is error
    assert words in caught.value.problem
    assert caught.value.fix
