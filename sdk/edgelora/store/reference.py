"""How an adapter is named: ``ns/name``, ``ns/name@1.2.0``, ``store:ns/name``, ``file:///srv/mirror#ns/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from edgelora.errors import ReferenceFormError
from edgelora.store.versions import is_version

MAX_NAME_LENGTH = 64

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_STORE_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}|[0-9a-f]{40}")
_VERSION_MISSPELT = re.compile(r"[vV]?[0-9]+\..*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEMES = ("file", "http", "https", "hf")
_FORMS = "write ns/name, ns/name@1.2.0, ns/name@sha256:<64 hex>, store:ns/name or file:///srv/mirror#ns/name"


@dataclass(frozen=True, slots=True)
class Reference:
    """One adapter, or one version of it, in a store."""

    store: str | None
    """A configured store's name, or an address such as ``file:///srv/mirror``. None is the default store."""
    namespace: str
    name: str
    version: str | None = None
    """A semantic version or the name of a branch. None is the latest release."""
    digest: str | None = None
    """``sha256:`` and 64 hex digits: the digest of the manifest's bytes."""

    @property
    def adapter(self) -> str:
        """``ns/name``."""
        return f"{self.namespace}/{self.name}"

    def at(self, version: str) -> Reference:
        """The same adapter in the same store, at this version."""
        return replace(self, version=version, digest=None)

    def __str__(self) -> str:
        at = self.version or self.digest
        text = self.adapter + (f"@{at}" if at else "")
        if self.store is None:
            return text
        if self.store == "hf://":
            return self.store + text
        return f"{self.store}#{text}" if "://" in self.store else f"{self.store}:{text}"


def parse_reference(text: str) -> Reference:
    """Read a reference.

    Raises:
        ReferenceFormError: It has another form, or a name in it is not allowed.
    """
    store, adapter = _split_store(text)
    path, at_sign, at = adapter.partition("@")
    namespace, slash, name = path.partition("/")
    if not slash or not namespace or not name or (at_sign and not at):
        raise ReferenceFormError(f"{text[:200]!r} is not a reference to an adapter", fix=_FORMS)
    check_name(namespace, what="a namespace")
    check_name(name, what="the name of an adapter")
    if at.startswith("sha256:"):
        if not _DIGEST.fullmatch(at):
            raise ReferenceFormError(
                f"{at[:80]!r} is not a digest", fix="write sha256: and 64 lower-case hex digits"
            )
        return Reference(store, namespace, name, digest=at)
    if at:
        _check_version(at)
    return Reference(store, namespace, name, version=at or None)


def is_folder_path(text: str) -> bool:
    """Whether a user's text means a folder and no reference, whatever lies in the working directory.

    A path starts with ``./``, ``/`` or ``~``, or has other than two parts: ``runs/first/adapter``.
    """
    if text.startswith((".", "/", "~")):
        return True
    return not {":", "@"} & set(text) and (text.count("/") != 1 or text.endswith("/"))


def folder_text(folder: Path) -> str:
    """A folder as it is written where a reference could stand."""
    text = str(folder)
    return text if is_folder_path(text) else f"./{text}"


def check_name(name: str, *, what: str) -> None:
    """Refuse what could not be a directory, a repository and an address on every system.

    Raises:
        ReferenceFormError: The name is not allowed, with the rule it breaks.
    """
    if len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name):
        if _DEVICE.fullmatch(name):
            raise ReferenceFormError(
                f"{name!r} cannot be {what}: Windows reserves it for a device", fix="choose another name"
            )
        if not name.endswith((".git", ".lock")):
            return
        raise ReferenceFormError(f"{name!r} cannot be {what}: git reserves its ending", fix="leave it off")
    raise ReferenceFormError(
        f"{name[:100]!r} cannot be {what}",
        fix=f"use at most {MAX_NAME_LENGTH} lower-case letters and digits, joined by single '.', '_' or '-'",
    )


def check_store_name(name: str) -> None:
    """Refuse a store name that could be mistaken for an address or an adapter.

    Raises:
        ReferenceFormError: The name is not allowed.
    """
    if len(name) > MAX_NAME_LENGTH or not _STORE_NAME.fullmatch(name) or name in _SCHEMES:
        raise ReferenceFormError(
            f"{name[:100]!r} cannot be the name of a store",
            fix="use lower-case letters and digits, joined by single '_' or '-', and none of "
            + ", ".join(_SCHEMES),
        )


def _split_store(text: str) -> tuple[str | None, str]:
    if text.startswith("hf://"):
        return "hf://", text.removeprefix("hf://")
    if "://" in text:
        address, hash_sign, adapter = text.rpartition("#")
        if not hash_sign or address.partition("://")[0] not in _SCHEMES:
            raise ReferenceFormError(
                f"{text[:200]!r} does not say which adapter of the store is meant",
                fix="write the store's address, '#', then ns/name: file:///srv/mirror#ns/name",
            )
        return address, adapter
    store, colon, adapter = text.partition(":")
    if not colon or "/" in store:
        return None, text
    check_store_name(store)
    return store, adapter


def _check_version(text: str) -> None:
    if is_version(text) or (_TAG.fullmatch(text) and not _VERSION_MISSPELT.fullmatch(text)):
        return
    raise ReferenceFormError(
        f"{text[:80]!r} is neither a version nor a digest",
        fix="write three numbers without leading zeros or a v, such as 1.2.0, or sha256:<64 hex>",
    )
