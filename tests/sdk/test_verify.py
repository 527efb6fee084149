"""verify finds every mutation of an adapter directory, and never raises for bad content."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelora.errors import DigestMismatch, EdgeloraError, FileSetMismatch, PathError
from edgelora.manifest import (
    MANIFEST_NAME,
    Base,
    Component,
    DerivativeRef,
    FileEntry,
    Identity,
    Manifest,
    PartRef,
    describe_files,
    manifest_bytes,
    summarize_tensors,
    tree_digest,
)
from edgelora.verify import check, check_and_read, read_verified, verify

ONES = "sha256:" + "1" * 64
WEIGHTS = "adapter_model.safetensors"


def seal(folder: Path, files: list[FileEntry] | None = None, **members: object) -> None:
    """Write the manifest of whatever the folder holds."""
    files = describe_files(folder) if files is None else files
    part = PartRef(name="lora", plugin="lora", distribution="edgelora", version="0.1.0")
    given = {
        "identity": Identity(
            namespace="a", name="b", version="1.0.0", created_at="2026-11-22T08:00:00Z", release_sequence=1
        ),
        "base": Base(repo="micro", architecture="LlamaForCausalLM", tensors_digest=ONES, config_digest=ONES),
        "components": (
            Component(
                id="main",
                derivative=DerivativeRef(name="lora"),
                parts={"adapter": part},
                files=(WEIGHTS,),
                dtype="F32",
            ),
        ),
        "files": tuple(files),
        "tree_digest": tree_digest(files),
        "license": "Apache-2.0",
    }
    (folder / "edgelora.json").write_bytes(manifest_bytes(Manifest(**{**given, **members})))


def tensors(header_bytes: int = 0) -> bytes:
    entry = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(entry).encode().ljust(header_bytes)
    return struct.pack("<Q", len(header)) + header + bytes(range(8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "docs").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(tensors())
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("# An adapter\n")
    (folder / "docs" / "empty.txt").write_text("")
    seal(folder, tensors=summarize_tensors(folder, describe_files(folder)))
    return folder


def ids(folder: Path) -> list[tuple[str, str]]:
    return [(finding.id, finding.path) for finding in verify(folder)]


def test_sound_directory_has_no_findings(folder: Path) -> None:
    assert verify(folder) == []
    assert check(folder).identity.name == "b"


def test_signatures_and_git_attributes_need_no_listing(folder: Path) -> None:
    (folder / "edgelora.sig.json").write_text("{}")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert verify(folder) == []


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "README.md"])
def test_every_flipped_byte_is_found(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for at in range(len(data)):
        (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert ("digest-mismatch", name) in ids(folder), at
    (folder / name).write_bytes(data)
    assert verify(folder) == []


def replace_by_link(folder: Path) -> None:
    (folder / "README.md").rename(folder.parent / "README.md")
    (folder / "README.md").symlink_to(folder.parent / "README.md")


def replace_folder_by_link(folder: Path) -> None:
    (folder / "docs").rename(folder.parent / "docs")
    (folder / "docs").symlink_to(folder.parent / "docs")


def replace_by_pipe(folder: Path) -> None:
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")


def replace_by_folder(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()


def replace_manifest_by_link(folder: Path) -> None:
    (folder / "edgelora.json").rename(folder.parent / "real.json")
    (folder / "edgelora.json").symlink_to(folder.parent / "real.json")


def add_deep_folders(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


def truncate_manifest(folder: Path) -> None:
    data = (folder / "edgelora.json").read_bytes()
    (folder / "edgelora.json").write_bytes(data[:-30])


MUTATIONS: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "truncated": (
        lambda at: (at / WEIGHTS).write_bytes(tensors()[:-1]),
        [("digest-mismatch", WEIGHTS)],
    ),
    "extended": (lambda at: (at / "README.md").open("a").write("x"), [("digest-mismatch", "README.md")]),
    "deleted": (lambda at: (at / "README.md").unlink(), [("file-set-mismatch", "README.md")]),
    "added": (lambda at: (at / "more.md").write_text(""), [("file-set-mismatch", "more.md")]),
    "added in a folder": (
        lambda at: (at / "docs" / "more.md").write_text(""),
        [("file-set-mismatch", "docs/more.md")],
    ),
    "added, hidden": (lambda at: (at / ".more").write_text(""), [("file-set-mismatch", ".more")]),
    "signature in a folder": (
        lambda at: (at / "docs" / "edgelora.sig").write_text(""),
        [("file-set-mismatch", "docs/edgelora.sig")],
    ),
    "renamed": (
        lambda at: (at / "README.md").rename(at / "readme.md"),
        [("file-set-mismatch", "README.md"), ("file-set-mismatch", "readme.md")],
    ),
    "a link": (replace_by_link, [("file-unsafe", "README.md")]),
    "a folder's link": (
        replace_folder_by_link,
        [("file-set-mismatch", "docs/empty.txt"), ("file-unsafe", "docs")],
    ),
    "a pipe": (replace_by_pipe, [("file-unsafe", "README.md")]),
    "a folder": (replace_by_folder, [("file-set-mismatch", "README.md")]),
    "hostile name": (
        lambda at: (at / "a\\b").write_text(""),
        [("path-invalid", "a\\b")],
    ),
    "name that is no text": (
        lambda at: open(os.fsencode(at) + b"/\xff", "w").close(),
        [("path-invalid", "\\udcff")],
    ),
    "endless folders": (add_deep_folders, [("path-invalid", "/".join("d" * 17))]),
    "pickle added": (
        lambda at: (at / "model.pkl").write_text(""),
        [("file-set-mismatch", "model.pkl"), ("file-unsafe", "model.pkl")],
    ),
    "manifest gone": (lambda at: (at / "edgelora.json").unlink(), [("manifest-invalid", "edgelora.json")]),
    "manifest a link": (replace_manifest_by_link, [("manifest-invalid", "edgelora.json")]),
    "manifest truncated": (truncate_manifest, [("manifest-invalid", "edgelora.json")]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found_and_check_raises_the_first(folder: Path, name: str) -> None:
    mutate, expected = MUTATIONS[name]
    mutate(folder)
    findings = verify(folder)
    assert [(finding.id, finding.path) for finding in findings] == expected
    assert all(finding.severity == "error" and finding.problem and finding.fix for finding in findings)
    with pytest.raises(EdgeloraError) as caught:
        check(folder)
    assert caught.value.id == expected[0][0]
    assert caught.value.problem == findings[0].problem


def test_size_is_compared_before_the_digest(folder: Path) -> None:
    (folder / "README.md").write_text("longer than it was, and other")
    assert verify(folder)[0].problem == "README.md has 29 bytes, and the manifest says 13"


def test_all_findings_are_listed_at_once(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "more.md").write_text("")
    (folder / "adapter_config.json").write_text("[]")
    assert ids(folder) == [
        ("file-set-mismatch", "README.md"),
        ("file-set-mismatch", "more.md"),
        ("digest-mismatch", "adapter_config.json"),
    ]


def test_missing_and_unlisted_files_are_told_apart(folder: Path) -> None:
    (folder / "README.md").rename(folder / "more.md")
    missing, unlisted = verify(folder)
    assert missing.problem == "README.md is listed in the manifest and not there"
    assert missing.fix == "fetch the adapter again; if it is yours, pack it again"
    assert unlisted.problem == "more.md is not listed in the manifest"
    assert unlisted.fix == "remove it, or pack the adapter again"


def test_folder_that_is_not_there_is_one_finding(tmp_path: Path) -> None:
    assert ids(tmp_path / "none") == [("file-not-found", "")]


def test_wrong_summary_of_tensors_is_found(folder: Path) -> None:
    summary = summarize_tensors(folder, describe_files(folder))
    seal(folder, tensors=summary.model_copy(update={"bytes": 9}))
    (finding,) = verify(folder)
    assert (finding.id, finding.path) == ("digest-mismatch", "edgelora.json")
    assert "1 tensors of 9 bytes" in finding.problem


def zip_bytes(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


def dump(protocol: int) -> Callable[[Path], object]:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("true",)

    return lambda path: path.write_bytes(pickle.dumps({"a": Harm()}, protocol=protocol))


UNSAFE: dict[str, Callable[[Path], object]] = {
    "zip": zip_bytes,
    **{f"pickle protocol {protocol}": dump(protocol) for protocol in range(6)},
    "protocol 0 global": lambda path: path.write_bytes(b"cos\nsystem\n(S'true'\ntR."),
    "protocol 0 instance": lambda path: path.write_bytes(b"(S'true'\nios\nsystem\n."),
    "numpy": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"),
    "gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08\x00"),
    "program": lambda path: path.write_bytes(b"\x7fELF\x02\x01\x01"),
}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("path", ["notes.md", "data", "edgelora.sig.json"])
def test_code_is_refused_under_any_name_even_if_listed(folder: Path, name: str, path: str) -> None:
    UNSAFE[name](folder / path)
    seal(folder)
    (finding,) = verify(folder)
    assert (finding.id, finding.path) == ("file-unsafe", path)
    assert finding.fix == "publish weights as safetensors, and drop it"


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".PKL", ".ckpt", ".npy", ".zip"])
def test_pickle_extension_is_refused_whatever_is_inside(folder: Path, suffix: str) -> None:
    (folder / f"model{suffix}").write_text("hello")
    seal(folder)
    assert ids(folder) == [("file-unsafe", f"model{suffix}")]


@pytest.mark.parametrize("text", ["config\nmore\nplain\n", "(list of things)\n", "]q", "color\ncat\n", "MZ"])
def test_plain_text_is_no_pickle(folder: Path, text: str) -> None:
    (folder / "notes.txt").write_text(text)
    seal(folder)
    assert verify(folder) == []


def test_header_whose_length_looks_like_a_pickle_is_accepted(folder: Path) -> None:
    data = tensors(0x0280)
    assert data.startswith(b"\x80\x02")
    (folder / WEIGHTS).write_bytes(data)
    seal(folder)
    assert verify(folder) == []


@pytest.mark.parametrize("name", ["extra.safetensors", "EXTRA.SAFETENSORS"])
def test_malformed_weights_are_found_even_if_the_digest_is_right(folder: Path, name: str) -> None:
    (folder / name).write_bytes(tensors() + b"trailing")
    seal(folder)
    assert ids(folder) == [("tensors-invalid", name)]


def test_program_by_name_is_a_warning_and_passes_the_check(folder: Path) -> None:
    (folder / "run.py").write_text("print()")
    seal(folder)
    (finding,) = verify(folder)
    assert (finding.id, finding.path, finding.severity) == ("file-unsafe", "run.py", "warning")
    assert check(folder).kind == "adapter"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_a_finding(folder: Path) -> None:
    (folder / "README.md").chmod(0)
    assert ids(folder) == [("file-set-mismatch", "README.md")]


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["edgelora.json", WEIGHTS]),
    st.integers(0, 2000),
    st.binary(max_size=3),
    st.integers(0, 3),
)
def test_damage_anywhere_gives_findings_and_no_exception(
    folder: Path, name: str, at: int, inserted: bytes, cut: int
) -> None:
    data = (folder / name).read_bytes()
    at %= len(data)
    damaged = data[:at] + inserted + data[at + cut :]
    (folder / name).write_bytes(damaged)
    findings = verify(folder)
    (folder / name).write_bytes(data)
    if name == WEIGHTS:
        assert bool(findings) == (damaged != data)


def test_manifest_and_verify_import_nothing_heavy() -> None:
    program = (
        "import sys, edgelora.manifest, edgelora.manifest.base_identity, edgelora.verify\n"
        "heavy = {'torch', 'numpy', 'transformers', 'peft', 'huggingface_hub', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


def test_verified_bytes_are_the_bytes_that_were_hashed(folder: Path) -> None:
    manifest = check(folder)
    assert read_verified(folder, manifest, WEIGHTS) == tensors()
    assert read_verified(folder, manifest, "docs/empty.txt") == b""


def test_weights_are_read_once_for_the_check_and_for_use(folder: Path) -> None:
    manifest, read = check_and_read(folder)
    assert manifest == check(folder)
    assert read == {
        MANIFEST_NAME: (folder / MANIFEST_NAME).read_bytes(),
        WEIGHTS: read_verified(folder, manifest, WEIGHTS),
    }
    damaged = bytearray(read[WEIGHTS])
    damaged[-1] ^= 1
    (folder / WEIGHTS).write_bytes(damaged)
    with pytest.raises(DigestMismatch):
        check_and_read(folder)


def test_bytes_that_changed_after_the_check_are_not_returned(folder: Path) -> None:
    manifest = check(folder)
    (folder / WEIGHTS).write_bytes(tensors()[:-1] + b"x")
    with pytest.raises(DigestMismatch, match="has the sha256"):
        read_verified(folder, manifest, WEIGHTS)
    (folder / WEIGHTS).write_bytes(tensors() + b"x")
    with pytest.raises(DigestMismatch, match="and the manifest says") as caught:
        read_verified(folder, manifest, WEIGHTS)
    assert caught.value.fix == "fetch the adapter again; if it is yours, pack it again"
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileSetMismatch, match="is listed in the manifest and not there"):
        read_verified(folder, manifest, WEIGHTS)


def test_only_listed_files_are_returned_as_verified(folder: Path) -> None:
    manifest = check(folder)
    (folder / "more.md").write_text("")
    for path in ("more.md", "edgelora.json", "../adapter/README.md"):
        with pytest.raises(FileSetMismatch, match="is not listed in the manifest") as caught:
            read_verified(folder, manifest, path)
        assert caught.value.fix == "pack the adapter again"


def test_verified_bytes_never_come_from_behind_a_link(folder: Path) -> None:
    manifest = check(folder)
    replace_by_link(folder)
    replace_folder_by_link(folder)
    for path in ("README.md", "docs/empty.txt"):
        with pytest.raises(PathError, match="lies behind, a symlink"):
            read_verified(folder, manifest, path)


def test_folder_swapped_for_a_link_while_it_is_listed_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelora import verify as module

    listed = dict(module.walk(folder))
    replace_folder_by_link(folder)
    monkeypatch.setattr(module, "walk", lambda _: listed.items())
    assert ("path-invalid", "docs/empty.txt") in ids(folder)
