"""Where the base of an adapter lies on this machine."""

from __future__ import annotations

from pathlib import Path

from edgelora.engine.base import locate_base
from edgelora.errors import BaseNotFound, OfflineNotCached
from edgelora.known_bases import recall_base
from edgelora.manifest import Manifest


def base_of(manifest: Manifest, given: str | None, revision: str | None = None) -> Path:
    """The folder of an adapter's base; nothing of it is compared yet.

    Args:
        manifest: Of the adapter.
        given: A folder or Hub id that the user named; None takes the one the manifest names, or where a base
            with the same weights was last seen.
        revision: Of ``given``, where that is a Hub id.

    Raises:
        BaseNotFound: It is not on this machine.
    """
    if given is not None:
        return locate_base(given, revision)
    wanted = manifest.base
    try:
        return locate_base(wanted.repo, wanted.revision)
    except (BaseNotFound, OfflineNotCached) as error:
        if remembered := recall_base(wanted, manifest.components[0].parts.get("quantizer")):
            return remembered
        raise BaseNotFound(
            f"the adapter's base {wanted.repo!r} is neither a folder here nor in the Hub's cache",
            fix="name its folder: --base FOLDER",
        ) from error
