"""Stock PEFT as an oracle: what it computes from the form in which an adapter is published.

Imported where peft is installed, by tests and by `plugins check`; nothing of a job gets here.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from peft import PeftType, get_peft_model, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn

from edgelora.engine.published import PeftForm
from edgelora.testing.check import require


def peft_output(form: PeftForm, site: str, base: nn.Linear, x: Tensor) -> Tensor:
    """What stock PEFT's layer for a site computes over a plain linear, (..., in) -> (..., out).

    Raises:
        AssertionError: PEFT knows no such settings, or has no place for the tensors.
    """
    model = nn.Sequential(OrderedDict(linear=base))
    settings = {"r": form.ranks[site], "target_modules": ["linear"], **form.settings}
    if form.peft_type == "LORA":
        settings["lora_alpha"] = form.alphas[site]
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(form.peft_type)](**settings)
        stock = get_peft_model(model, config).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise AssertionError(f"PEFT refuses the settings {dict(form.settings)}: {error}") from error
    tensors = {
        f"base_model.model.linear.{name.removeprefix(site + '.')}": tensor.detach()
        for name, tensor in form.tensors.items()
        if name.startswith(f"{site}.")
    }
    loaded = set_peft_model_state_dict(stock, tensors)
    missing = [name for name in loaded.missing_keys if "base_layer" not in name]
    require(
        not missing and not loaded.unexpected_keys,
        f"PEFT's layer with {dict(form.settings)} wants {missing or 'no other tensors'} and has no place for "
        f"{loaded.unexpected_keys or 'none'}; name the tensors as in PEFT's file",
    )
    with torch.no_grad():
        computed: Tensor = stock(x)
    return computed
