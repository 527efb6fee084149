"""The base of an adapter: where it lies, whether it is the one, and the plan that rebuilds both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora.engine.base import locate_base
from edgelora.engine.manifest_plan import plan_of
from edgelora.known_bases import place_of_base
from edgelora.manifest import Base, Manifest
from edgelora.manifest.base_files import check_base_unchanged, state_of_base
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.base_match import check_base
from edgelora.plan import Plan
from edgelora.plan.prepared import check_adapter_fits
from edgelora.prepared import PreparedBase
from edgelora.registry import Registry


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
    quantizer = manifest.components[0].parts.get("quantizer")
    return place_of_base(manifest.base, quantizer, locate_base, fix="name its folder: --base FOLDER")


def plan_over(
    manifest: Manifest, place: Path, record: PreparedBase | None, registry: Registry, dtype: str
) -> Plan:
    """The plan that rebuilds an adapter over the base in ``place``, whose identity is not compared here.

    Args:
        manifest: Of the adapter.
        place: The folder of the base.
        record: Of the base, where it is a prepared one.
        registry: The installed plugins.
        dtype: ``auto``, ``float32`` or ``bfloat16``.

    Raises:
        WrongBase: The base is prepared with another quantizer.
        PluginMissing: A part of the adapter is not installed.
    """
    if record is not None:
        for component in manifest.components:
            check_adapter_fits(component, record, str(place), registry)
    return plan_of(manifest, registry, base=str(place), dtype=dtype)


@contextmanager
def identified(place: Path, wanted: Base | None) -> Iterator[Base]:
    """Identify the base in a folder, and see to it that it is that base which is loaded inside.

    Args:
        place: Its folder.
        wanted: What an adapter was trained on; None takes whatever is there.

    Raises:
        WrongBase: It is another base than ``wanted``.
        ModelError: It cannot be read, or changed meanwhile.
    """
    state = state_of_base(place)
    identity = identify_base(place)
    if wanted is not None:
        check_base(wanted, identity, str(place))
    yield identity
    check_base_unchanged(place, state)
