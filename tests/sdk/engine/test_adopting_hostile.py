"""Adapters that were made to harm whoever adopts them: no file but their own is read, and no time is lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from edgelora.engine.adopting import adopt, read_source
from edgelora.engine.adopting.front_matter import front_matter
from edgelora.engine.adopting.patterns import is_understood, matching_key
from edgelora.engine.adopting.settings import check_settings
from edgelora.errors import EdgeloraError, NotAdoptable, PathError, TensorsMismatch

COMMIT = "c" * 40
SITE = "base_model.model.model.layers.0.self_attn.q_proj"
SECRET = "hf_SECRET"


@pytest.fixture
def source(small_peft, tmp_path):
    return shutil.copytree(small_peft, tmp_path / "theirs")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "token"
    path.write_text(SECRET)
    return path


def configured(source, **changes):
    path = source / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FILES = ["LICENSE", "NOTICE.txt", "README.md", "adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_another_file_of_this_machine_is_not_followed(name, source, secret, registry, tmp_path):
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret)
    with pytest.raises(PathError, match="is, or lies behind, a symlink") as caught:
        adopt(source, registry, tmp_path / "out")
    assert name in caught.value.problem and SECRET not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_refused_and_not_waited_for(name, source, registry, tmp_path):
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    with pytest.raises(PathError, match="not a plain file"):
        adopt(source, registry, tmp_path / "out")


@pytest.mark.parametrize("name", [*FILES[:4], "LICENSE.md"])
def test_a_file_without_end_is_refused_before_it_is_read(name, source, registry, tmp_path):
    os.truncate(source / name, 2**40) if (source / name).exists() else _sparse(source / name)
    with pytest.raises(NotAdoptable, match=f"{name} is longer than"):
        adopt(source, registry, tmp_path / "out")


def test_weights_beyond_what_a_machine_holds_are_refused_before_they_are_read(source):
    os.truncate(source / "adapter_model.safetensors", 2**40)
    with pytest.raises(NotAdoptable, match=r"adapter_model\.safetensors is longer than"):
        read_source(source)


def _sparse(path):
    path.touch()
    os.truncate(path, 2**40)


@pytest.fixture
def snapshot(small_peft, tmp_path):
    """The same in the Hub's cache: links into ``blobs/``."""
    repository = tmp_path / "models--Ana--Sensors"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(small_peft.iterdir()):
        blob = f"{number:040x}"
        shutil.copyfile(path, repository / "blobs" / blob)
        (folder / path.name).symlink_to(f"../../blobs/{blob}")
    return folder


def test_links_of_the_hub_cache_into_its_own_blobs_are_followed(snapshot, registry, tmp_path):
    manifest = adopt(snapshot, registry, tmp_path / "out").manifest
    assert (manifest.publisher, manifest.identity.name) == ("Ana", "sensors")


def test_other_links_of_a_snapshot_are_not_followed(snapshot, secret, registry, tmp_path):
    blobs = snapshot.parent.parent / "blobs"
    inner = blobs / ("e" * 40)
    inner.symlink_to(secret)
    for target in (secret, f"../../blobs/{inner.name}", "../../blobs/../../token", "../../../token"):
        link = snapshot / "LICENSE"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(PathError):
            adopt(snapshot, registry, tmp_path / "out")
    link.unlink()
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathError):
        adopt(snapshot, registry, tmp_path / "out")


