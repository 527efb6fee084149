"""Over which base a stock tool computes what an adapter was trained to compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelora.capabilities import StockQuantization
from edgelora.engine.exporting.source import Source
from edgelora.engine.required_parts import required_part
from edgelora.errors import ExportUnsupported
from edgelora.manifest import Component
from edgelora.plan.part import plan_part
from edgelora.registry import Registry


def stock_quantization(source: Source, registry: Registry) -> Mapping[str, Any]:
    """Fields of transformers' ``BitsAndBytesConfig`` that make the adapter's base.

    Empty for the base as it is. Torch is imported only where the base was quantized.

    Raises:
        ExportUnsupported: transformers cannot make that base.
        PluginMissing: The quantizer's plugin is not installed.
    """
    component = source.component
    if not is_over_quantized(component, registry):
        return {}
    part = component.parts["quantizer"]
    quantizer = plan_part(required_part(component, "quantizer", registry), part.options).build()
    config = quantizer.quantization_config() if isinstance(quantizer, StockQuantization) else None
    if config is None:
        raise ExportUnsupported(
            f"adapter {source.name} was fitted to {source.manifest.base.repo} as the quantizer {part.name!r} "
            "makes it with its options, and transformers makes no such base: over any other it computes "
            "something else",
            fix=f"fold it into that base: edgelora merge --adapter {source.folder} --out DIR",
        )
    skipped = component.config.get("skipModules", [])
    # Named by hand, they take the place of those that transformers leaves out by itself.
    return {**config, "llm_int8_skip_modules": [*skipped, "lm_head"]} if config and skipped else config


def is_over_quantized(component: Component, registry: Registry) -> bool:
    """Whether an adapter was trained over weights that a quantizer had changed.

    Raises:
        PluginMissing: The quantizer's plugin is not installed, so that nobody can tell.
    """
    if "quantizer" not in component.parts:
        return False
    return not required_part(component, "quantizer", registry).part.keeps_weights
