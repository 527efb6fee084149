"""Stock transformers as an oracle: the weights it makes of the tiny base under a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.base import no_progress_bar
from edgelora.testing import tiny

WHOLE_BLOCK = 64
"""bitsandbytes 0.50 dequantizes wrongly on a CPU where rows hold no whole blocks of this size."""


def stock_weights(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights (out, in) of the linears inside the blocks, float32, those of whole blocks, by name."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    given = {"quantization_config": BitsAndBytesConfig(**config)} if config else {}
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(tiny.base_folder(), dtype=torch.float32, **given)
        if config:
            model = model.dequantize()
    return {
        name: module.weight.detach().float()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name and module.in_features % WHOLE_BLOCK == 0
    }
