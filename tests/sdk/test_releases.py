"""An old release is never taken for the latest, also after the adapter was removed and pulled again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from clocks import moment, noted_before
from crashes import die_at_every_step
from signers import ed25519, pinned, policy

from edgelora.errors import (
    ChannelRefused,
    CreatedInFuture,
    Equivocation,
    Expired,
    KeyRevoked,
    Rollback,
    StoreError,
)
from edgelora.locations import home
from edgelora.manifest import read_manifest
from edgelora.signing import Revocation, Rule, TrustPolicy, give_identity, sign
from edgelora.store import DirectoryStore, parse_reference
from edgelora.transfer import pull, push, release_as, remove, yank
from edgelora.transfer.clock import current_time, note_time

ONE, TWO = ed25519("one"), ed25519("two")
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


def test_another_channel_is_taken_only_when_the_user_says_so(tmp_path: Path) -> None:
    """A mirror that offers an old release of another channel cannot pass it off as the latest."""
    mirror, other = str(tmp_path / "mirror"), str(tmp_path / "other")
    push(released(tmp_path / "new", "2.0.0", 2), "alice/decimals", to=mirror)
    push(released(tmp_path / "old", "1.0.0", 1, channel="beta"), "alice/decimals", to=other)
    pull("alice/decimals", mirror, policy=POLICY)
    for reference in ("alice/decimals", "alice/decimals@main"):
        with pytest.raises(ChannelRefused, match="none of the channel stable, which is followed") as caught:
            pull(reference, other, policy=POLICY)
    assert caught.value.fix.endswith("edgelora pull alice/decimals --channel beta")
    assert pull("alice/decimals@1.0.0", other, policy=POLICY).reference == "alice/decimals@1.0.0"
    with pytest.raises(ChannelRefused):
        pull("alice/decimals", other, policy=POLICY)
    assert pull("alice/decimals", other, channel="beta", policy=POLICY).reference == "alice/decimals@1.0.0"
    assert pull("alice/decimals", other, policy=POLICY).reused, "the channel is followed from then on"
    with pytest.raises(ChannelRefused, match="none of the channel beta"):
        pull("alice/decimals", mirror, policy=POLICY)
    with pytest.raises(ChannelRefused):
        pull("alice/decimals@2.0.0", mirror, channel="beta", policy=POLICY)


def test_a_channel_that_was_refused_is_not_followed(tmp_path: Path) -> None:
    push(released(tmp_path / "a", "1.0.0", 1, channel="beta"), "alice/decimals", to=str(tmp_path / "mirror"))
    with pytest.raises(ChannelRefused, match="the trust policy takes stable"):
        pull(
            "alice/decimals",
            str(tmp_path / "mirror"),
            channel="beta",
            policy=policy(ONE, channels=("stable",)),
        )
    with pytest.raises(ChannelRefused, match="none of the channel stable"):
        pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    only_beta = policy(ONE, channels=("beta",))
    assert pull("alice/decimals", str(tmp_path / "mirror"), policy=only_beta).reference


def test_the_latest_release_of_a_channel_is_found_beside_those_of_others(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    for number, (version, channel) in enumerate(
        (("1.0.0", "stable"), ("1.1.0", "beta"), ("1.2.0", "stable"), ("2.0.0", "beta")), start=1
    ):
        folder = released(tmp_path / version, version, number, channel=channel)
        push(folder, "alice/decimals", to=mirror)
    assert pull("alice/decimals", mirror, policy=POLICY).reference == "alice/decimals@1.2.0"
    assert pull("alice/decimals", mirror, channel="beta").reference == "alice/decimals@2.0.0"
    assert pull("alice/decimals", mirror, channel="stable").reference == "alice/decimals@1.2.0"


def test_a_fix_of_an_old_version_does_not_make_the_latest_one_old(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    push(released(tmp_path / "0", "1.0.0", 1), "alice/decimals", to=mirror)
    push(released(tmp_path / "1", "2.0.0", 2), "alice/decimals", to=mirror)
    push(released(tmp_path / "2", "1.0.1", 3), "alice/decimals", to=mirror)
    pull("alice/decimals@1.0.1", mirror, policy=POLICY)
    assert pull("alice/decimals", mirror, policy=POLICY).reference == "alice/decimals@2.0.0"
    pull("alice/decimals@1.0.1", mirror, policy=POLICY)
    assert pull("alice/decimals", mirror, policy=POLICY).reference == "alice/decimals@2.0.0"


def test_what_was_pulled_by_name_is_not_followed_by_an_older_latest(old_mirror: Path, tmp_path: Path) -> None:
    pull("alice/decimals@1.1.0", str(tmp_path / "mirror"), policy=POLICY)
    with pytest.raises(Rollback, match=r"release 2 \(1\.1\.0\) was seen before"):
        pull("alice/decimals", str(old_mirror), policy=POLICY)


def test_a_pull_that_dies_lets_no_older_release_pass_afterwards(old_mirror: Path, tmp_path: Path) -> None:
    """Once anything of a release is there to be used, what came before it is old."""
    target, mirror = tmp_path / "got", str(tmp_path / "mirror")
    staging = tmp_path / ".got.pulling"
    seen = set()

    def restore() -> None:
        for folder in (home(), target, staging):
            shutil.rmtree(folder, ignore_errors=True)

    for _ in die_at_every_step(lambda: pull("alice/decimals", mirror, target, policy=POLICY), restore):
        is_begun = staging.exists() or target.exists()
        shutil.rmtree(target, ignore_errors=True)
        try:
            pull("alice/decimals", str(old_mirror), target, policy=POLICY)
            seen.add((is_begun, "taken"))
        except Rollback:
            seen.add((is_begun, "refused"))
    assert (True, "taken") not in seen
    assert (True, "refused") in seen and (False, "taken") in seen


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
    later = moment(days=2)
    push(released(tmp_path / "a", "1.0.0", 1, expires=later), "alice/decimals", to=str(tmp_path / "mirror"))
    assert pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY).remarks == ()


def test_a_clock_that_was_set_back_does_not_bring_an_expired_release_back(tmp_path: Path) -> None:
    """What trusted signers wrote tells the time too: a release made in 2040 was not seen in 2026."""
    mirror = str(tmp_path / "mirror")
    push(released(tmp_path / "a", "1.0.0", 1, expires=moment(days=2)), "alice/decimals", to=mirror)
    noted_before("alice", "2040-01-01T00:00:00Z")
    assert current_time("alice").year == 2040
    with pytest.raises(Expired) as caught:
        pull("alice/decimals", mirror, policy=POLICY)
    remedy = caught.value.fix.rpartition("rm ")[2]
    assert "the time is that of a signed release" in caught.value.fix
    Path(remedy).unlink()
    assert pull("alice/decimals", mirror, policy=POLICY).remarks == ()


def test_the_clock_only_goes_forward_and_never_past_tomorrow() -> None:
    soon, sooner = moment(hours=20), moment(hours=10)
    for text in (soon, sooner, moment(days=2), "9998-01-01T00:00:00Z"):
        note_time("alice", text)
    assert current_time("alice").strftime("%Y-%m-%dT%H:%M:%SZ") == soon
    assert current_time("bob") < current_time("alice"), "a namespace's signers tell its own time only"


def dated(folder: Path, created_at: str, *keys: object, name: str = "alice/decimals") -> Path:
    """A release that says it was made at some moment."""
    write_adapter(folder, name=name)
    identity = read_manifest(folder).identity.model_copy(update={"created_at": created_at})
    give_identity(folder, identity)
    if keys:
        sign(folder, keys)  # type: ignore[arg-type]
    return folder


def test_a_signer_who_dates_a_release_in_the_future_moves_nobodys_clock(tmp_path: Path) -> None:
    """Otherwise one key of one namespace makes everybody's releases expired, for ever."""
    mirror = str(tmp_path / "mirror")
    rules = TrustPolicy(
        keys=pinned(ONE, TWO),
        namespaces={
            "alice": Rule(keys=(ONE.public.fingerprint,)),
            "bob": Rule(keys=(TWO.public.fingerprint,)),
        },
    )
    digest = push(
        dated(tmp_path / "a", "9998-01-01T00:00:00Z", ONE), "alice/decimals", to=mirror
    ).manifest_digest
    write_adapter(tmp_path / "b", name="bob/x")
    release_as(tmp_path / "b", "bob/x@1.0.0", expires=moment(days=400))
    sign(tmp_path / "b", [TWO])
    push(tmp_path / "b", "bob/x", to=mirror)
    for reference in ("alice/decimals", "alice/decimals@1.0.0"):
        with pytest.raises(
            CreatedInFuture, match="was made at 9998-01-01T00:00:00Z, and the clock"
        ) as caught:
            pull(reference, mirror, policy=rules)
    assert (caught.value.id, caught.value.exit_code) == ("created-in-future", 6)
    assert pull(f"alice/decimals@{digest}", mirror, policy=rules).folder.is_dir()
    assert pull("bob/x", mirror, policy=rules).remarks == ()
    assert max(current_time("alice"), current_time("bob")).year < 9998


