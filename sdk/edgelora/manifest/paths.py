"""Which file names an adapter may hold: one validator for manifests, stores, pulls and bundles.

A path is accepted only if it means the same file on Linux, macOS and Windows, in a URL and in an archive.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from edgelora.errors import PathError

MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
MAX_SEGMENTS = 16

_DEVICES = re.compile(r"(?ai)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?")
_FORBIDDEN = {
    "\\": "a backslash",
    ":": "a colon (a drive letter or stream)",
    "%": "a percent sign (an encoded character)",
    "*": "a wildcard",
    "?": "a wildcard",
    '"': "a quotation mark",
    "<": "an angle bracket",
    ">": "an angle bracket",
    "|": "a pipe sign",
}
_INVISIBLE = {
    "Cc": "a control character",
    "Cf": "an invisible or bidirectional character",
    "Cs": "a surrogate",
}
_SEPARATORS = {"Zl", "Zp"}


def check_path(path: str) -> None:
    """Accept a relative path with ``/`` between its segments.

    Raises:
        PathError: It could escape its folder, or mean another file elsewhere; the message names the rule.
    """
    # Strangers write paths: what is longer than any that is allowed is not remembered.
    look = _reason_to_refuse if len(path) <= MAX_PATH_BYTES else _reason_to_refuse.__wrapped__
    reason = look(path)
    if reason:
        raise PathError(
            f"the path {ascii(path)[:200]} is not allowed: {reason}",
            fix="use a relative path of plain names, such as 'heads/first.safetensors'",
        )


def check_paths(paths: Iterable[str]) -> None:
    """Check each path, and that no two of them can be the same file on some file system.

    Raises:
        PathError: A path is not allowed, listed twice, differs from another only in case or Unicode form (or
            their folders do), or names a file where another one needs a folder.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path)
        key = _folded(path)
        if key in seen:
            raise _clash(path, seen[key], "they are the same file where case is ignored")
        seen[key] = path
        for folder in _folders(path):
            other = folders.setdefault(_folded(folder), folder)
            if other != folder:
                raise _clash(path, other, "their folders are the same where case is ignored")
    for folder in sorted(folders.keys() & seen.keys()):
        raise _clash(seen[folder], folders[folder], "the first is a file where the second is a folder")


@lru_cache(maxsize=1024)  # the same few names come again with every adapter
def _reason_to_refuse(path: str) -> str | None:
    if not path:
        return "it is empty"
    for character in path:
        category = unicodedata.category(character)
        if character in _FORBIDDEN:
            return f"it holds {_FORBIDDEN[character]}"
        if category in _INVISIBLE:
            return f"it holds {_INVISIBLE[category]}"
        if category in _SEPARATORS:
            return "it holds a line separator"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "it is absolute"
    if unicodedata.normalize("NFC", path) != path:
        return "it is not in Unicode form NFC"
    segments = path.split("/")
    if len(segments) > MAX_SEGMENTS:
        return f"it is deeper than {MAX_SEGMENTS} segments"
    return next(filter(None, map(_segment_reason, segments)), None)


def _segment_reason(segment: str) -> str | None:
    plain = unicodedata.normalize("NFKC", segment)
    if not segment:
        return "a segment is empty"
    if plain in (".", ".."):
        return "a segment is '.' or '..'"
    if any(character in plain for character in "/\\:"):
        return "it holds a character that some systems read as a separator"
    if segment[-1] in ". " or segment[0] == " ":
        return "a segment starts with a space or ends with a dot or a space"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"a segment is longer than {MAX_SEGMENT_BYTES} bytes"
    if _DEVICES.fullmatch(segment):
        return "a segment is a device name on Windows"
    if plain.casefold() in (".git", "git~1"):
        return "a segment is git's own folder"
    return None


def _folders(path: str) -> list[str]:
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(1, len(steps))]


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _clash(path: str, other: str, reason: str) -> PathError:
    return PathError(
        f"the paths {ascii(path)[:200]} and {ascii(other)[:200]} clash: {reason}",
        fix="rename one of them",
    )
