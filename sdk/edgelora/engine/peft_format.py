"""The PEFT directory: ``adapter_config.json`` and ``adapter_model.safetensors``, written without PEFT.

Only adapters whose layers hold nothing but ``lora_A`` and ``lora_B``, and compute scaling · B A with them,
have this form. For these, stock PEFT computes what edgelora computes, on the same base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import Additive, LowRank
from edgelora.engine.inject import adapter_tensors
from edgelora.layers import FrozenLinear, factors_are_exact
from edgelora.plan import Plan

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def has_peft_form(layers: Mapping[str, nn.Module]) -> bool:
    """Whether stock PEFT's LoRA computes exactly what these layers compute."""
    return all(_is_plain_lora(layer) for layer in layers.values())


def _is_plain_lora(layer: nn.Module) -> bool:
    if not (isinstance(layer, LowRank) and isinstance(layer, Additive)):
        return False
    if set(adapter_tensors({"": layer})) != {".lora_A", ".lora_B"}:
        return False
    A, B, _ = layer.factors()
    tensors = layer.state_dict()
    as_stored = torch.equal(A, tensors["lora_A"]) and torch.equal(B, tensors["lora_B"])
    return as_stored and factors_are_exact(layer)


def peft_config(layers: Mapping[str, nn.Module], model: nn.Module, plan: Plan, base: str) -> dict[str, Any]:
    """The contents of ``adapter_config.json``.

    Every scaling is spelled as alpha / rank, rsLoRA's too: converters that know no other rule read it right.

    Args:
        layers: Layers that have the PEFT form.
        model: The model they are in.
        plan: Of the run; its dropout is recorded.
        base: Name of the base model.
    """
    ranks = {site: _factors(layer).A.shape[0] for site, layer in layers.items()}
    alphas = {site: _number(_factors(layer).scaling * ranks[site]) for site, layer in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": plan.recipe.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": plan.parts["adapter"].options.model_dump().get("dropout", 0.0),
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": _targets(layers, model),
        "rank_pattern": {site: value for site, value in ranks.items() if value != rank},
        "alpha_pattern": {site: value for site, value in alphas.items() if value != alpha},
    }


def to_peft(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Tensors by PEFT's names."""
    return {f"{_PREFIX}{name}.weight": tensor for name, tensor in adapter_tensors(layers).items()}


def from_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_peft`: tensors as ``"<site>.<name>"``."""
    return {name.removeprefix(_PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}


def _factors(layer: nn.Module) -> Any:
    assert isinstance(layer, LowRank)  # `has_peft_form` was asked before
    return layer.factors()


def _targets(layers: Mapping[str, nn.Module], model: nn.Module) -> list[str]:
    """Kinds (``q_proj``) where these name exactly the adapted sites, else full names."""
    kinds = {site.rpartition(".")[2] for site in layers}
    adapted = {id(layer) for layer in layers.values()}
    inside = {id(part) for layer in layers.values() for part in layer.modules()}
    named_alike = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in kinds and id(module) not in adapted and id(module) not in inside
    ]
    others = [module for module in named_alike if isinstance(module, nn.Linear | FrozenLinear | nn.Embedding)]
    return sorted(layers) if others else sorted(kinds)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
