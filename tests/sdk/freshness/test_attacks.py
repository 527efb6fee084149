"""A mirror that must prove it is current can neither go back, nor stand still, nor mix states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from clocks import moment, noted_before
from signers import ed25519, p256, policy

from edgelora.errors import (
    DependencyMissing,
    EdgeloraError,
    Freeze,
    MissingFile,
    MixAndMatch,
    ReferenceFormError,
    Rollback,
    SignatureInvalid,
    SignatureUntrusted,
    StoreError,
    TrustPolicyError,
    Unsigned,
    Yanked,
)
from edgelora.freshness import pin_namespace, pin_root, require_extra, state_folder, states_of
from edgelora.freshness.authoring import Statements
from edgelora.locations import home
from edgelora.store import DirectoryStore
from edgelora.transfer import pull, push, release_as, remove, yank

ROOT = [ed25519("alice"), p256("bob")]
RELEASE, ONLINE, MALLORY = ed25519("release"), p256("gateway"), ed25519("mallory")


class Mirror:
    """A mirror with signed metadata, and what its owner does to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = DirectoryStore(root)
        self.publish_release("1.0.0")
        self.owner = Statements(self.store, ONLINE)
        self.owner.init(ROOT, threshold=2)
        self.owner.delegate("acme", [RELEASE.public], ROOT)
        self.list_releases()

    def publish_release(self, version: str) -> None:
        folder = write_adapter(self.root.parent / f"src-{version}", version=version, seed=len(version))
        push(folder, f"acme/decimals@{version}", to=str(self.root))

    def list_releases(self) -> None:
        self.owner.publish("acme", [RELEASE])

    def trust(self) -> None:
        pin_root(self.store.address, self.root / "tuf/1.root.json")

    def pull(self, reference: str = "acme/decimals") -> str:
        return pull(reference, str(self.root)).reference

    def go_back_to(self, copy: Path, *names: str) -> None:
        """Restore all of an older state, or some of it."""
        for name in names or ("",):
            target = self.root / name
            if target.is_dir():
                shutil.rmtree(target)
                shutil.copytree(copy / name, target)
            else:
                shutil.copy(copy / name, target)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    made = Mirror(tmp_path / "mirror")
    made.trust()
    return made


@pytest.fixture
def old(mirror: Mirror, tmp_path: Path) -> Path:
    """The mirror as it was before the release 1.1.0."""
    copy = tmp_path / "old"
    shutil.copytree(mirror.root, copy)
    mirror.publish_release("1.1.0")
    mirror.list_releases()
    return copy


def forget_releases() -> None:
    """So that the metadata alone must see the attack."""
    shutil.rmtree(home() / "state/releases", ignore_errors=True)


def test_a_mirror_that_proves_itself_is_pulled_from(mirror: Mirror, old: Path) -> None:
    assert mirror.pull() == "acme/decimals@1.1.0"
    assert mirror.pull("acme/decimals@1.0.0") == "acme/decimals@1.0.0"
    assert mirror.pull("acme/decimals@main") == "acme/decimals@1.1.0"
    assert mirror.store.fsck().problems == ()


def test_a_store_that_nobody_pinned_proves_nothing(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "free")
    shutil.rmtree(mirror.root / "tuf")
    assert mirror.pull() == "acme/decimals@1.0.0" and states_of(mirror.store.address, "acme") == []


def test_going_back_as_a_whole_is_a_rollback(mirror: Mirror, old: Path) -> None:
    mirror.pull()
    forget_releases()
    mirror.go_back_to(old)
    with pytest.raises(Rollback, match="older than what was seen before") as caught:
        mirror.pull()
    assert (caught.value.id, caught.value.exit_code) == ("rollback", 6)
    with pytest.raises(Rollback):
        mirror.pull("acme/decimals@1.0.0")


def test_standing_still_is_a_freeze_once_the_date_is_past(mirror: Mirror) -> None:
    mirror.pull()
    noted_before("acme", moment(days=61))
    with pytest.raises(Freeze, match="is past its date, so a newer release may be hidden") as caught:
        mirror.pull()
    assert (caught.value.id, caught.value.exit_code) == ("freeze", 6)
    assert "edgelora tuf refresh" in caught.value.fix and "clocks/acme.time" in caught.value.fix
    Statements(mirror.store, ONLINE, days=90).refresh()
    assert mirror.pull() == "acme/decimals@1.0.0"


