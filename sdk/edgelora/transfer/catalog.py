"""What there is: adapters on this machine, adapters in a store, by name or by what their manifests say."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import AdapterNotFound, EdgeloraError, ReferenceFormError
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from edgelora.store import (
    Reference,
    Store,
    is_folder_path,
    latest_version,
    open_store,
    parse_reference,
)
from edgelora.transfer.naming import check_identity, telling_of_folder
from edgelora.transfer.pushing import store_named
from edgelora.transfer.shelf import (
    manifest_digest,
    place_of,
    pulled_folders,
    pulled_versions,
    remove_folder,
    shelf,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """One adapter as lists and searches show it."""

    reference: str
    """``ns/name@version``."""
    versions: tuple[str, ...]
    """All that there are, the lowest first."""
    place: str
    """The folder, or the address of the store."""
    manifest_digest: str = ""
    derivatives: tuple[str, ...] = ()
    base: str = ""
    languages: tuple[str, ...] = ()
    license: str = ""
    size_bytes: int = 0
    created_at: str = ""
    yanked: dict[str, str] = field(default_factory=dict)
    """Versions their publisher withdrew, with the reasons; unknown for adapters on this machine."""
    problem: str | None = None
    """Why nothing else is known: the manifest cannot be read."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What is no longer there."""

    reference: str
    place: str


def list_adapters() -> list[Listing]:
    """Adapters pulled to this machine."""
    listings = []
    for folder in pulled_folders():
        name = "/".join(folder.parts[-3:-1]) + f"@{folder.name}" if shelf() in folder.parents else folder.name
        try:
            data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, str(folder / MANIFEST_NAME))
        except EdgeloraError as error:
            listings.append(Listing(name, (), str(folder), problem=error.problem))
            continue
        identity = manifest.identity
        versions = pulled_versions(identity.namespace, identity.name) or [identity.version]
        listings.append(_listing(manifest, data, versions, str(folder)))
    return listings


def list_published(source: str | None = None) -> list[Listing]:
    """The latest version of every adapter in a store; one that cannot be read is listed with its problem.

    Versions that were yanked are passed over, unless there are no others.
    """
    store = open_store(source)
    return [_published(store, adapter) for adapter in store.list_adapters()]


def search(
    text: str = "",
    source: str | None = None,
    *,
    derivative: str | None = None,
    base: str | None = None,
    language: str | None = None,
    license: str | None = None,
) -> list[Listing]:
    """Adapters of a store that match everything given; capitals do not matter.

    Args:
        text: Each of its words occurs in the name, a derivative, the base, a language or the license.
        source: A store's name or address.
        derivative: The name of a derivative.
        base: A part of the base's name.
        language: A BCP 47 tag; ``en`` also finds ``en-GB``.
        license: An SPDX identifier in the license's expression.
    """
    return [
        found
        for found in list_published(source)
        if _has_words(found, text)
        and (derivative is None or derivative.lower() in _lower(found.derivatives))
        and (base is None or base.lower() in found.base.lower())
        and (language is None or any(_speaks(tag, language) for tag in found.languages))
        and (license is None or license.lower() in re.split(r"[\s()]+", found.license.lower()))
    ]


def find_manifest(adapter: str, source: str | None = None) -> Manifest:
    """The manifest of an adapter folder, of a pulled adapter, or of one in a store; no file is fetched.

    Raises:
        ReferenceFormError: ``source`` and the reference name two stores.
    """
    if source is None and is_folder_path(adapter):
        folder = Path(adapter).expanduser()
        return parse_manifest(read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES), str(folder))
    with telling_of_folder(adapter):
        reference = parse_reference(adapter)
        named = store_named(reference, source)
        if named is None:
            pulled = find_pulled(reference)
            if pulled:
                return find_manifest(str(pulled))
        store = open_store(named)
        pinned = store.resolve(reference).reference
        return parse_manifest(store.read_manifest(pinned), f"the manifest of {pinned}")


