"""The PEFT directory: ``adapter_config.json`` and ``adapter_model.safetensors``, written without PEFT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from edgelora.engine.linears import LINEARS
from edgelora.engine.published import PeftForm
from edgelora.layers import FrozenLinear
from edgelora.manifest.lora_shapes import PEFT_CONFIG_FILE, PLAIN_LORA_FILE
from edgelora.plan import Plan

CONFIG_NAME = PEFT_CONFIG_FILE
WEIGHTS_NAME = PLAIN_LORA_FILE
_PREFIX = "base_model.model."


def peft_config(form: PeftForm, model: nn.Module, plan: Plan, base: str) -> dict[str, Any]:
    """The contents of ``adapter_config.json``.

    Every scaling is spelled as alpha / rank, rsLoRA's too: converters that know no other rule read it right.
    Other types than LoRA have no scaling, and get what all types have.

    Args:
        form: The adapter as PEFT holds it.
        model: The model its layers are in.
        plan: Of the run; its dropout is recorded.
        base: Name of the base model.
    """
    rank = Counter(form.ranks.values()).most_common(1)[0][0]
    config = {
        "peft_type": form.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": plan.recipe.revision,
        "inference_mode": True,
        "r": rank,
        "fan_in_fan_out": _is_transposed(form.ranks, model),
        "target_modules": _targets(form.ranks, model),
        "rank_pattern": {site: value for site, value in form.ranks.items() if value != rank},
        **form.settings,
    }
    return config | (_scaling(form, plan) if form.peft_type == "LORA" else {})


def _scaling(form: PeftForm, plan: Plan) -> dict[str, Any]:
    alphas = {site: _number(alpha) for site, alpha in form.alphas.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "lora_alpha": alpha,
        "lora_dropout": plan.parts["adapter"].options.model_dump().get("dropout", 0.0),
        "use_rslora": False,
        "bias": "none",
        "alpha_pattern": {site: value for site, value in alphas.items() if value != alpha},
    }


def to_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `PeftForm` by their names in PEFT's file."""
    return {f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}


def from_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of PEFT's file by the names that layers have for them: ``"<site>.lora_A"``."""
    return {name.removeprefix(_PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}


def _targets(sites: Iterable[str], model: nn.Module) -> list[str]:
    """Kinds (``q_proj``) where these name exactly the adapted sites, else full names."""
    names = sorted(sites)
    kinds = {name.rpartition(".")[2] for name in names}
    adapted = {id(model.get_submodule(name)) for name in names}
    inside = {id(part) for name in names for part in model.get_submodule(name).modules()}
    named_alike = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in kinds and id(module) not in adapted and id(module) not in inside
    ]
    others = [
        module
        for module in named_alike
        if isinstance(module, (*LINEARS, nn.Embedding)) or hasattr(module, "lora_A")
    ]
    return names if others else sorted(kinds)


def _is_transposed(sites: Iterable[str], model: nn.Module) -> bool:
    """Whether the model stores adapted weights as (in, out); PEFT then turns its product, not its factors."""
    parts = (part for site in sites for part in model.get_submodule(site).modules())
    return any(isinstance(part, FrozenLinear) and part.fan_in_fan_out for part in parts)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
