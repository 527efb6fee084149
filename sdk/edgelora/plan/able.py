"""What abilities mean to a user: which installed adapters have one, and what to do without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from edgelora.capabilities import FoldsIntoModel, LowRank, Mergeable
from edgelora.manifest import Component
from edgelora.manifest.lora_shapes import PLAIN_LORA_FILE
from edgelora.registry import Registry
from edgelora.registry.lookup import names_of
from edgelora.stock import PRODUCTS_OF_PEFT

FOLDED = frozenset({LowRank.__name__, Mergeable.__name__, FoldsIntoModel.__name__})
"""Each of them is enough for ``edgelora merge``."""


def adapter_that_is(ability: str, registry: Registry | None = None) -> str:
    """How a fix asks for an ability: ``"an adapter that is HasPast (clora)"``.

    Args:
        ability: A name of `edgelora.capabilities.ABILITIES`.
        registry: The installed plugins; they are discovered where it is left out.
    """
    adapters = (registry or Registry.discover()).parts("adapter")
    uses = Counter(name for found in adapters for name in names_of(found))
    names = [
        next(name for name in names_of(found) if uses[name] == 1)
        for found in adapters
        if ability in found.part.abilities and not found.part.unusable
    ]
    return f"an adapter that is {ability} ({', '.join(names) or 'none is installed'})"


def is_folded(abilities: Collection[str]) -> bool:
    """Whether ``edgelora merge`` writes a model that computes exactly what an adapter of these computes."""
    return not FOLDED.isdisjoint(abilities)


def abilities_of(component: Component, registry: Registry) -> Collection[str] | None:
    """Names of what the adapter of a component can do; None where its plugin is missing."""
    part = component.parts["adapter"]
    name = f"{part.plugin}:{part.name}"
    found = (each for each in registry.parts("adapter") if each.qualified_name == name)
    return next((each.part.abilities for each in found), None)


def into_own(reference: str, component: Component) -> str | None:
    """How an adapter of PEFT is made one of edgelora's own; None where that cannot be."""
    kind = (component.config.get("peftSettings") or {}).get("peft_type")
    if kind not in PRODUCTS_OF_PEFT or PLAIN_LORA_FILE not in component.files:
        return None
    return (
        f"take it in as an adapter of edgelora's own: edgelora export peft {reference} --out DIR, "
        "then edgelora adopt DIR"
    )


def have_factors(reference: str, component: Component, registry: Registry) -> str:
    """What to do about an adapter without low-rank factors, for someone who needs them."""
    if product := into_own(reference, component):
        return product
    return f"train again with {adapter_that_is(LowRank.__name__, registry)}"