def bomb():
    """The start of a card of half a kilobyte, whose aliases stand for 9^8 mappings."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "front",
    [
        bomb(),
        "license: &l mit\nname: *l",
        "a: &a [*a]",
        "[" * 10_000,
        "x: " + "1:" * 30_000 + "1",
        "a: 2024-13-45",
    ],
    ids=["bomb", "alias", "circle", "deep", "base60", "date"],
)
def test_front_matter_that_refers_to_itself_or_is_malformed_says_nothing(front, source, registry, tmp_path):
    start = time.monotonic()
    assert front_matter(f"---\n{front}\n---\n# Card\n").get("license") is None
    (source / "README.md").write_text(f"---\n{front}\n---\n# Card\n")
    done = adopt(source, registry, tmp_path / "out")
    assert done.manifest.license == "LicenseRef-unspecified"
    assert time.monotonic() - start < 20


def test_front_matter_is_read_up_to_its_limit(source):
    assert front_matter("---\nlicense: mit\n---\n" + "x" * 2**20) == {"license": "mit"}
    assert front_matter(f"---\nlicense: mit\nx: {'y' * 2**16}\n---\n") == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": []}, {"lora_alpha": {}}, {"lora_alpha": None}, {"lora_alpha": "16"},
        {"lora_alpha": True},
        {"lora_alpha": 10**400}, {"lora_alpha": float("nan")}, {"lora_alpha": float("inf")},
        {"alpha_pattern": 5}, {"alpha_pattern": ["q_proj"]}, {"alpha_pattern": {"q_proj": None}},
        {"alpha_pattern": {"q_proj": {}}}, {"alpha_pattern": {"q_proj": 10**400}},
        {"alpha_pattern": dict.fromkeys(map(str, range(5000)), 1)},
        {"use_rslora": [1]}, {"use_dora": "no"}, {"init_lora_weights": [1]}, {"init_lora_weights": {}},
        {"bias": []}, {"bias": "x" * 10**6}, {"modules_to_save": {"x" * 10**6: 1}}, {"\x1b[2J": "\x1b[2J"},
        {"peft_type": "LOHA", "alpha": 1, "r": 0}, {"peft_type": "LOKR", "r": 2.5, "alpha": 1},
        {"peft_type": "LOHA", "rank_pattern": {"q_proj": [True]}}, {"peft_type": "ADALORA", "init_r": "6"},
        {"peft_type": "\x1b[2J"}, {"peft_type": "X" * 10**6},
    ],
)  # fmt: skip
def test_a_setting_of_another_type_is_refused_in_a_line(changes, source, registry, tmp_path):
    configured(source, **changes)
    with pytest.raises(NotAdoptable) as caught:
        adopt(source, registry, tmp_path / "out")
    assert len(caught.value.problem) < 400 and caught.value.problem.isprintable()


@pytest.mark.parametrize(
    "name",
    ["", 5, ["x"], "\0", "a" * 10**5, "~nobody-of-this-name/x", "a b/c", "../" * 50, "sha256:" + "x" * 64,
     "\x1b[2J/x"],
)  # fmt: skip
def test_a_base_of_an_impossible_name_is_not_found(name, source, registry, tmp_path):
    configured(source, base_model_name_or_path=name)
    with pytest.raises(EdgeloraError):
        adopt(source, registry, tmp_path / "out")


def test_tensors_of_no_rank_are_refused(source, registry, tmp_path):
    width = 48
    tensors = {f"{SITE}.lora_A.weight": torch.zeros(0, width), f"{SITE}.lora_B.weight": torch.zeros(width, 0)}
    save_file(tensors, source / "adapter_model.safetensors")
    with pytest.raises(TensorsMismatch, match="do not fit together"):
        adopt(source, registry, tmp_path / "out")


@pytest.mark.parametrize(
    "key", [r"([a-z0-9_.]+)+Z", "(a|a)*b", ".*q_proj", "[", "q_proj|v_proj", "q_proj\n", "", "\\d"]
)
def test_a_foreign_expression_is_not_run(key):
    assert not is_understood(key)
    with pytest.raises(NotAdoptable, match="foreign ones are not run"):
        check_settings("LORA", {"alpha_pattern": {key: 8}})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("q_proj", True), ("self_attn.q_proj", True), (r"layers\.0\.self_attn\.q_proj", True),
        ("layers.0.self_attn.q_proj", True), ("layers-0.self_attn.q_proj", False),
        ("self_attnxq_proj", False),
        ("self.attn.q_proj", True), (r"self\.attn.q_proj", False), ("proj", False), ("^q_proj", False),
        ("^model.layers.0.self_attn.q_proj", True), ("q_proj$", True), ("_proj", False), ("q_proj.x", False),
    ],
)  # fmt: skip
def test_a_pattern_names_the_sites_that_pefts_own_expression_matches(key, expected):
    from peft.utils.other import get_pattern_key

    site = "model.layers.0.self_attn.q_proj"
    assert is_understood(key)
    assert (matching_key([key], site) is not None) == expected
    assert (get_pattern_key([key], site) == key) == expected, "as PEFT does it"


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"trust_remote_code": True},
        {"custom_module": "evil", "auto_map": {"AutoConfig": "evil.Config"}},
        {"auto_mapping": {"base_model_class": "Model", "parent_library": "evil"}},
    ],
    ids=["auto_map", "trust_remote_code", "auto_map-and-more", "auto_mapping"],
)
def test_code_that_an_adapter_names_or_brings_never_runs(changes, source, registry, tmp_path, monkeypatch):
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(source))
    configured(source, **changes)
    if "auto_mapping" in changes:
        done = adopt(source, registry, tmp_path / "out")
        assert "evil" not in (done.folder / "adapter_config.json").read_text()
        assert not (done.folder / "evil.py").exists()
    else:
        with pytest.raises(NotAdoptable, match=r"its setting (auto_map|trust_remote_code|custom_module)="):
            adopt(source, registry, tmp_path / "out")
    assert "evil" not in sys.modules and not (tmp_path / "ran").exists()