def test_metadata_that_ran_out_is_a_freeze_by_the_system_clock_too(mirror: Mirror) -> None:
    Statements(mirror.store, ONLINE, days=-1).refresh()
    with pytest.raises(Freeze):
        mirror.pull()
    assert not (home() / "adapters").exists()


def test_hiding_the_metadata_is_a_freeze(mirror: Mirror) -> None:
    shutil.rmtree(mirror.root / "tuf")
    with pytest.raises(Freeze, match="does not show its signed metadata"):
        mirror.pull()


def test_new_content_behind_old_metadata_is_mixed(mirror: Mirror) -> None:
    mirror.publish_release("1.1.0")
    with pytest.raises(
        MixAndMatch, match=r"offers acme/decimals@1\.1\.0, which its signed metadata does not list"
    ):
        mirror.pull()
    assert mirror.pull("acme/decimals@1.0.0") == "acme/decimals@1.0.0"


def test_old_content_behind_new_metadata_is_mixed(mirror: Mirror, old: Path) -> None:
    mirror.go_back_to(old, "repos")
    with pytest.raises(MixAndMatch, match=r"lists 1\.1\.0 as the latest") as caught:
        mirror.pull()
    assert (caught.value.id, caught.value.exit_code) == ("mix-and-match", 6)
    with pytest.raises(MixAndMatch, match=r"lists 1\.1\.0 as the latest"):
        mirror.pull("acme/decimals@main")


def test_another_manifest_under_a_listed_version_is_mixed(mirror: Mirror, tmp_path: Path) -> None:
    other = DirectoryStore(tmp_path / "other")
    push(write_adapter(tmp_path / "forged", seed=99), "acme/decimals@1.0.0", to=str(other.root))
    for name in ("repos", "blobs"):
        shutil.rmtree(mirror.root / name)
        shutil.copytree(other.root / name, mirror.root / name)
    for reference in ("acme/decimals", "acme/decimals@1.0.0"):
        with pytest.raises(MixAndMatch, match="with the manifest sha256:"):
            mirror.pull(reference)


@pytest.mark.parametrize("role", ["snapshot", "targets", "ns-acme"])
def test_old_parts_of_metadata_under_new_names_are_mixed(mirror: Mirror, old: Path, role: str) -> None:
    mirror.owner.delegate("bob", [RELEASE.public], ROOT)
    numbers = sorted(int(path.name.split(".")[0]) for path in mirror.root.glob(f"tuf/*.{role}.json"))
    shutil.copy(
        mirror.root / f"tuf/{numbers[-2]}.{role}.json", mirror.root / f"tuf/{numbers[-1]}.{role}.json"
    )
    with pytest.raises(MixAndMatch, match="does not belong together"):
        mirror.pull()


def test_a_flipped_byte_in_any_part_is_refused(mirror: Mirror) -> None:
    current = [path for path in sorted((mirror.root / "tuf").iterdir()) if "root" not in path.name]
    latest = {path.name.split(".", 1)[-1] if path.name[0].isdigit() else path.name: path for path in current}
    for path in latest.values():
        data = path.read_bytes()
        for position in range(0, len(data), 41):
            # What was read before is kept, and is not read again.
            shutil.rmtree(state_folder(mirror.store.address))
            mirror.trust()
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            with pytest.raises(EdgeloraError) as caught:
                mirror.pull()
            assert caught.value.exit_code == 6, (path.name, position)
        path.write_bytes(data)
    mirror.pull()


def test_a_forged_timestamp_is_not_trusted(mirror: Mirror) -> None:
    forger = Statements(mirror.store, MALLORY)
    with pytest.raises(SignatureUntrusted, match="not signed by enough of its keys"):
        forger.refresh()
    path = mirror.root / "tuf/timestamp.json"
    document = json.loads(path.read_bytes())
    document["signed"]["version"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureUntrusted, match="not signed by enough of the keys that must sign it"):
        mirror.pull()


def test_only_the_keys_of_a_namespace_list_its_releases(mirror: Mirror) -> None:
    before = (mirror.root / "tuf/timestamp.json").read_bytes()
    with pytest.raises(SignatureUntrusted, match="the metadata of ns-acme"):
        mirror.owner.publish("acme", [MALLORY])
    assert (mirror.root / "tuf/timestamp.json").read_bytes() == before
    with pytest.raises(StoreError, match="delegates bob to nobody"):
        mirror.owner.publish("bob", [RELEASE])
    push(write_adapter(mirror.root.parent / "bob"), "bob/decimals@1.0.0", to=str(mirror.root))
    with pytest.raises(MixAndMatch, match="does not list"):
        mirror.pull("bob/decimals")
    mirror.owner.delegate("bob", [MALLORY.public], ROOT)
    mirror.owner.publish("bob", [MALLORY])
    assert mirror.pull("bob/decimals") == "bob/decimals@1.0.0"
    assert mirror.pull() == "acme/decimals@1.0.0"


