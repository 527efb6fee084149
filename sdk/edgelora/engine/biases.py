"""Biases that linears of a plain model got, and the configuration under which transformers reads them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from edgelora.engine.linears import LINEARS
from edgelora.errors import ExportUnsupported


def make_room_for_biases(model: Any) -> None:
    """Change the configuration so that each linear's bias has its place; other linears get one of zeros.

    Architectures say with fields such as ``attention_bias`` and ``mlp_bias`` which linears have a bias; which
    field is for which is found by trying.

    Raises:
        ExportUnsupported: No such field gives a bias its place.
    """
    wanted = _with_bias(model)
    config = copy.deepcopy(model.config)
    places = _places(config)
    for field in _fields(config):
        if wanted <= places:
            break
        setattr(config, field, True)
        gained = _places(config)
        if not gained & wanted > places & wanted:
            setattr(config, field, False)
            continue
        places = gained
    if without := sorted(wanted - places):
        raise ExportUnsupported(
            f"{without[0]} got a bias, and transformers gives a {type(model).__name__} no place for it "
            f"({len(without)} such)",
            fix="apply the adapter unmerged: edgelora generate --adapter REF",
        )
    for field in _fields(model.config):
        setattr(model.config, field, getattr(config, field))
    for name in places - wanted:
        linear = model.get_submodule(name)
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features), requires_grad=False)


def _with_bias(model: nn.Module) -> set[str]:
    linears = ((name, part) for name, part in model.named_modules() if isinstance(part, LINEARS))
    return {name for name, linear in linears if linear.bias is not None}


def _fields(config: Any) -> list[str]:
    return [name for name, value in config.to_dict().items() if name.endswith("bias") and value is False]


def _places(config: Any) -> set[str]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return _with_bias(model)
