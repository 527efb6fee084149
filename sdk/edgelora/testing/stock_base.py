"""Stock transformers as an oracle: the weights it makes of the tiny base under a configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.engine.base import no_progress_bar
from edgelora.engine.preparing import prepare_base
from edgelora.plan.part import PlannedPart
from edgelora.testing import tiny

WHOLE_BLOCK = 64
"""bitsandbytes 0.50 dequantizes wrongly on a CPU where rows hold no whole blocks of this size."""


def stock_weights(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights (out, in) of the linears inside the blocks, float32, those of whole blocks, by name."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    given = {"quantization_config": BitsAndBytesConfig(**config)} if config else {}
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(tiny.base_folder(), dtype=torch.float32, **given)
    return _weights(model, is_quantized=bool(config))


def prepared_weights(part: PlannedPart) -> dict[str, Tensor]:
    """The same, of the tiny base prepared with a quantizer, as transformers reads the folder.

    Raises:
        Exception: Whatever transformers says of a folder it cannot read.
    """
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="edgelora-conformance-") as made:
        folder = Path(made) / "prepared"
        prepare_base(tiny.base_folder(), folder, part)
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            return _weights(model, is_quantized=hasattr(model.config, "quantization_config"))


def _weights(model: Any, *, is_quantized: bool) -> dict[str, Tensor]:
    if is_quantized:
        with no_progress_bar():
            model = model.dequantize()
    return {
        name: module.weight.detach().float()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name and module.in_features % WHOLE_BLOCK == 0
    }
