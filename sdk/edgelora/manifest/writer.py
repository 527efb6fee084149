"""From a ``Manifest`` to the bytes that get signed: the same manifest gives the same bytes everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edgelora.errors import ManifestError
from edgelora.manifest.fields import Wire
from edgelora.manifest.models import SPEC_VERSION, Manifest
from edgelora.manifest.reader import parse_manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """UTF-8 JSON with sorted keys, two spaces of indent and one newline at the end.

    Unknown members of a newer minor version are written back as they were read. In a manifest of this
    version they are a mistake of the writer, and refused.

    Raises:
        ManifestError: A member is unknown, the license is no SPDX expression, or the result would not be
            readable.
        EdgeloraError: Whatever else `parse_manifest` says about the result.
    """
    if manifest.spec_version == SPEC_VERSION:
        _refuse_unknown(manifest)
    _refuse_other_license(manifest.license)
    document = manifest.model_dump(mode="json", by_alias=True)
    try:
        text = json.dumps(document, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
        data = f"{text}\n".encode()
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"the manifest cannot be written: {error}", fix="use plain text, integers and decimal strings"
        ) from error
    parse_manifest(data, "the manifest to be written")
    return data


def _refuse_unknown(manifest: Manifest) -> None:
    unknown = next(_unknown_members(manifest, ""), None)
    if unknown:
        raise ManifestError(
            f"{unknown} is not a member of manifest {SPEC_VERSION}",
            fix="correct its name, or put it into ext under a name such as 'x-acme.example/line'",
        )


def _refuse_other_license(expression: str) -> None:
    # Only here: a list of licenses grows, so readers look at the form alone.
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonicalize_license_expression(expression)
    except InvalidLicenseExpression as error:
        raise ManifestError(
            f"the license {expression!r} is no SPDX expression: {error}",
            fix="name a license of spdx.org/licenses, such as 'Apache-2.0', or your own: 'LicenseRef-<name>'",
        ) from error


def _unknown_members(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, Wire):
        yield from (f"{place}{name}" for name in value.model_extra or {})
        for name, field in type(value).model_fields.items():
            yield from _unknown_members(getattr(value, name), f"{place}{field.alias or name}.")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _unknown_members(item, f"{place}{index}.")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown_members(item, f"{place}{key}.")
