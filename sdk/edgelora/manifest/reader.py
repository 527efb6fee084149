"""From the bytes of ``edgelora.json`` to a ``Manifest``, or to an error that says which rule they break."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgelora.errors import (
    DigestMismatch,
    FeatureRequired,
    ManifestError,
    MissingFile,
    PathError,
    SpecVersionUnsupported,
)
from edgelora.manifest.models import MANIFEST_NAME, SPEC_VERSION, Manifest
from edgelora.manifest.strict_json import NotStrict, parse
from edgelora.manifest.tree import tree_digest

MAX_MANIFEST_BYTES = 1024 * 1024
KNOWN_FEATURES = frozenset({"plugin"})
_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")
_FIX = "correct it as spec/v1/manifest.md says, or ask the publisher for a corrected release"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file, or the manifest in a folder.

    Raises:
        MissingFile: There is none.
        EdgeloraError: As `parse_manifest`.
    """
    if path.is_dir():
        path = path / MANIFEST_NAME
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingFile(f"there is no manifest {path}", fix="pass the folder of an adapter") from error
    except OSError as error:
        raise ManifestError(
            f"{path} cannot be read: {error.strerror}", fix="make it a readable file"
        ) from error
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Read the bytes of a manifest. Members it does not know are kept and otherwise ignored.

    Args:
        data: The bytes, as signed.
        where: How errors name the manifest.

    Raises:
        ManifestError: It is no strict JSON, or a member is missing or wrong.
        SpecVersionUnsupported: It is of another major version.
        FeatureRequired: It requires a feature that is not known here.
        PathError: It lists a file name that is not allowed.
        DigestMismatch: ``treeDigest`` is not the digest of its files.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{where} is larger than {MAX_MANIFEST_BYTES} bytes", fix=_FIX)
    try:
        document = parse(data)
    except NotStrict as error:
        raise ManifestError(f"{where} is refused: {error}", fix=_FIX) from error
    if not isinstance(document, dict):
        raise ManifestError(f"{where} holds {_kind(document)}, not an object", fix=_FIX)
    _refuse_other_major(document.get("specVersion"), where)
    _refuse_unknown_features(document.get("requires"), where)
    return _validate(document, where)


def _refuse_other_major(version: Any, where: str) -> None:
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ManifestError(
            f"{where}: specVersion is {ascii(version)[:40]}, not a text such as '1.0'", fix=_FIX
        )
    if version.split(".")[0] != SPEC_VERSION.split(".")[0]:
        raise SpecVersionUnsupported(
            f"{where} is of specification {version}, and this edgelora reads version 1",
            fix="install an edgelora that reads it, or ask for a release of specification 1",
        )


def _refuse_unknown_features(requires: Any, where: str) -> None:
    if requires is None:
        raise ManifestError(f"{where}: requires is missing", fix=_FIX)
    if not isinstance(requires, list) or not all(isinstance(name, str) for name in requires):
        raise ManifestError(f"{where}: requires is not an array of strings", fix=_FIX)
    unknown = [name[:80] for name in requires if name not in KNOWN_FEATURES]
    if unknown:
        raise FeatureRequired(
            f"{where} requires {', '.join(map(ascii, unknown))}, which this edgelora does not know",
            fix="install a newer edgelora, or another release of the adapter",
        )


def _validate(document: dict[str, Any], where: str) -> Manifest:
    if "kind" not in document:
        raise ManifestError(f"{where}: kind is missing", fix=_FIX)
    try:
        manifest = Manifest.model_validate(document, context="file", by_alias=True, by_name=False)
    except ValidationError as error:
        raise ManifestError(f"{where}: {explain(error)}", fix=_FIX) from error
    except PathError as error:
        raise PathError(f"{where}: {error.problem}", fix=error.fix) from error
    actual = tree_digest(manifest.files)
    if actual != manifest.tree_digest:
        raise DigestMismatch(
            f"{where}: treeDigest is {manifest.tree_digest}, and its files give {actual}",
            fix="fetch the adapter again, or ask its publisher: the list of files was changed",
        )
    return manifest


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"]) or "the manifest"
    given = ascii(first["input"])[:80]
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "string_pattern_mismatch":
        return f"{place} is {given}, which is not of the form that this member has"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid array")
    return f"{place}: {message}" + ("" if isinstance(first["input"], dict | list) else f" (got {given})")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "nothing"}
    return names.get(type(value), "a number or a truth value")