def find_pulled(reference: Reference) -> Path | None:
    """The folder of a pulled adapter on the shelf; without a version, the latest that was pulled.

    Raises:
        DigestMismatch: What lies there is another adapter.
    """
    place = _find_place(reference)
    if place is None:
        return None
    try:
        data = read_regular(place, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
        identity = parse_manifest(data, str(place / MANIFEST_NAME)).identity
    except (EdgeloraError, OSError):
        # Whoever uses it verifies it, and says what is wrong with it.
        return place
    check_identity(reference.at(place.name), identity, place)
    return place


def _find_place(reference: Reference) -> Path | None:
    versions = pulled_versions(reference.namespace, reference.name)
    if reference.digest:
        places = (place_of(reference.at(version)) for version in versions)
        return next((place for place in places if manifest_digest(place) == reference.digest), None)
    version = reference.version or latest_version(versions)
    return place_of(reference.at(version)) if version in versions and version else None


def address_named(reference: str, source: str | None = None) -> str | None:
    """The address of the store that ``source`` or the reference names; None where neither does.

    Raises:
        ReferenceFormError: They name two stores.
    """
    named = store_named(parse_reference(reference), source)
    return None if named is None else open_store(named).address


def remove(reference: str, source: str | None = None) -> Removed:
    """Remove a version from the store that ``source`` or the reference names; without one, a pulled adapter.

    Raises:
        AdapterNotFound: It is not there.
        ReferenceFormError: Several versions were pulled, and the reference names none; or ``source`` and the
            reference name two stores.
    """
    wanted = parse_reference(reference)
    named = store_named(wanted, source)
    if named is not None:
        store = open_store(named)
        return Removed(str(store.remove(wanted).reference), store.address)
    return _remove_pulled(wanted)


def _remove_pulled(wanted: Reference) -> Removed:
    versions = pulled_versions(wanted.namespace, wanted.name)
    folder = _find_place(wanted)
    if folder is None:
        listed = list_adapters()
        for listing in listed:
            if (
                listing.reference.startswith(f"{wanted.adapter}@")
                and shelf() not in Path(listing.place).parents
            ):
                raise AdapterNotFound(
                    f"{listing.reference} was pulled into a folder of your own, {listing.place}",
                    fix=f"delete that folder yourself: rm -r {shlex.quote(listing.place)}",
                )
        known = sorted({listing.reference for listing in listed})
        raise AdapterNotFound(
            f"{wanted} was not pulled to this machine",
            fix=f"choose from {', '.join(known[:8])}"
            if known
            else "nothing was pulled, so there is nothing to do",
        )
    if len(versions) > 1 and not (wanted.version or wanted.digest):
        raise ReferenceFormError(
            f"{wanted} was pulled in {len(versions)} versions",
            fix=f"name one of {', '.join(str(wanted.at(version)) for version in versions)}",
        )
    remove_folder(folder)
    return Removed(str(wanted.at(folder.name)), str(folder))


def _published(store: Store, adapter: str) -> Listing:
    reference = parse_reference(adapter)
    versions = store.versions(reference.namespace, reference.name)
    yanked = store.yanked(reference.namespace, reference.name)
    offered = [version for version in versions if version not in yanked]
    pinned = reference.at(latest_version(offered or versions) or "main")
    try:
        data = store.read_manifest(pinned)
        listing = _listing(parse_manifest(data, str(pinned)), data, versions, store.address)
        return replace(listing, yanked=yanked)
    except EdgeloraError as error:
        return Listing(str(pinned), tuple(versions), store.address, problem=error.problem)


def _listing(manifest: Manifest, data: bytes, versions: list[str], place: str) -> Listing:
    identity = manifest.identity
    return Listing(
        reference=f"{identity.namespace}/{identity.name}@{identity.version}",
        versions=tuple(versions),
        place=place,
        manifest_digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        derivatives=tuple(dict.fromkeys(component.derivative.name for component in manifest.components)),
        base=manifest.base.repo,
        languages=manifest.languages or (),
        license=manifest.license,
        size_bytes=sum(entry.size for entry in manifest.files),
        created_at=identity.created_at,
    )


def _has_words(found: Listing, text: str) -> bool:
    everything = [found.reference, *found.derivatives, found.base, *found.languages, found.license]
    return all(word in " ".join(_lower(everything)) for word in text.lower().split())


def _speaks(tag: str, language: str) -> bool:
    return f"{tag.lower()}-".startswith(f"{language.lower()}-")


def _lower(words: tuple[str, ...] | list[str]) -> list[str]:
    return [word.lower() for word in words]
