"""An old release is never taken for the latest, also after the adapter was removed and pulled again."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from signers import ed25519, policy

from edgelora.errors import Equivocation, Expired, Rollback, StoreError
from edgelora.locations import home
from edgelora.manifest import read_manifest
from edgelora.signing import TrustPolicy, sign
from edgelora.store import DirectoryStore, parse_reference
from edgelora.transfer import pull, push, release_as, remove, yank
from edgelora.transfer.releases import current_time, note_time

ONE = ed25519("one")
POLICY = policy(ONE)


def released(folder: Path, version: str, sequence: int, **members: object) -> Path:
    """A signed release of alice/decimals."""
    seed = int(version.replace(".", "")) if "seed" not in members else members.pop("seed")
    write_adapter(folder, version=version, seed=seed)  # type: ignore[arg-type]
    release_as(folder, f"alice/decimals@{version}", sequence=sequence, **members)  # type: ignore[arg-type]
    sign(folder, [ONE])
    return folder


@pytest.fixture
def old_mirror(tmp_path: Path) -> Path:
    """A mirror as it was before the second release."""
    push(released(tmp_path / "1", "1.0.0", 1), "alice/decimals", to=str(tmp_path / "mirror"))
    shutil.copytree(tmp_path / "mirror", tmp_path / "old")
    push(released(tmp_path / "2", "1.1.0", 2), "alice/decimals", to=str(tmp_path / "mirror"))
    return tmp_path / "old"


def test_a_mirror_that_went_back_in_time_is_refused(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    with pytest.raises(
        Rollback,
        match=r"release 1, is offered as the latest of the channel stable, and release 2 \(1\.1\.0\)",
    ) as caught:
        pull("alice/decimals", str(old_mirror), policy=POLICY)
    assert (caught.value.id, caught.value.exit_code) == ("rollback", 6)
    assert caught.value.fix == "name the older version if you want it: alice/decimals@1.0.0"
    with pytest.raises(Rollback):
        pull("alice/decimals@main", str(old_mirror), policy=POLICY)
    shutil.rmtree(tmp_path / "mirror")
    shutil.copytree(old_mirror, tmp_path / "mirror")
    with pytest.raises(Rollback):
        pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)


def test_what_was_seen_is_kept_when_the_adapter_is_removed(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    remove("alice/decimals@1.1.0")
    with pytest.raises(Rollback):
        pull("alice/decimals", str(old_mirror), policy=POLICY)


def test_an_older_version_asked_for_by_name_is_given_and_told(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    by_name = pull("alice/decimals@1.0.0", str(old_mirror), policy=POLICY)
    assert by_name.remarks == ("alice/decimals@1.0.0 is release 1; release 2 (1.1.0) was seen before",)
    store = DirectoryStore(old_mirror)
    snapshot = store.resolve(parse_reference("alice/decimals"))
    assert pull(f"alice/decimals@sha256:{snapshot.manifest.sha256}", str(old_mirror)).remarks
    assert pull(f"alice/decimals@{snapshot.commit}", str(old_mirror)).remarks
    with pytest.raises(Rollback):
        pull("alice/decimals", str(old_mirror), policy=POLICY)


def test_a_refused_pull_is_not_remembered(old_mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="0 of the 1"):
        pull("alice/decimals", str(tmp_path / "mirror"), policy=policy(ed25519("two")))
    assert pull("alice/decimals", str(old_mirror), policy=POLICY).reference == "alice/decimals@1.0.0"


def test_the_same_number_with_other_content_is_refused_even_by_name(tmp_path: Path) -> None:
    push(released(tmp_path / "a", "1.0.0", 1), "alice/decimals", to=str(tmp_path / "mirror"))
    push(released(tmp_path / "b", "1.0.0", 1, seed=7), "alice/decimals", to=str(tmp_path / "other"))
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    for reference in ("alice/decimals", "alice/decimals@1.0.0"):
        with pytest.raises(
            Equivocation, match=r"as release 1 of the channel stable, and that release was 1\.0\.0"
        ) as caught:
            pull(reference, str(tmp_path / "other"), policy=POLICY)
        assert (caught.value.id, caught.value.exit_code) == ("equivocation", 6)


def test_channels_are_counted_apart(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    push(released(tmp_path / "beta", "2.0.0", 9, channel="beta"), "alice/decimals", to=mirror)
    pull("alice/decimals", mirror, policy=POLICY)
    stable = str(tmp_path / "stable")
    push(released(tmp_path / "stable-1", "1.0.0", 1), "alice/decimals", to=stable)
    assert pull("alice/decimals", stable, policy=POLICY).remarks == ()


def test_unsigned_releases_are_counted_by_the_store_that_numbers_them(tmp_path: Path) -> None:
    for name, count in (("busy", 3), ("quiet", 1)):
        for number in range(count):
            folder = write_adapter(tmp_path / f"{name}{number}", seed=number)
            push(folder, f"acme/x@1.{number}.0", to=str(tmp_path / name))
    pull("acme/x", str(tmp_path / "busy"))
    assert pull("acme/x", str(tmp_path / "quiet")).remarks == ()
    shutil.rmtree(tmp_path / "busy")
    shutil.copytree(tmp_path / "quiet", tmp_path / "busy")
    with pytest.raises(Rollback, match="release 3") as caught:
        pull("acme/x", str(tmp_path / "busy"))
    remedy = caught.value.fix.rpartition("rm ")[2]
    Path(remedy).unlink()
    pull("acme/x", str(tmp_path / "busy"))


def test_a_signed_release_is_not_replaced_by_an_older_unsigned_one(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    push(write_adapter(tmp_path / "bare", version="1.0.0", seed=5), "alice/decimals", to=str(tmp_path / "b"))
    with pytest.raises(Rollback):
        pull("alice/decimals", str(tmp_path / "b"), policy=TrustPolicy())


@pytest.mark.parametrize("signed", [True, False])
def test_a_yank_takes_back_an_unsigned_release_only(tmp_path: Path, signed: bool) -> None:
    """A mirror says itself that a release is withdrawn; where releases are signed, its word is not enough."""
    mirror = str(tmp_path / "mirror")
    for number, version in enumerate(("1.0.0", "1.1.0"), start=1):
        folder = released(tmp_path / version, version, number)
        if not signed:
            (folder / "edgelora.sig.json").unlink()
        push(folder, "alice/decimals", to=mirror)
    rules = POLICY if signed else TrustPolicy()
    pull("alice/decimals", mirror, policy=rules)
    yank("alice/decimals@1.1.0", "wrong", mirror)
    if signed:
        with pytest.raises(Rollback):
            pull("alice/decimals", mirror, policy=rules)
        assert pull("alice/decimals@1.0.0", mirror, policy=rules).remarks
    else:
        assert pull("alice/decimals", mirror, policy=rules).reference == "alice/decimals@1.0.0"


def test_a_memory_that_cannot_be_read_is_no_empty_memory(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    for path in (home() / "state/releases").rglob("*.json"):
        path.write_text("{}")
    with pytest.raises(StoreError, match="nobody can tell which releases were seen"):
        pull("alice/decimals", str(old_mirror), policy=POLICY)


def test_an_expired_release_is_refused_unless_its_digest_or_the_policy_says_otherwise(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    folder = released(tmp_path / "a", "1.0.0", 1, expires="2026-01-01T00:00:00Z")
    digest = push(folder, "alice/decimals", to=mirror).manifest_digest
    for reference in ("alice/decimals", "alice/decimals@1.0.0"):
        with pytest.raises(
            Expired, match=r"alice/decimals@1\.0\.0 expired at 2026-01-01T00:00:00Z"
        ) as caught:
            pull(reference, mirror, policy=POLICY)
        assert (caught.value.id, caught.value.exit_code) == ("expired", 6)
    told = ("alice/decimals@1.0.0 expired at 2026-01-01T00:00:00Z",)
    assert pull(f"alice/decimals@{digest}", mirror, policy=POLICY).remarks == told
    assert pull("alice/decimals", mirror, policy=policy(ONE, ignore_expiry=True)).remarks == told


def test_a_release_that_has_not_expired_is_given(tmp_path: Path) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    push(released(tmp_path / "a", "1.0.0", 1, expires=later), "alice/decimals", to=str(tmp_path / "mirror"))
    assert pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY).remarks == ()


def test_a_clock_that_was_set_back_does_not_bring_an_expired_release_back(tmp_path: Path) -> None:
    """What trusted signers wrote tells the time too: a release made in 2040 was not seen in 2026."""
    expires = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    mirror = str(tmp_path / "mirror")
    push(released(tmp_path / "a", "1.0.0", 1, expires=expires), "alice/decimals", to=mirror)
    note_time("2040-01-01T00:00:00Z")
    assert current_time().year == 2040
    note_time("2030-01-01T00:00:00Z")
    assert current_time().year == 2040
    with pytest.raises(Expired):
        pull("alice/decimals", mirror, policy=POLICY)


def test_only_trusted_signatures_move_the_clock(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    identity = read_manifest(folder).identity.model_copy(update={"created_at": "2099-01-01T00:00:00Z"})
    from edgelora.signing import give_identity

    give_identity(folder, identity)
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"))
    assert current_time().year < 2099
    sign(folder, [ONE])
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    assert current_time().year == 2099