def test_one_of_two_root_keys_delegates_nothing(mirror: Mirror) -> None:
    with pytest.raises(SignatureUntrusted, match="the metadata of targets"):
        mirror.owner.delegate("bob", [MALLORY.public], ROOT[:1])
    assert mirror.pull() == "acme/decimals@1.0.0"


def test_a_yank_that_the_mirror_hides_is_still_a_yank(mirror: Mirror, old: Path) -> None:
    shutil.copytree(mirror.root / "repos", mirror.root.parent / "repos-before")
    yank("acme/decimals@1.1.0", "answers 9.11 again", str(mirror.root))
    mirror.list_releases()
    assert mirror.pull() == "acme/decimals@1.0.0"
    shutil.rmtree(mirror.root / "repos")
    shutil.copytree(mirror.root.parent / "repos-before", mirror.root / "repos")
    for reference in ("acme/decimals", "acme/decimals@1.1.0"):
        with pytest.raises(Yanked, match=r"does not say: answers 9\.11 again"):
            mirror.pull(reference)


def test_a_yank_that_only_the_mirror_claims_is_mixed(mirror: Mirror, old: Path) -> None:
    yank("acme/decimals@1.1.0", "forged", str(mirror.root))
    with pytest.raises(MixAndMatch, match=r"lists 1\.1\.0 as the latest"):
        mirror.pull()


def test_what_was_seen_outlives_the_adapter(mirror: Mirror, old: Path) -> None:
    mirror.pull()
    remove("acme/decimals@1.1.0")
    forget_releases()
    mirror.go_back_to(old)
    with pytest.raises(Rollback):
        mirror.pull()
    assert state_folder(mirror.store.address).is_relative_to(home() / "state")


def test_metadata_behind_a_link_is_not_read(mirror: Mirror, tmp_path: Path) -> None:
    shutil.move(mirror.root / "tuf", tmp_path / "elsewhere")
    (mirror.root / "tuf").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/real.json").write_bytes((tmp_path / "elsewhere/timestamp.json").read_bytes())
    (tmp_path / "elsewhere/timestamp.json").unlink()
    (tmp_path / "elsewhere/timestamp.json").symlink_to("real.json")
    with pytest.raises(Freeze, match="does not show its signed metadata"):
        mirror.pull()


def test_another_name_of_a_pinned_mirror_proves_no_less(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mirror.root)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path)
    shutil.rmtree(mirror.root / "tuf")
    for name in ("link", "folder/link/mirror", "folder/../mirror"):
        with pytest.raises(Freeze, match="does not show its signed metadata"):
            pull("acme/decimals", str(tmp_path / name))


def test_a_copy_of_a_mirror_whose_namespace_is_pinned_proves_no_less(
    mirror: Mirror, old: Path, tmp_path: Path
) -> None:
    """What one copy has shown, no other may fall behind."""
    pin_namespace("acme", mirror.root / "tuf/1.root.json")
    assert mirror.pull() == "acme/decimals@1.1.0"
    forget_releases()
    with pytest.raises(Rollback, match="older than what was seen before"):
        pull("acme/decimals", str(old))
    push(write_adapter(tmp_path / "f", seed=99), "acme/decimals@9.0.0", to=str(tmp_path / "free"))
    with pytest.raises(Freeze, match="does not show its signed metadata"):
        pull("acme/decimals", str(tmp_path / "free"))
    push(write_adapter(tmp_path / "g", name="bob/x"), "bob/x@1.0.0", to=str(tmp_path / "free"))
    assert pull("bob/x", str(tmp_path / "free")).reference == "bob/x@1.0.0"
    copy = tmp_path / "copy"
    shutil.copytree(mirror.root, copy)
    assert pull("acme/decimals", str(copy)).reference == "acme/decimals@1.1.0"
    with pytest.raises(ReferenceFormError):
        pin_namespace("../acme", mirror.root / "tuf/1.root.json")