def test_only_trusted_signatures_move_the_clock(tmp_path: Path) -> None:
    soon = moment(hours=12)
    folder = dated(tmp_path / "a", soon)
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"))
    assert current_time("alice").strftime("%Y-%m-%dT%H:%M:%SZ") < soon
    sign(folder, [ONE])
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    pull("alice/decimals", str(tmp_path / "mirror"), policy=POLICY)
    assert current_time("alice").strftime("%Y-%m-%dT%H:%M:%SZ") == soon


def test_fewer_signatures_than_the_threshold_number_nothing(tmp_path: Path) -> None:
    """Where signatures are not required, one of two keys must not set the number of everybody's releases."""
    lax = policy(ONE, TWO, threshold=2, require_signature=False)
    mirror = str(tmp_path / "mirror")
    push(released(tmp_path / "a", "1.0.0", 2**53 - 1), "alice/decimals", to=mirror)
    pull("alice/decimals", mirror, policy=lax)
    folder = released(tmp_path / "b", "1.0.1", 2)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=str(tmp_path / "other"))
    assert pull("alice/decimals", str(tmp_path / "other"), policy=lax).remarks == ()


def test_one_trusted_and_one_revoked_key_of_two_are_not_enough(tmp_path: Path) -> None:
    folder = released(tmp_path / "a", "1.0.0", 1)
    sign(folder, [TWO])
    push(folder, "alice/decimals", to=str(tmp_path / "mirror"))
    lax = policy(ONE, TWO, threshold=2, require_signature=False)
    revoked = lax.model_copy(update={"revoked": {TWO.public.fingerprint: Revocation()}})
    with pytest.raises(KeyRevoked):
        pull("alice/decimals", str(tmp_path / "mirror"), policy=revoked)


def test_the_store_behind_a_link_is_the_store_that_was_seen(tmp_path: Path) -> None:
    for number in range(2):
        push(
            write_adapter(tmp_path / f"a{number}", seed=number),
            f"acme/x@1.{number}.0",
            to=str(tmp_path / "m"),
        )
    pull("acme/x", str(tmp_path / "m"))
    shutil.rmtree(tmp_path / "m")
    push(write_adapter(tmp_path / "b", seed=5), "acme/x@1.0.0", to=str(tmp_path / "m"))
    (tmp_path / "link").symlink_to(tmp_path / "m")
    with pytest.raises(Rollback):
        pull("acme/x", str(tmp_path / "link"))
