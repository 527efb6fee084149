"""The identity of a base: the same through resharding and re-saving, different after any real change."""

import json
import os
import time
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save

from edgelora.errors import MissingFile, ModelError, TensorFileError
from edgelora.manifest import Base, digest_cache
from edgelora.manifest.base_identity import identify_base

LONG_AGO_NS = time.time_ns() - 3_600_000_000_000
TENSORS = {"embed": bytes(range(16)), "head": bytes(range(16, 32)), "norm": bytes(4)}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4,
    "rms_norm_eps": 1e-05,
    "transformers_version": "5.0",
    "torch_dtype": "float32",
}


def write_tensors(path: Path, names: list[str]) -> None:
    arrays = {name: numpy.frombuffer(TENSORS[name], "float32") for name in names}
    path.write_bytes(save(arrays, {"format": "pt"}))
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_tensors(folder / "model.safetensors", list(TENSORS))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def reshard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = {"model-1.safetensors": ["norm", "head"], "model-2.safetensors": ["embed"]}
    for name, names in shards.items():
        write_tensors(folder / name, names)
    weight_map = {tensor: name for name, names in shards.items() for tensor in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_base_is_described_by_its_digests(folder: Path) -> None:
    base = identify_base(folder)
    assert (base.repo, base.revision, base.architecture) == ("tiny", None, "LlamaForCausalLM")
    assert [file.path for file in base.weights] == ["model.safetensors"]
    assert base.tokenizer_digest and base.chat_template_digest and base.config_semantic_digest
    assert Base.model_validate(base.model_dump(by_alias=True)) == base


def test_resharding_changes_the_files_and_not_the_identity(folder: Path) -> None:
    before = identify_base(folder)
    reshard(folder)
    after = identify_base(folder)
    assert after.tensors_digest == before.tensors_digest
    assert [file.path for file in after.weights] == ["model-1.safetensors", "model-2.safetensors"]


def test_saving_the_configuration_again_keeps_its_semantic_digest(folder: Path) -> None:
    before = identify_base(folder)
    rewritten = {"transformers_version": "5.23", "dtype": "bfloat16", "_name_or_path": "/x", **CONFIG}
    rewritten["rms_norm_eps"] = 0.00001
    (folder / "config.json").write_text(json.dumps(rewritten, indent=4, sort_keys=True))
    after = identify_base(folder)
    assert after.config_digest != before.config_digest
    assert after.config_semantic_digest == before.config_semantic_digest
    (folder / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 5}))
    assert identify_base(folder).config_semantic_digest != before.config_semantic_digest


def test_configuration_with_an_infinity_has_no_semantic_digest(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "time_step_limit": [0.0, float("inf")]}))
    assert identify_base(folder).config_semantic_digest is None


def test_tokenizer_and_template_changes_show(folder: Path) -> None:
    before = identify_base(folder)
    (folder / "tokenizer.json").write_text('{"a": 1}')
    (folder / "chat_template.jinja").write_text("{{ other }}")
    after = identify_base(folder)
    assert after.tokenizer_digest != before.tokenizer_digest
    assert after.chat_template_digest != before.chat_template_digest


def test_template_inside_the_tokenizer_configuration_counts_the_same(folder: Path) -> None:
    before = identify_base(folder).chat_template_digest
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert identify_base(folder).chat_template_digest == before


def test_tokenizer_of_several_files_has_a_digest(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert identify_base(folder).tokenizer_digest is None
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("a b")
    before = identify_base(folder).tokenizer_digest
    (folder / "merges.txt").write_text("a c")
    assert before and identify_base(folder).tokenizer_digest != before


def test_snapshot_of_the_hub_cache_gives_its_repository_and_commit(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--alice--tiny-base" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    base = identify_base(snapshot)
    assert (base.repo, base.revision) == ("alice/tiny-base", "a" * 40)
    assert base.tensors_digest == identify_base(folder).tensors_digest


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as written long ago: nobody but the kernel sets a ctime."""
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", -(10**15))


@pytest.mark.usefixtures("settled")
def test_unchanged_file_is_hashed_once_and_rehash_looks_again(folder: Path, private_home: Path) -> None:
    before = identify_base(folder)
    record = next((private_home / "cache" / "digests").glob("*.json"))
    forged = json.loads(record.read_text())
    forged["digests"]["sha256"] = "f" * 64
    record.write_text(json.dumps(forged))
    assert identify_base(folder).weights[0].sha256 == "f" * 64
    assert identify_base(folder, rehash=True) == before
    assert identify_base(folder) == before


@pytest.mark.usefixtures("settled")
def test_weights_changed_in_place_with_their_mtime_put_back_are_found(folder: Path) -> None:
    weights = folder / "model.safetensors"
    before, status = identify_base(folder), weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    with weights.open("r+b") as file:
        file.write(data)
    after = status
    while after.st_ctime_ns == status.st_ctime_ns:  # The kernel's clock for files may tick every 10 ms.
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        after = weights.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
    )
    assert identify_base(folder).tensors_digest != before.tensors_digest


@pytest.mark.usefixtures("settled")
def test_new_mtime_or_damaged_cache_means_a_new_hash(folder: Path, private_home: Path) -> None:
    before = identify_base(folder)
    for record in (private_home / "cache" / "digests").iterdir():
        record.write_text('{"form": 2, "digests": {"sha256": 1}}')
    assert identify_base(folder) == before
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert identify_base(folder).tensors_digest != before.tensors_digest


def test_file_that_was_just_written_is_not_remembered(folder: Path, private_home: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mtime_ns == LONG_AGO_NS, "its mtime says otherwise"
    identify_base(folder)
    assert not (private_home / "cache" / "digests").exists()


def test_cache_that_cannot_be_written_costs_only_time(folder: Path, private_home: Path) -> None:
    (private_home / "cache").write_text("a file where a folder should be")
    assert identify_base(folder) == identify_base(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="there is no base model folder"):
        identify_base(tmp_path / "none")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_folder_with_pickles_only_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=f"weights only as pickles \\({name}\\)") as caught:
        identify_base(folder)
    assert "safetensors form" in caught.value.fix


def test_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        identify_base(folder)


def test_missing_shard_is_named(folder: Path) -> None:
    reshard(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names model-2\.safetensors, which is not there"):
        identify_base(folder)


def test_index_that_does_not_fit_its_shards_is_refused(folder: Path) -> None:
    reshard(folder)
    weight_map = {"embed": "model-1.safetensors", "norm": "model-1.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=r"places 'embed' in model-1\.safetensors, which does not hold it"):
        identify_base(folder)


@pytest.mark.parametrize(
    "index", ["[]", "{", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x.safetensors"}}']
)
def test_broken_index_is_refused(folder: Path, index: str) -> None:
    reshard(folder)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        identify_base(folder)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architectures": []}'])
def test_broken_configuration_is_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"config\.json"):
        identify_base(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(TensorFileError, match="no safe safetensors file"):
        identify_base(folder)
