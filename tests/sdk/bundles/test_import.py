"""An import takes nobody's word for more than it is worth, and does all of its work or none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub
from signers import ed25519, pinned, policy, signed_adapter

from edgelora import micro
from edgelora.bases import base_place, bases_folder
from edgelora.bundles import create_bundle, import_bundle, index_signers, open_bundle
from edgelora.bundles.base_import import staged_base
from edgelora.bundles.index import BundledBase, NamedBlob
from edgelora.errors import (
    DigestMismatch,
    Rollback,
    SignatureUntrusted,
    TargetExists,
    UnsafeFile,
    Unsigned,
    VersionExists,
)
from edgelora.manifest.base_identity import identify_base
from edgelora.signing import Rule, TrustPolicy
from edgelora.store import DirectoryStore, parse_reference
from edgelora.transfer import pull, push, yank
from edgelora.transfer.provenance import read_signature

ONE, TWO = ed25519("one"), ed25519("two")
STRICT = TrustPolicy(default=Rule(require_signature=True))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def micro_with(tmp_path: Path, **files: str) -> Path:
    """The same weights with other files beside them."""
    folder = tmp_path / "lookalike"
    shutil.copytree(micro.path(), folder)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


# Bases


@pytest.mark.parametrize("name", ["config__json", "chat_template__jinja", "tokenizer_config__json"])
def test_files_beside_the_weights_of_a_base_are_never_replaced(tmp_path: Path, name: str) -> None:
    (digest,) = import_bundle(
        create_bundle(tmp_path / "a", [], bases=["micro"]).path, str(tmp_path / "s")
    ).bases
    place = base_place(digest)
    before = files_of(place)
    config = json.loads((micro.path() / "config.json").read_text())
    text = json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "x.y"}})
    evil = create_bundle(tmp_path / "b", [], bases=[str(micro_with(tmp_path, **{name: text}))]).path
    with pytest.raises(
        TargetExists, match=f"on this machine with another {name.replace('__', '.')}"
    ) as caught:
        import_bundle(evil, str(tmp_path / "s"))
    assert str(place) in caught.value.fix
    assert files_of(place) == before


def test_damaged_weights_do_not_let_other_files_in(tmp_path: Path) -> None:
    (digest,) = import_bundle(
        create_bundle(tmp_path / "a", [], bases=["micro"]).path, str(tmp_path / "s")
    ).bases
    weights = base_place(digest) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    evil = create_bundle(
        tmp_path / "b", [], bases=[str(micro_with(tmp_path, chat_template__jinja="{{ 1 }}"))]
    )
    with pytest.raises(TargetExists):
        import_bundle(evil.path, str(tmp_path / "s"))


def test_bases_need_a_signature_where_the_policy_requires_one(tmp_path: Path) -> None:
    made = create_bundle(tmp_path / "a", [], bases=["micro"]).path
    with pytest.raises(Unsigned, match="the bundle is not signed"):
        import_bundle(made, str(tmp_path / "s"), policy=STRICT)
    assert not bases_folder().exists()
    rule = Rule(keys=(ONE.public.fingerprint,))
    trusting = TrustPolicy(keys=pinned(ONE), default=rule)
    signed = create_bundle(tmp_path / "b", [], bases=["micro"], keys=[ONE]).path
    assert import_bundle(signed, str(tmp_path / "s"), policy=trusting).bases


def test_an_adapter_that_needs_no_signature_brings_no_base_that_needs_one(tmp_path: Path) -> None:
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=str(tmp_path / "m"))
    made = create_bundle(tmp_path / "a", ["alice/decimals"], bases=["micro"], source=str(tmp_path / "m")).path
    free = STRICT.model_copy(update={"namespaces": {"alice": Rule(require_signature=False)}})
    with pytest.raises(Unsigned):
        import_bundle(made, str(tmp_path / "s"), policy=free)
    made = create_bundle(tmp_path / "b", ["alice/decimals"], source=str(tmp_path / "m")).path
    assert import_bundle(made, str(tmp_path / "s"), policy=free).adapters == ("alice/decimals@1.0.0",)


# Signatures of the index


def test_the_policy_asks_for_the_signature_of_the_index_without_being_told(tmp_path: Path) -> None:
    push(signed_adapter(tmp_path / "adapter", ONE), "alice/decimals", to=str(tmp_path / "m"))
    source, trusting = str(tmp_path / "m"), policy(ONE)
    unsigned = create_bundle(tmp_path / "a", ["alice/decimals"], source=source).path
    with pytest.raises(Unsigned, match="the bundle is not signed"):
        import_bundle(unsigned, str(tmp_path / "s"), policy=trusting)
    strange = create_bundle(tmp_path / "b", ["alice/decimals"], source=source, keys=[TWO]).path
    with pytest.raises(SignatureUntrusted):
        import_bundle(strange, str(tmp_path / "s"), policy=trusting)
    assert not (tmp_path / "s").exists()
    signed = create_bundle(tmp_path / "c", ["alice/decimals"], source=source, keys=[ONE]).path
    assert import_bundle(signed, str(tmp_path / "s"), policy=trusting).adapters
    with open_bundle(strange) as bundle:
        assert [signer.standing for signer in index_signers(bundle, trusting)] == ["unknown"], (
            "showing is free"
        )


# Yanks


def yanked_bundle(tmp_path: Path, *keys: object, name: str = "y") -> Path:
    """A bundle whose maker says that a release, which everybody has, was withdrawn."""
    if not (tmp_path / "theirs").exists():
        folder = signed_adapter(tmp_path / "adapter", ONE)
        for mirror in ("theirs", "mine"):
            push(folder, "alice/decimals", to=str(tmp_path / mirror))
        yank("alice/decimals@1.0.0", "mallory says so", str(tmp_path / "theirs"))
    return create_bundle(
        tmp_path / name,
        ["alice/decimals@1.0.0"],
        source=str(tmp_path / "theirs"),
        keys=keys,  # type: ignore[arg-type]
    ).path


@pytest.mark.parametrize("keys", [(), (TWO,)])
def test_a_bundle_that_nobody_trusted_signed_yanks_nothing(tmp_path: Path, keys: tuple[object, ...]) -> None:
    made = yanked_bundle(tmp_path, *keys)
    free = policy(ONE, require_signature=False)
    done = import_bundle(made, str(tmp_path / "mine"), policy=free)
    assert done.yanks_ignored == {"alice/decimals@1.0.0": "mallory says so"}
    assert DirectoryStore(tmp_path / "mine").yanked("alice", "decimals") == {}
    assert pull("alice/decimals", str(tmp_path / "mine"), policy=free).yanked is None
    with pytest.raises((Unsigned, SignatureUntrusted)):
        import_bundle(made, str(tmp_path / "mine"), policy=policy(ONE))


def test_a_bundle_that_enough_trusted_keys_signed_yanks(tmp_path: Path) -> None:
    both = policy(ONE, TWO, threshold=2, require_signature=False)
    few = import_bundle(yanked_bundle(tmp_path, ONE), str(tmp_path / "mine"), policy=both)
    assert set(few.yanks_ignored) == {"alice/decimals@1.0.0"}
    made = yanked_bundle(tmp_path, ONE, TWO, name="z")
    assert import_bundle(made, str(tmp_path / "mine"), policy=both).yanks_ignored == {}
    assert DirectoryStore(tmp_path / "mine").yanked("alice", "decimals") == {"1.0.0": "mallory says so"}


# All of it or nothing


def test_a_conflict_of_one_version_lets_none_be_published(tmp_path: Path) -> None:
    for name in ("alice/aa", "alice/bb"):
        push(write_adapter(tmp_path / name, name=name), name, to=str(tmp_path / "theirs"))
    push(write_adapter(tmp_path / "other", name="alice/bb", seed=4), "alice/bb", to=str(tmp_path / "mine"))
    made = create_bundle(
        tmp_path / "b", ["alice/aa", "alice/bb"], bases=["micro"], source=str(tmp_path / "theirs")
    ).path
    with pytest.raises(VersionExists, match=r"alice/bb 1\.0\.0 was published"):
        import_bundle(made, str(tmp_path / "mine"))
    assert DirectoryStore(tmp_path / "mine").list_adapters() == ["alice/bb"]
    assert not bases_folder().exists()


def test_a_flipped_byte_of_an_adapter_lets_no_base_in(tmp_path: Path) -> None:
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=str(tmp_path / "m"))
    made = create_bundle(tmp_path / "b", ["alice/decimals"], bases=["micro"], source=str(tmp_path / "m")).path
    data = bytearray(made.read_bytes())
    data[data.find(b"# alice/decimals\n")] ^= 1
    made.write_bytes(data)
    with pytest.raises(DigestMismatch):
        import_bundle(made, str(tmp_path / "s"))
    assert not bases_folder().exists() and DirectoryStore(tmp_path / "s").list_adapters() == []


def test_a_base_that_is_another_lets_no_other_base_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_bundle(tmp_path / "b", [], bases=["micro"]).path
    data = made.read_bytes()
    with open_bundle(made) as bundle:
        base = bundle.index.bases[0]
        weights = next(file for file in base.files if file.path == "model.safetensors")
        damaged = bytearray(data)
        damaged[bundle.offsets[weights.sha256] + weights.size - 1] ^= 1
    made.write_bytes(damaged)
    with pytest.raises(DigestMismatch):
        import_bundle(made, str(tmp_path / "s"))
    assert not base_place(base.tensors_digest).exists()


def test_two_versions_of_one_number_are_refused_before_either_is_published(tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / v, version=v, seed=int(v[2])) for v in ("1.0.0", "1.1.0")]
    made = create_bundle(tmp_path / "b", [str(folder) for folder in folders]).path
    with pytest.raises(Rollback, match=r"1\.0\.0 and 1\.1\.0 of alice/decimals are both release 1"):
        import_bundle(made, str(tmp_path / "s"))
    assert not (tmp_path / "s/repos").exists()


def test_versions_that_clash_by_case_are_refused(tmp_path: Path) -> None:
    for version, store in (("1.0.0-rc.1", "a"), ("1.0.0-RC.1", "b")):
        push(
            write_adapter(tmp_path / store, version=version), "alice/decimals", to=str(tmp_path / f"m{store}")
        )
    made = create_bundle(tmp_path / "x", ["alice/decimals"], source=str(tmp_path / "mb")).path
    with pytest.raises(
        VersionExists, match=r"1\.0\.0-RC\.1 differs in capitals alone from 1\.0\.0-rc\.1 in file"
    ):
        import_bundle(made, str(tmp_path / "ma"))


def test_signatures_that_the_store_has_stay(tmp_path: Path) -> None:
    folder = signed_adapter(tmp_path / "one", ONE)
    twin = signed_adapter(tmp_path / "two", TWO)
    assert (folder / "edgelora.json").read_bytes() == (twin / "edgelora.json").read_bytes()
    push(folder, "alice/decimals", to=str(tmp_path / "mine"))
    push(twin, "alice/decimals", to=str(tmp_path / "theirs"))
    made = create_bundle(tmp_path / "b", ["alice/decimals"], source=str(tmp_path / "theirs")).path
    import_bundle(made, str(tmp_path / "mine"))
    store = DirectoryStore(tmp_path / "mine")
    data = read_signature(store, store.resolve(parse_reference("alice/decimals"))) or b""
    assert all(key.public.fingerprint.encode() in data for key in (ONE, TWO))
    assert import_bundle(made, str(tmp_path / "mine")).reused == ("alice/decimals@1.0.0",)


def test_several_versions_go_into_a_hub(tmp_path: Path, hub: LoopbackHub) -> None:
    for name in ("alice/aa", "alice/bb"):
        push(write_adapter(tmp_path / name, name=name), name, to=str(tmp_path / "m"))
    made = create_bundle(tmp_path / "b", ["alice/aa", "alice/bb"], source=str(tmp_path / "m")).path
    assert import_bundle(made, hub.url).adapters == ("alice/aa@1.0.0", "alice/bb@1.0.0")
    assert import_bundle(made, hub.url).reused == ("alice/aa@1.0.0", "alice/bb@1.0.0")
    assert pull("alice/bb", hub.url).reference == "alice/bb@1.0.0"


def test_a_prepared_base_is_not_taken_for_the_model_it_names(tmp_path: Path) -> None:
    """Its record is its own word: anybody's weights would be found under the digest of micro."""
    digest = identify_base(micro.path()).tensors_digest
    forged = NamedBlob(path="edgelora-base.json", sha256="0" * 64, size=1)
    with open_bundle(create_bundle(tmp_path / "b", [], bases=["micro"]).path) as bundle:
        base = BundledBase(repo="micro", tensors_digest=digest, files=(forged,))
        with (
            pytest.raises(UnsafeFile, match="which may name any model as its source"),
            staged_base(bundle, base),
        ):
            pass
    assert not bases_folder().exists()
