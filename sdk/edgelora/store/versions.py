"""Semantic Versioning 2.0.0, strictly: what a version is, which of two is higher, which is the latest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgelora.errors import ReferenceFormError

MAX_LENGTH = 128

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE_WORD = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PATTERN = re.compile(
    rf"(?P<release>{_NUMBER}\.{_NUMBER}\.{_NUMBER})"
    rf"(?:-(?P<prerelease>{_PRERELEASE_WORD}(?:\.{_PRERELEASE_WORD})*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


@dataclass(frozen=True, slots=True)
class Version:
    """A parsed version. Build metadata is kept, and says nothing about which version is higher."""

    release: tuple[int, int, int]
    prerelease: tuple[str, ...] = ()
    build: str = ""

    @property
    def is_prerelease(self) -> bool:
        """Whether it comes before the release it names: ``1.0.0-rc.1`` before ``1.0.0``."""
        return bool(self.prerelease)

    @property
    def precedence(self) -> tuple[object, ...]:
        """Sort key by the rules of semver.org, item 11: numbers before words, fewer fields first."""
        words = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in self.prerelease)
        return (*self.release, not self.prerelease, words)

    @property
    def after(self) -> Version:
        """The next version to publish: the release of a pre-release, otherwise one patch higher."""
        major, minor, patch = self.release
        return Version((major, minor, patch if self.prerelease else patch + 1))

    def __str__(self) -> str:
        prerelease = "-" + ".".join(self.prerelease) if self.prerelease else ""
        return ".".join(map(str, self.release)) + prerelease + (f"+{self.build}" if self.build else "")


def is_version(text: str) -> bool:
    """Whether ``text`` is a semantic version, without a leading ``v``."""
    return len(text) <= MAX_LENGTH and _PATTERN.fullmatch(text) is not None


def parse_version(text: str) -> Version:
    """Read a version.

    Raises:
        ReferenceFormError: It is not of the form ``1.2.0``, ``1.2.0-rc.1`` or ``1.2.0+build``.
    """
    match = _PATTERN.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise ReferenceFormError(
            f"{text[:80]!r} is not a semantic version",
            fix="write three numbers without leading zeros or a v, such as 1.2.0 or 1.2.0-rc.1",
        )
    major, minor, patch = (int(number) for number in match["release"].split("."))
    prerelease = tuple(match["prerelease"].split(".")) if match["prerelease"] else ()
    return Version((major, minor, patch), prerelease, match["build"] or "")


def sort_versions(versions: Iterable[str]) -> list[str]:
    """From the lowest to the highest; equal precedence is put in the order of the text."""
    return sorted(versions, key=lambda text: (parse_version(text).precedence, text))


def latest_version(versions: Iterable[str]) -> str | None:
    """The highest release; the highest pre-release only where nothing was released."""
    ordered = sort_versions(versions)
    released = [text for text in ordered if not parse_version(text).is_prerelease]
    candidates = released or ordered
    return candidates[-1] if candidates else None