def test_a_yank_without_a_reason_is_a_yank(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "yanked", lambda *_: {"1.0.0": ""})
        mirror.list_releases()
    with pytest.raises(Yanked):
        mirror.pull()


def test_the_latest_is_told_for_each_channel(mirror: Mirror, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "beta", version="2.0.0", seed=9)
    release_as(folder, f"{mirror.store.address}#acme/decimals@2.0.0", channel="beta")
    push(folder, "acme/decimals@2.0.0", to=str(mirror.root))
    with pytest.raises(MixAndMatch, match=r"2\.0\.0, which its signed metadata does not list"):
        pull("acme/decimals", str(mirror.root), channel="beta")
    mirror.list_releases()
    assert mirror.pull() == "acme/decimals@1.0.0"
    assert pull("acme/decimals", str(mirror.root), channel="beta").reference == "acme/decimals@2.0.0"


def test_what_someone_else_changed_on_the_mirror_is_not_signed_unseen(
    mirror: Mirror, old: Path, tmp_path: Path
) -> None:
    """The keeper of the disk holds no key, and waits for the owner's next statement."""
    yank("acme/decimals@1.0.0", "wrong", str(mirror.root))
    assert mirror.owner.publish("acme", [RELEASE]).changes == ("acme/decimals@1.0.0 is yanked: wrong",)
    listed = tmp_path / "listed"
    shutil.copytree(mirror.root, listed)
    other = tmp_path / "forged"
    push(write_adapter(tmp_path / "f", version="1.0.0", seed=99), "acme/decimals@1.0.0", to=str(other))
    for copy, problems in (
        (other, ["1.0.0 is another release than sha256:", "1.1.0 is gone"]),
        (old, ["1.0.0 is not yanked any more", "1.1.0 is gone"]),
    ):
        mirror.go_back_to(copy, "repos", "blobs")
        before = sorted(path.name for path in (mirror.root / "tuf").iterdir())
        with pytest.raises(MixAndMatch, match="does not hold what was listed") as caught:
            mirror.list_releases()
        assert all(f"acme/decimals@{problem}" in caught.value.problem for problem in problems)
        assert "--accept acme/decimals@1.0.0 --accept acme/decimals@1.1.0" in caught.value.fix
        with pytest.raises(MixAndMatch, match=r"acme/decimals@1\.1\.0 is gone"):
            mirror.owner.publish("acme", [RELEASE], accepted=["acme/decimals@1.0.0"])
        assert sorted(path.name for path in (mirror.root / "tuf").iterdir()) == before
        mirror.go_back_to(listed, "repos", "blobs")
    mirror.list_releases()


def test_a_mirror_that_went_back_is_not_signed_where_its_root_is_pinned(mirror: Mirror, old: Path) -> None:
    """With its metadata it forgets what was listed; the owner's machine does not."""
    mirror.pull()
    mirror.go_back_to(old)
    with pytest.raises(Rollback):
        mirror.list_releases()


def test_a_listing_that_was_edited_is_nothing_to_compare_with(mirror: Mirror, old: Path) -> None:
    shutil.rmtree(state_folder(mirror.store.address))
    (listing,) = mirror.root.glob("tuf/2.ns-acme.json")
    document = json.loads(listing.read_bytes())
    document["signed"]["targets"].popitem()
    listing.write_text(json.dumps(document))
    with pytest.raises(SignatureUntrusted, match="the metadata of ns-acme"):
        mirror.list_releases()


def test_what_the_owner_removed_is_listed_no_more_once_they_say_so(mirror: Mirror, old: Path) -> None:
    remove("acme/decimals@1.1.0", str(mirror.root))
    written = mirror.owner.publish("acme", [RELEASE], accepted=["acme/decimals@1.1.0"])
    assert (written.releases, written.changes) == (1, ("acme/decimals@1.1.0 is gone",))
    assert mirror.pull() == "acme/decimals@1.0.0"


def test_a_new_release_is_listed_only_if_the_trust_policy_is_met(mirror: Mirror) -> None:
    mirror.publish_release("1.1.0")
    with pytest.raises(Unsigned, match=r"acme/decimals@1\.1\.0 is not signed"):
        mirror.owner.publish("acme", [RELEASE], policy=policy(RELEASE, scope="acme"))
    assert mirror.owner.publish("acme", [RELEASE]).changes == ("acme/decimals@1.1.0 is new",)


