"""Over which base a stock tool computes what an adapter was trained to compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelora.capabilities import StockQuantization
from edgelora.engine.exporting.source import Source
from edgelora.engine.required_parts import required_part
from edgelora.errors import ExportUnsupported
from edgelora.manifest import Component
from edgelora.plan.part import plan_part
from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class StockBase:
    """A base as transformers loads it.

    Attributes:
        name: A folder or a repository.
        quantization: Fields of ``BitsAndBytesConfig`` to load it with; empty for the base as it is.
        is_dequantized: Whether its weights are those a quantizer made, written by ``export base``.
    """

    name: str
    quantization: Mapping[str, Any] = field(default_factory=dict)
    is_dequantized: bool = False


def declared_base(source: Source, registry: Registry) -> StockBase:
    """The base that the adapter's manifest names, as transformers makes it by itself.

    Torch is imported only where that base was quantized.

    Raises:
        ExportUnsupported: transformers cannot make it.
        PluginMissing: The quantizer's plugin is not installed.
    """
    component, repo = source.component, source.manifest.base.repo
    if not is_over_quantized(component, registry):
        return StockBase(repo)
    part = component.parts["quantizer"]
    quantizer = plan_part(required_part(component, "quantizer", registry), part.options).build()
    config = quantizer.quantization_config() if isinstance(quantizer, StockQuantization) else None
    if config is None:
        raise ExportUnsupported(
            f"adapter {source.name} was fitted to {repo} as the quantizer {part.name!r} makes it with its "
            "options, and transformers makes no such base: over any other it computes something else",
            fix=f"write that base, and name it: edgelora export base {source.folder} --out BASE, then repeat "
            "with --over BASE",
        )
    skipped = component.config.get("skipModules", [])
    # Named by hand, they take the place of those that transformers leaves out by itself.
    named = {"llm_int8_skip_modules": [*skipped, "lm_head"]} if config and skipped else {}
    return StockBase(repo, {**config, **named})


def is_over_quantized(component: Component, registry: Registry) -> bool:
    """Whether an adapter was trained over weights that a quantizer had changed.

    Raises:
        PluginMissing: The quantizer's plugin is not installed, so that nobody can tell.
    """
    if "quantizer" not in component.parts:
        return False
    return not required_part(component, "quantizer", registry).part.keeps_weights
