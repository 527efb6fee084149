"""``edgelora cache``: what was fetched from remote stores and is kept on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from edgelora_cli.commands import Group, yes_flag
from edgelora_cli.console import confirm, emit, note, table, warn

if TYPE_CHECKING:
    from edgelora.transfer import CacheEntry

_SIZES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def size_bytes(text: str) -> int:
    """Bytes, from 2GB or 500MB."""
    return _quantity(text, _SIZES, "write a size like 2GB or 500MB")


def age_s(text: str) -> int:
    """Seconds, from 30d or 12h."""
    return _quantity(text, _AGES, "write an age like 30d or 12h")


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing."
)


@click.group(cls=Group, short_help="See and prune what was fetched from remote stores.")
def cache() -> None:
    """See and prune what was fetched from remote stores.

    Files are kept by their digest and shared by all processes of this user. A pulled adapter has copies of
    its own. Deleting an entry only costs a download.
    """


@cache.command(
    "list",
    examples="""
    edgelora cache list
    edgelora cache list --json
    """,
)
def list_command() -> None:
    """List the files in the cache, the one used last first."""
    from edgelora.transfer import list_cache

    entries = list_cache()
    emit(_document(entries), _text(entries) if entries else "the cache is empty")


@cache.command(
    examples="""
    edgelora cache remove acme/decimals
    edgelora cache remove acme/decimals@1.0.0 9f86d081884c --yes
    edgelora cache remove --all
    """
)
@click.argument("names", nargs=-1, metavar="[NS/NAME[@VERSION]|DIGEST]...")
@click.option("--all", "everything", is_flag=True, help="Empty the cache.")
@dry_run_option
@yes_flag
def remove(names: tuple[str, ...], everything: bool, dry_run: bool) -> None:
    """Delete the files of adapters, or those with these digests, from the cache; pulled adapters stay."""
    from edgelora.transfer import cached_files, list_cache

    if bool(names) == everything:
        raise click.UsageError("name what to remove, or pass --all")
    _delete(list_cache() if everything else cached_files(names), dry_run=dry_run)


@cache.command(
    examples="""
    edgelora cache prune --older-than 30d
    edgelora cache prune --max-size 2GB --dry-run
    """
)
@click.option("--older-than", type=age_s, metavar="AGE", help="Delete what was not used for so long: 30d.")
@click.option(
    "--max-size", type=size_bytes, metavar="SIZE", help="Then what was used longest ago, down to: 2GB."
)
@dry_run_option
@yes_flag
def prune(older_than: int | None, max_size: int | None, dry_run: bool) -> None:
    """Delete what was not used for long, or until the cache has a size."""
    from edgelora.transfer import prunable

    if older_than is None and max_size is None:
        raise click.UsageError("pass --older-than, --max-size, or both")
    _delete(prunable(older_than_s=older_than, max_bytes=max_size), dry_run=dry_run)


@cache.command(
    examples="""
    edgelora cache verify
    """
)
def verify() -> None:
    """Hash every file in the cache again and drop what is damaged."""
    from edgelora.transfer import verify_cache

    check = verify_cache()
    for sha256 in check.dropped:
        warn(f"{sha256} was damaged and is dropped")
    emit(asdict(check), f"{check.intact} files intact, {len(check.dropped)} damaged and dropped")


def _delete(entries: Sequence[CacheEntry], *, dry_run: bool) -> None:
    from edgelora.transfer import remove_cached

    if entries and not dry_run:
        note(_text(entries))
        confirm(f"Delete {len(entries)} files from the cache?")
        remove_cached(entries)
    state = "would be deleted" if dry_run else "deleted"
    freed = sum(entry.size_bytes for entry in entries)
    emit(
        _document(entries) | {"deleted": not dry_run, "freed_bytes": freed},
        f"{len(entries)} files {state}, {freed:,} bytes freed",
    )


def _document(entries: Sequence[CacheEntry]) -> dict[str, Any]:
    size = sum(entry.size_bytes for entry in entries)
    return {"files": [asdict(entry) for entry in entries], "bytes": size}


def _text(entries: Sequence[CacheEntry]) -> str:
    rows = [
        (
            entry.sha256[:12],
            f"{entry.size_bytes:,}",
            datetime.fromtimestamp(entry.used_at, UTC).strftime("%Y-%m-%d %H:%M"),
            entry.used_by[0] if entry.used_by else "",
        )
        for entry in entries
    ]
    total = sum(entry.size_bytes for entry in entries)
    header = ("digest", "bytes", "last used (UTC)", "of")
    return f"{table(header, rows)}\n{len(entries)} files, {total:,} bytes"


def _quantity(text: str, units: dict[str, int], form: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text.lower())
    if not match or match[2] not in units:
        raise click.BadParameter(f"{text!r} is not understood; {form}")
    return int(float(match[1]) * units[match[2]])
