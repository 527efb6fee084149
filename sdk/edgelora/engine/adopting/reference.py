"""What PEFT computes, written out naively: the weight that each adapted linear acts as.

It is computed from the tensors as they were stored, on another way than the conversion takes, and only serves
to check that one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora.engine.adopting.convert import (
    adalora_scaling,
    lora_scaling,
    lycoris_scaling,
    removed_at_start,
)
from edgelora.engine.adopting.source import PeftSource

_PREFIX = "base_model.model."


def acting_weight(source: PeftSource, site: str, weight: Tensor) -> Tensor:
    """The weight (out, in), float32, with which a plain linear computes what PEFT's layer does."""
    weight = weight.float()
    named = {
        key.removeprefix(f"{_PREFIX}{site}.").removesuffix(".weight"): tensor.float()
        for key, tensor in source.tensors.items()
        if key.startswith(f"{_PREFIX}{site}.")
    }
    return {"LORA": _lora, "ADALORA": _adalora, "LOHA": _loha, "LOKR": _lokr, "VERA": _vera}[source.kind](
        source, site, weight, named
    )


def _lora(source: PeftSource, site: str, weight: Tensor, named: dict[str, Tensor]) -> Tensor:
    A, B = named["lora_A"], named["lora_B"]
    scaling = lora_scaling(source.config, site, len(A))
    taken = removed_at_start(source.config.get("init_lora_weights"), weight, len(A), scaling)
    changed = weight if taken is None else weight - scaling * (taken.B @ taken.A)
    changed = changed + scaling * (B @ A)
    if "lora_magnitude_vector" not in named:
        return changed
    return named["lora_magnitude_vector"][:, None] * changed / torch.linalg.norm(changed, dim=1, keepdim=True)


def _adalora(source: PeftSource, site: str, weight: Tensor, named: dict[str, Tensor]) -> Tensor:
    change = named["lora_B"] @ torch.diag(named["lora_E"].flatten()) @ named["lora_A"]
    return weight + adalora_scaling(source.config) * change


def _loha(source: PeftSource, site: str, weight: Tensor, named: dict[str, Tensor]) -> Tensor:
    first = named["hada_w1_a"] @ named["hada_w1_b"]
    second = named["hada_w2_a"] @ named["hada_w2_b"]
    return weight + lycoris_scaling(source.config, site) * first * second


def _lokr(source: PeftSource, site: str, weight: Tensor, named: dict[str, Tensor]) -> Tensor:
    first, second = (
        named[name] if name in named else named[f"{name}_a"] @ named[f"{name}_b"]
        for name in ("lokr_w1", "lokr_w2")
    )
    return weight + lycoris_scaling(source.config, site) * torch.kron(first, second)


def _vera(source: PeftSource, site: str, weight: Tensor, named: dict[str, Tensor]) -> Tensor:
    out, into = weight.shape
    A = source.tensors["base_model.vera_A"].float()[:, :into]
    B = source.tensors["base_model.vera_B"].float()[:out]
    return weight + torch.diag(named["vera_lambda_b"]) @ B @ torch.diag(named["vera_lambda_d"]) @ A
