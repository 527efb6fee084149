"""The configuration of an adapter's base: all that an export needs of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgelora.bases import base_folder
from edgelora.engine.exporting.source import Source
from edgelora.errors import BaseNotFound
from edgelora.known_bases import place_of_base
from edgelora.manifest.base_identity import describe_config
from edgelora.manifest.base_match import check_base
from edgelora.prepared import prepared_base


def find_config_folder(source: Source, given: str | None) -> Path:
    """The folder with the ``config.json`` of an adapter's base; its weights need not be there.

    Raises:
        BaseNotFound: It is nowhere on this machine.
        WrongBase: The configuration is another one.
    """
    wanted = source.manifest.base
    place = (
        _place(given)
        if given is not None
        else place_of_base(
            wanted,
            source.component.parts.get("quantizer"),
            _place,
            fix="name a folder that holds its config.json: --base FOLDER",
        )
    )
    if record := prepared_base(place):
        check_base(wanted, record.source, str(place))
    else:
        digest, semantic = describe_config(place)
        found = wanted.model_copy(update={"config_digest": digest, "config_semantic_digest": semantic})
        check_base(wanted, found, str(place))
    return place


def _place(base: str, revision: str | None = None) -> Path:
    try:
        return base_folder(base)
    except BaseNotFound:
        # What the Hub's cache holds only transformers finds.
        if importlib.util.find_spec("transformers") is None:
            raise
    from edgelora.engine.base import locate_base

    return locate_base(base, revision)
