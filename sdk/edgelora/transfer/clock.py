"""What time it is for the dates that releases state: the system's clock, never behind what signers wrote.

Of each namespace the latest date in a manifest that its trusted keys signed is remembered, so that a clock
that is set back brings no expired release back. A date ahead of the system's clock moves nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import CreatedInFuture, EdgeloraError
from edgelora.files import atomic_write, exclusive_lock
from edgelora.locations import home

MOST_AHEAD = timedelta(days=1)
"""Clocks of honest machines differ by less."""


def current_time(namespace: str) -> datetime:
    """This moment, or the last one that was noted for a namespace if the clock was set back behind it."""
    return max(system_time(), _noted(namespace))


def note_time(namespace: str, moment: str) -> None:
    """Remember a moment from a manifest that trusted keys signed; one in the future is not believed."""
    path = _path(namespace)
    with exclusive_lock(path.with_suffix(".lock")):
        if _noted(namespace) < parse_moment(moment) <= system_time() + MOST_AHEAD:
            atomic_write(path, f"{moment}\n".encode())


def refuse_future(created_at: str, now: datetime, where: str) -> None:
    """Refuse a signed release that says it was made more than a day from now.

    Args:
        created_at: As its manifest says.
        now: By the system's clock.
        where: How errors name the release.

    Raises:
        CreatedInFuture: It does.
    """
    if parse_moment(created_at) > now + MOST_AHEAD:
        raise CreatedInFuture(
            f"{where} was made at {created_at}, and the clock of this machine says {now:%Y-%m-%dT%H:%M:%SZ}",
            fix="set the clock of this machine; if it is right, ask the publisher for a release with its "
            "true date, or name this one by its digest",
        )


def clock_hint(namespace: str) -> str:
    """For the end of a fix: where the time comes from, if not from the system."""
    if _noted(namespace) <= system_time():
        return ""
    return f"; the time is that of a signed release: if the clock is right, rm {_path(namespace)}"


def parse_moment(text: str) -> datetime:
    """A moment as manifests write it."""
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")


def system_time() -> datetime:
    """This moment by the system's clock, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def _noted(namespace: str) -> datetime:
    path = _path(namespace)
    try:
        return parse_moment(read_regular(path.parent, path.name, limit=64).decode("ascii").strip())
    except (EdgeloraError, OSError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


def _path(namespace: str) -> Path:
    return home() / "state" / "clocks" / f"{namespace}.time"
