"""What a store says when it does not hold what was asked for, or holds something else already."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from edgelora.errors import AdapterNotFound, ReferenceFormError, VersionExists
from edgelora.store.reference import Reference
from edgelora.store.versions import parse_version, sort_versions

_SHOWN = 8


def no_adapter(reference: Reference, address: str, known: Sequence[str]) -> AdapterNotFound:
    """No such adapter: the nearest names, or some of what there is."""
    near = difflib.get_close_matches(reference.adapter, known, n=3, cutoff=0.6)
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    elif known:
        fix = f"the store holds {_some(known)}"
    else:
        fix = "the store is empty: push an adapter first, or name another store with --from"
    return AdapterNotFound(f"{address} holds no adapter {reference.adapter}", fix=fix)


def no_version(reference: Reference, address: str, versions: Sequence[str]) -> AdapterNotFound:
    """No such version: those there are, the highest first."""
    wanted = reference.version or reference.digest
    return AdapterNotFound(
        f"{address} holds {reference.adapter}, but not {wanted}",
        fix=f"choose from {_some(list(reversed(versions)))}",
    )


def unpinned(reference: Reference, what: str, versions: Sequence[str]) -> ReferenceFormError:
    """No version is named where something is done to one: how to name the highest."""
    return ReferenceFormError(
        f"{reference} does not say which version to {what}",
        fix=f"write {reference.at(versions[-1] if versions else '1.0.0')}",
    )


def version_exists(
    reference: Reference, address: str, versions: Sequence[str], *, removed: Sequence[str] = ()
) -> VersionExists:
    """The version is taken, even if it was removed: the one to publish instead."""
    after = parse_version(sort_versions({*versions, *removed})[-1]).after
    also = "" if reference.version in versions else ", also when it was removed"
    return VersionExists(
        f"{reference.adapter} {reference.version} was published to {address} with other content, "
        f"and a version never changes{also}",
        fix=f"publish it as {reference.at(str(after))}",
    )


def refuse_case_clash(reference: Reference, address: str, taken: Iterable[str]) -> None:
    """Refuse a new version that differs from one that is taken in capitals alone.

    Raises:
        VersionExists: It does. Each is the name of a file, and some file systems would keep one of the two.
    """
    version = str(reference.version)
    for other in taken:
        if other != version and other.lower() == version.lower():
            raise VersionExists(
                f"{reference.adapter} {version} differs in capitals alone from {other} in {address}, and "
                "not every file system can tell them apart",
                fix=f"publish it as {reference.at(str(parse_version(version).after))}",
            )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