def test_endless_metadata_is_not_read_to_its_end(mirror: Mirror) -> None:
    with open(mirror.root / "tuf/timestamp.json", "ab") as file:
        file.truncate(2**33)
    with pytest.raises(MixAndMatch):
        mirror.pull()


def test_a_root_that_is_none_is_not_pinned(mirror: Mirror, tmp_path: Path) -> None:
    for name in ("timestamp.json", "1.targets.json"):
        with pytest.raises(SignatureInvalid, match="is no root of signed metadata"):
            pin_root("file:///elsewhere", mirror.root / "tuf" / name)
    document = json.loads((mirror.root / "tuf/1.root.json").read_bytes())
    document["signed"]["roles"]["root"]["threshold"] = 1
    (tmp_path / "weaker.json").write_text(json.dumps(document))
    with pytest.raises(SignatureInvalid, match="is no root of signed metadata"):
        pin_root("file:///elsewhere", tmp_path / "weaker.json")
    with pytest.raises(MissingFile, match="there is no root"):
        pin_root("file:///elsewhere", tmp_path / "none.json")


def test_what_cannot_be_kept_is_not_promised(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has signed metadata already"):
        mirror.owner.init(ROOT, threshold=2)
    with pytest.raises(TrustPolicyError, match="2 of 1 keys of bob cannot sign"):
        mirror.owner.delegate("bob", [MALLORY.public], ROOT, threshold=2)
    push(write_adapter(tmp_path / "x"), "acme/x@1.0.0", to=str(tmp_path / "bare"))
    bare = Statements(DirectoryStore(tmp_path / "bare"), ONLINE)
    with pytest.raises(MissingFile, match="has no signed metadata"):
        bare.refresh()
    with pytest.raises(TrustPolicyError, match="3 of 2 root keys cannot sign"):
        bare.init(ROOT, threshold=3)


def test_without_the_extra_a_pinned_store_is_refused(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match="python-tuf is not installed") as caught:
        require_extra()
    assert caught.value.fix == "pip install 'edgelora[tuf]'"
    with pytest.raises(DependencyMissing):
        mirror.pull()


def test_readers_follow_a_root_whose_keys_change(mirror: Mirror, old: Path) -> None:
    carol, gateway = ed25519("carol"), ed25519("second gateway")
    owner = Statements(mirror.store, gateway)
    owner.rotate([ROOT[0].public, carol.public], [*ROOT, carol], threshold=2)
    assert mirror.pull() == "acme/decimals@1.1.0"
    mirror.owner = owner
    mirror.publish_release("1.2.0")
    mirror.list_releases()
    assert mirror.pull() == "acme/decimals@1.2.0"
    with pytest.raises(SignatureUntrusted):
        Statements(mirror.store, ONLINE).refresh()
    with pytest.raises(SignatureUntrusted, match="the metadata of targets"):
        owner.delegate("bob", [RELEASE.public], ROOT)
    shutil.rmtree(state_folder(mirror.store.address))
    mirror.trust()
    assert mirror.pull() == "acme/decimals@1.2.0", "a reader who knows the first root only follows too"


@pytest.mark.parametrize("signers", [[MALLORY], ROOT[:1], [ROOT[0], MALLORY], ROOT], ids=len)
def test_a_root_is_replaced_by_its_own_keys_only(mirror: Mirror, signers: list) -> None:  # type: ignore[type-arg]
    before = sorted(path.name for path in (mirror.root / "tuf").iterdir())
    with pytest.raises(SignatureUntrusted, match="nothing is changed"):
        mirror.owner.rotate([MALLORY.public, RELEASE.public], signers, threshold=2)
    assert sorted(path.name for path in (mirror.root / "tuf").iterdir()) == before
    assert mirror.pull() == "acme/decimals@1.0.0"


def test_a_root_that_was_forged_into_the_mirror_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    """Whoever can write into the mirror makes a root of their own, with the next number."""
    forged = Statements(mirror.store, MALLORY)
    shutil.move(mirror.root / "tuf", tmp_path / "true")
    forged.init([MALLORY], threshold=1)
    forged.rotate([MALLORY.public], [MALLORY], threshold=1)
    shutil.copy(mirror.root / "tuf/2.root.json", tmp_path / "true/2.root.json")
    shutil.rmtree(mirror.root / "tuf")
    shutil.move(tmp_path / "true", mirror.root / "tuf")
    with pytest.raises(SignatureUntrusted, match="not signed by enough of the keys"):
        mirror.pull()
