"""What this implementation says about a vector of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgelora.bundles import check_bundle
from edgelora.conformance.foreign import Verdict
from edgelora.conformance.signature_vectors import read_signed_release
from edgelora.errors import DataError, DigestMismatch, EdgeloraError, ReferenceFormError
from edgelora.manifest import KNOWN_FEATURES, FileEntry, check_paths, read_manifest, tree_digest
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.base_match import check_base
from edgelora.manifest.canonical_json import canonical_json
from edgelora.manifest.requirements import InstalledPlugin, check_plugins
from edgelora.manifest.tensor_digest import tensors_digest
from edgelora.manifest.tensors import read_header, summary_of
from edgelora.store.versions import parse_version
from edgelora.verify import check

OWN_FEATURES = KNOWN_FEATURES


def own_reader(kind: str, path: Path) -> Verdict:
    """Read one vector as edgelora does.

    Raises:
        KeyError: Nothing here reads this kind; see `READERS`.
        DataError: What is there is no vector of this kind at all.
    """
    read = READERS[kind]
    try:
        read(path)
    except EdgeloraError as error:
        return Verdict(False, error.id, error.problem)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is no vector of the kind {kind}: {type(error).__name__}: {error}",
            fix="look at a vector of this kind: each kind has a form of its own (spec/README.md)",
        ) from error
    return Verdict(True)


def _read_paths(path: Path) -> None:
    paths = json.loads(path.read_bytes())
    if not isinstance(paths, list):
        raise TypeError("it holds no array of paths")
    check_paths(paths)


def _read_versions(path: Path) -> None:
    lower, higher = (parse_version(text) for text in json.loads(path.read_bytes()))
    if not lower.precedence < higher.precedence:
        raise ReferenceFormError(f"{higher} is not higher than {lower}", fix="write the lower one first")


def _read_base(path: Path) -> None:
    manifest = check(path / "adapter")
    check_base(manifest.base, identify_base(path / "base"), "base")


def _read_plugins(path: Path) -> None:
    installed = json.loads((path / "installed.json").read_bytes())
    check_plugins(read_manifest(path), {name: InstalledPlugin(**each) for name, each in installed.items()})


def _read_digest(path: Path) -> None:
    given = json.loads(path.read_bytes())
    expected = {name: given[name] for name in ("digest", "count", "bytes", "canonical") if name in given}
    actual = _DIGESTS[given["of"]](path.parent, given)
    if actual != expected:
        raise DigestMismatch(f"{path.name}: {actual}, not {expected}", fix="compute it as layout.md says")


def _tree(_: Path, given: dict[str, Any]) -> dict[str, Any]:
    files = [FileEntry(**entry, media_type="text/plain", role="other") for entry in given["files"]]
    return {"digest": tree_digest(files)}


def _tensors(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    return {"digest": tensors_digest(folder / name for name in given["files"])}


def _keys(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    summary = summary_of([read_header(folder / name) for name in given["files"]])
    return {"count": summary.count, "bytes": summary.bytes, "digest": summary.keys_digest}


def _canonical(_: Path, given: dict[str, Any]) -> dict[str, Any]:
    return {"canonical": canonical_json(json.loads(given["json"])).decode()}


_DIGESTS: dict[str, Callable[[Path, dict[str, Any]], dict[str, Any]]] = {
    "tree": _tree,
    "tensors": _tensors,
    "keys": _keys,
    "canonical": _canonical,
}

READERS: dict[str, Callable[[Path], object]] = {
    "manifests": read_manifest,
    "weights": read_header,
    "directories": check,
    "bases": _read_base,
    "plugins": _read_plugins,
    "paths": _read_paths,
    "versions": _read_versions,
    "digests": _read_digest,
    "signatures": read_signed_release,
    "bundles": check_bundle,
}
"""By kind: a function that returns for a vector it accepts, and raises an ``EdgeloraError`` for others."""
