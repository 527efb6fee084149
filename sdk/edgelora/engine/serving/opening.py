"""From references to a base with several adapters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from edgelora.engine.adapter_base import base_of, identified, plan_over
from edgelora.engine.base import load_base, load_tokenizer, locate_base
from edgelora.engine.inject import plain_linears
from edgelora.engine.linears import freeze
from edgelora.engine.serving.adapter_set import AdapterSet
from edgelora.engine.serving.base import ServedBase
from edgelora.errors import PlanError
from edgelora.layers.generate import read_head_once
from edgelora.manifest import Base
from edgelora.plan import Plan
from edgelora.prepared import prepared_base
from edgelora.registry import Registry
from edgelora.signing import check_trusted
from edgelora.transfer import locate_adapter


def load_adapters(
    references: Mapping[str, str],
    registry: Registry | None = None,
    *,
    tasks: Mapping[str, str | None] = MappingProxyType({}),
    base: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device | None = None,
) -> AdapterSet:
    """Load a base once, in the form the first adapter was trained over, and put the adapters beside it.

    Args:
        references: Adapter directories, pulled adapters or references into a store, by the name to call each
            by; at least one.
        registry: The installed plugins; where left out they are imported once an adapter may be trusted.
        tasks: By name, of adapters that compute by task: which one each answers.
        base: As in `edgelora.engine.apply.load_adapted`, and so are the rest.
        revision: Of ``base``, where that is a Hub id.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: Where to load; the first GPU, or the CPU, when left out.

    Raises:
        PlanError: No adapter is named.
        EdgeloraError: What `edgelora.engine.apply.load_adapted` and `AdapterSet.add` raise.
    """
    if not references:
        raise PlanError("no adapter is named", fix="name one, or open the base alone: open_base(plan)")
    manifest = check_trusted(locate_adapter(next(iter(references.values()))))
    place = base_of(manifest, base, revision)
    registry = registry or Registry.discover()
    plan = plan_over(manifest, place, prepared_base(place), registry, dtype)
    adapters = _open(plan, registry, device, manifest.base)
    for name, reference in references.items():
        adapters.add(name, reference, task=tasks.get(name))
    return adapters


def open_base(plan: Plan, registry: Registry, device: torch.device | None = None) -> AdapterSet:
    """The base of a plan, quantized as the plan says, and no adapter yet.

    Args:
        plan: Names the base, the quantizer and the modules to skip; the rest of it is not looked at.
        registry: The installed plugins.
        device: Where to load; the first GPU, or the CPU, when left out.

    Raises:
        ModelError: The base cannot be loaded, or changed while it was.
    """
    return _open(plan, registry, device, None)


def _open(plan: Plan, registry: Registry, device: torch.device | None, wanted: Base | None) -> AdapterSet:
    """`open_base`, refused where it is another base than ``wanted``."""
    place = locate_base(plan.recipe.base, plan.recipe.revision)
    with identified(place, wanted) as identity:
        model, tokenizer = load_base(plan, device).eval(), load_tokenizer(place)
    read_head_once(model)  # for good: its generate is called by others too
    linears = {name: freeze(linear) for name, linear in plain_linears(model).items()}
    record = prepared_base(place)
    served = ServedBase(model, tokenizer, plan, place, identity, record, linears)
    return AdapterSet(served, registry)
