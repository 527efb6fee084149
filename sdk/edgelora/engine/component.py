"""What a manifest says of a trained adapter's layers: its component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import HasPast
from edgelora.engine.published import PeftForm
from edgelora.manifest import Component, DerivativeRef, PartRef, PluginRef, decimal_text
from edgelora.manifest.components import Dtype
from edgelora.plan import Plan


def peft_shape(form: PeftForm, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` of an adapter in PEFT's form."""
    shape: dict[str, Any] = {
        "r": config["r"],
        "rankPattern": config["rank_pattern"],
        "targetModules": sorted(form.ranks),
    }
    settings = dict(form.settings)
    if form.peft_type != "LORA":
        settings["peft_type"] = form.peft_type
    else:
        shape |= {
            "alpha": _alpha(config["lora_alpha"]),
            "alphaPattern": {site: _alpha(alpha) for site, alpha in config["alpha_pattern"].items()},
            "useRslora": False,
        }
    if form.nested:
        shape["nested"] = True
    return shape | ({"peftSettings": settings} if settings else {})


def native_shape(
    layers: Mapping[str, nn.Module], plan: Plan, rank_pattern: Mapping[str, int]
) -> dict[str, Any]:
    """``config`` of an adapter in its own form."""
    options = plan.parts["adapter"].options.model_dump(mode="json")
    ranks = {
        site: [len(factors.A) for factors in layer.past_factors()]
        for site, layer in layers.items()
        if isinstance(layer, HasPast)
    }
    kept = {site: each for site, each in ranks.items() if each}
    shape: dict[str, Any] = {"targetModules": sorted(layers), "taskNames": list(plan.tasks)}
    if "rank" in options:
        shape |= {"r": options["rank"], "rankPattern": dict(rank_pattern)}
    if "alpha" in options:
        shape["alpha"] = _alpha(options["alpha"])
    return shape | ({"pastRanks": kept} if kept else {})


def whole_shape(plan: Plan, peft_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """``config`` of an adapter of the model as a whole; all it is rebuilt from are its part's options."""
    settings = {"peftSettings": {"peft_type": peft_config["peft_type"]}} if peft_config else {}
    return {"taskNames": list(plan.tasks), **settings}


def dtype_of(tensors: Mapping[str, Tensor]) -> Dtype:
    """The dtype of most of an adapter's numbers."""
    elements: Counter[Dtype] = Counter()
    for tensor in tensors.values():
        elements["BF16" if tensor.dtype == torch.bfloat16 else "F32"] += tensor.numel()
    return elements.most_common(1)[0][0]


def component_of(plan: Plan, shape: dict[str, Any], files: list[str], dtype: Dtype) -> Component:
    """The one component of an adapter that a plan made."""
    origin = plan.origin
    if plan.past:
        shape = {**shape, "pastWeights": [digest for past in plan.past for digest in past.weights]}
    return Component(
        id="main",
        derivative=DerivativeRef(
            name=plan.derivative,
            paper=origin.derivative.paper or None,
            plugin=PluginRef(name=origin.plugin, distribution=origin.distribution),
        ),
        parts={
            kind: PartRef(
                name=part.name,
                plugin=part.plugin,
                distribution=part.distribution,
                version=part.version,
                options=part.options.model_dump(mode="json"),
            )
            for kind, part in plan.parts.items()
        },
        config=shape,
        files=tuple(files),
        dtype=dtype,
    )


def _alpha(alpha: float) -> int | str:
    return int(alpha) if float(alpha).is_integer() else decimal_text(alpha)
