"""``index.json`` of a bundle: what is in it, as one strict and canonical JSON document."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from edgelora.bundles.archive import MAX_MEMBER_BYTES, refused
from edgelora.errors import EdgeloraError, SpecVersionUnsupported
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, check_paths, is_unlisted
from edgelora.manifest.canonical_json import canonical_json
from edgelora.manifest.fields import Digest, SemanticVersion, Sha256, Text, Wire
from edgelora.manifest.models import Name
from edgelora.manifest.pickles import reason_to_refuse
from edgelora.manifest.strict_json import NotStrict, parse
from edgelora.store import Reference, StoredFile, check_name
from edgelora.store.yanks import check_reason

MAX_INDEX_BYTES = 4 * 2**20
BUNDLE_VERSION = "1.0"
MAX_UNLISTED_BYTES = 2 * 2**20
"""Of one file that a manifest does not list: a signature."""

_MAX_BLOBS = 32768
_MAX_ADAPTERS = 4096
_MAX_BASES = 64


def _is_reason(text: str) -> str:
    try:
        check_reason(text)
    except EdgeloraError as error:
        raise ValueError(error.problem) from error
    return text


Size = Annotated[int, Field(strict=True, ge=0, le=MAX_MEMBER_BYTES)]


class Blob(Wire):
    """The bytes of one file, or of several that are alike."""

    sha256: Sha256
    size: Size


class NamedBlob(Blob):
    """A file, by its path."""

    path: Text

    @property
    def stored(self) -> StoredFile:
        """As a store knows it."""
        return StoredFile(self.path, self.size, self.sha256)


class BundledAdapter(Wire):
    """One version of an adapter. Its manifest lists its files; those are blobs of the bundle."""

    namespace: Name
    name: Name
    version: SemanticVersion
    manifest: Blob
    unlisted: tuple[NamedBlob, ...] = ()
    """Files that a manifest does not list: signatures."""
    yanked: Annotated[Text, AfterValidator(_is_reason)] | None = None
    """Why its publisher withdrew the version."""

    @property
    def reference(self) -> Reference:
        """``ns/name@version``."""
        return Reference(None, self.namespace, self.name, self.version)

    @model_validator(mode="after")
    def _is_publishable(self) -> Self:
        try:
            check_name(self.namespace, what="a namespace")
            check_name(self.name, what="the name of an adapter")
        except EdgeloraError as error:
            raise ValueError(error.problem) from error
        if self.manifest.size > MAX_MANIFEST_BYTES:
            raise ValueError(f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        if any(file.size > MAX_UNLISTED_BYTES for file in self.unlisted):
            raise ValueError(f"a file that no manifest lists is larger than {MAX_UNLISTED_BYTES} bytes")
        paths = [file.path for file in self.unlisted]
        check_paths(paths)
        if paths != sorted(paths) or not all(is_unlisted(path) and path != MANIFEST_NAME for path in paths):
            raise ValueError("unlisted names files that a manifest lists, or is not sorted")
        return self


class BundledBase(Wire):
    """A base model, to be found by the digest of its weights."""

    repo: Text
    """Its name for people."""
    tensors_digest: Digest
    files: Annotated[tuple[NamedBlob, ...], Field(min_length=1, max_length=4096)]

    @field_validator("repo")
    @classmethod
    def _can_be_shown(cls, repo: str) -> str:
        if not repo.isprintable() or len(repo) > 255:
            raise ValueError("a base's name is one printable line of at most 255 characters")
        return repo

    @field_validator("files")
    @classmethod
    def _are_plain(cls, files: tuple[NamedBlob, ...]) -> tuple[NamedBlob, ...]:
        paths = [file.path for file in files]
        check_paths(paths)
        if paths != sorted(paths) or any("/" in path for path in paths):
            raise ValueError("the files of a base lie in one folder and are sorted by path")
        refusals = filter(None, (reason_to_refuse(path, b"") for path in paths))
        if reason := next(refusals, None):
            raise ValueError(reason)
        return files


class Index(Wire):
    """What a bundle holds."""

    bundle_version: Annotated[str, Field(pattern=r"^1\.(0|[1-9][0-9]{0,3})$")] = BUNDLE_VERSION
    adapters: Annotated[tuple[BundledAdapter, ...], Field(max_length=_MAX_ADAPTERS)]
    bases: Annotated[tuple[BundledBase, ...], Field(max_length=_MAX_BASES)] = ()
    blobs: Annotated[tuple[Blob, ...], Field(min_length=1, max_length=_MAX_BLOBS)]
    """The members that follow, in this order: sorted by digest."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        _refuse_disorder([blob.sha256 for blob in self.blobs], "blobs")
        _refuse_disorder(
            [adapter.reference.adapter + "@" + adapter.version for adapter in self.adapters], "adapters"
        )
        _refuse_disorder([base.tensors_digest for base in self.bases], "bases")
        sizes = {blob.sha256: blob.size for blob in self.blobs}
        for named in self._named():
            if sizes.get(named.sha256) != named.size:
                raise ValueError(f"the blob {named.sha256} is named and not listed, or has another size")
        return self

    def _named(self) -> Iterable[Blob]:
        for adapter in self.adapters:
            yield adapter.manifest
            yield from adapter.unlisted
        for base in self.bases:
            yield from base.files

    def encode(self) -> bytes:
        """The bytes of the member."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def parse_index(data: bytes) -> Index:
    """Read the bytes of an index. Members it does not know are kept and otherwise ignored.

    Raises:
        BundleError: It is no strict JSON in canonical form, or a member is missing or wrong.
        SpecVersionUnsupported: It is of another major version.
    """
    try:
        document = parse(data)
        if not isinstance(document, dict) or canonical_json(document) != data:
            raise refused("its index is not an object in canonical form")
        if "bundleVersion" not in document:
            raise refused("its index has no bundleVersion")
        _refuse_other_major(document["bundleVersion"])
        return Index.model_validate(document, context="file", by_alias=True, by_name=False)
    except NotStrict as error:
        raise refused(f"its index is refused: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "it"
        raise refused(
            f"its index: {ascii(place)[:100]}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _refuse_other_major(version: Any) -> None:
    if isinstance(version, str) and version.partition(".")[0].isdecimal() and not version.startswith("1."):
        raise SpecVersionUnsupported(
            f"the bundle is of version {version[:20]}, and this edgelora reads version 1",
            fix="install an edgelora that reads it, or ask for a bundle of version 1",
        )


def _refuse_disorder(keys: list[str], what: str) -> None:
    if any(first >= second for first, second in pairwise(keys)):
        raise ValueError(f"{what} are not sorted, or one is listed twice")
