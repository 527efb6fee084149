"""Manifest 1.0: the description of one adapter, kept in ``edgelora.json`` and, later, signed.

spec/v1/manifest.md gives the meaning of every member; these models are one implementation of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Set
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgelora.manifest.base import Base
from edgelora.manifest.components import MAX_COMPOSITION_DEPTH, Component, Composition
from edgelora.manifest.fields import (
    Array,
    Count,
    Digest,
    Free,
    Language,
    Moment,
    SemanticVersion,
    Sha256,
    Text,
    Wire,
    Word,
    Words,
)
from edgelora.manifest.paths import check_path, check_paths
from edgelora.manifest.record import (
    DerivedFrom,
    EvaluationEntry,
    Hardware,
    Quantization,
    Runtime,
    Security,
    Task,
    Training,
    Use,
)

MANIFEST_NAME = "edgelora.json"
SIGNATURE_NAME = "edgelora.sig.json"
SPEC_VERSION = "1.0"
DEFAULT_CHANNEL = "stable"
UNPUBLISHED = "local"
"""Namespace of an adapter that was made on this machine and has no name of its own yet."""
SAFETENSORS_TYPE = "application/vnd.safetensors"

_EXTENSION = re.compile(r"x-[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}/[A-Za-z0-9._:/-]{1,128}")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$", max_length=64)]


def is_unlisted(path: str) -> bool:
    """Whether a file of this path stays out of the list: the manifest, signatures, ``.gitattributes``."""
    return path in (MANIFEST_NAME, ".gitattributes") or ("/" not in path and path.startswith("edgelora.sig"))


class Identity(Wire):
    """Which adapter this is, and which release of it."""

    namespace: Name
    name: Name
    version: SemanticVersion
    created_at: Moment
    release_sequence: Count
    """Grows with every release of a channel, so that an old one cannot be passed off as new."""
    channel: Word | None = None
    """Releases that follow each other; absent means ``stable``."""


class FileEntry(Wire):
    """One file of the adapter directory."""

    path: Text
    size: Count
    sha256: Sha256
    media_type: Annotated[str, Field(pattern=r"^[a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]*$")]
    role: Word
    """weights, config, card, head, tokenizer, eval, license, sbom or other."""

    @model_validator(mode="after")
    def _is_allowed(self) -> Self:
        check_path(self.path)
        if is_unlisted(self.path):
            raise ValueError(f"{self.path!r} is never listed")
        if self.role == "weights" and self.media_type != SAFETENSORS_TYPE:
            raise ValueError(f"{self.path!r} has the role weights but is {self.media_type}")
        return self


class TensorsSummary(Wire):
    """All tensors of the adapter's safetensors files."""

    count: Count
    bytes: Count
    keys_digest: Digest


class Manifest(Wire):
    """The description of one adapter."""

    schema_address: Text | None = Field(default=None, alias="$schema")
    """For editors; never fetched."""
    spec_version: Annotated[str, Field(pattern=r"^1\.(0|[1-9][0-9]{0,3})$")] = SPEC_VERSION
    kind: Literal["adapter"] = "adapter"
    requires: Words = ()
    """Features without which a reader must refuse the adapter."""
    identity: Identity
    publisher: Text | None = None
    expires: Moment | None = None
    """After it, the release is not to be fetched any more."""
    base: Base
    components: Annotated[Array[Component], Field(min_length=1)]
    composition: Composition | None = None
    derived_from: Array[DerivedFrom] | None = None
    files: Annotated[Array[FileEntry], Field(min_length=1)]
    tree_digest: Digest
    tensors: TensorsSummary | None = None
    quantization: Quantization | None = None
    tasks: Array[Task] | None = None
    languages: Array[Language] | None = None
    hardware: Hardware | None = None
    runtime: Runtime | None = None
    training: Training | None = None
    evaluation: Array[EvaluationEntry] | None = None
    license: Annotated[str, Field(pattern=r"^[A-Za-z0-9(][A-Za-z0-9.+():/ -]{0,255}$")]
    """An SPDX expression."""
    license_files: Array[Text] | None = None
    use: Use | None = None
    security: Security | None = None
    ext: Free | None = None
    """Extensions, under names such as ``x-acme.example/line``."""

    @field_validator("ext")
    @classmethod
    def _names_its_owner(cls, ext: dict[str, Any] | None) -> dict[str, Any] | None:
        for key in ext or {}:
            if not _EXTENSION.fullmatch(key):
                raise ValueError(f"{key[:200]!r} is not of the form x-<domain>/<name>")
        return ext

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        check_paths(entry.path for entry in self.files)
        paths = {entry.path for entry in self.files}
        _refuse_repeated([component.id for component in self.components], "component id")
        for component in self.components:
            _refuse_dangling(component.files, paths, f"component {component.id!r}", "file")
        _refuse_dangling(self.license_files or (), paths, "licenseFiles", "file")
        _refuse_dangling([task.head for task in self.tasks or () if task.head], paths, "tasks", "file")
        if self.runtime and self.runtime.fallback:
            _refuse_dangling((self.runtime.fallback.file,), paths, "runtime.fallback", "file")
        if self.composition:
            self._check_composition(self.composition)
        return self

    def _check_composition(self, composition: Composition) -> None:
        ids = {component.id for component in self.components}
        if composition.depth() > MAX_COMPOSITION_DEPTH:
            raise ValueError(f"composition is deeper than {MAX_COMPOSITION_DEPTH} levels")
        _refuse_dangling(sorted(composition.component_ids()), ids, "composition", "component")
        for operation in sorted(composition.operations() - {"single"}):
            if f"compose:{operation}" not in self.requires:
                raise ValueError(
                    f"composition uses {operation!r}, so requires must list 'compose:{operation}'"
                )


def _refuse_repeated(names: list[str], what: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"the {what} {repeated[0]!r} occurs twice")


def _refuse_dangling(named: Iterable[str], known: Set[str], where: str, what: str) -> None:
    dangling = [name for name in named if name not in known]
    if dangling:
        raise ValueError(f"{where} names the {what} {dangling[0]!r}, which is not listed")
