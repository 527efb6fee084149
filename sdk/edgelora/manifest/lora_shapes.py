"""Do a component's weights have the ranks and sites that its ``config`` gives?

Only where they are plain LoRA (spec/v1/layout.md, "Weights"): what other methods store is theirs to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgelora.manifest.components import Component
from edgelora.manifest.tensors import TensorEntry

PLAIN_LORA_FILE = "adapter_model.safetensors"
PEFT_CONFIG_FILE = "adapter_config.json"
_FACTOR = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<factor>[AB])\.weight")


def misfit_of(component: Component, headers: Mapping[str, Mapping[str, TensorEntry]]) -> str | None:
    """The first tensor that contradicts the component, in words; None where all agree.

    Args:
        component: Of a manifest.
        headers: Of the adapter's safetensors files, by path.
    """
    if not is_plain_lora(component) or PLAIN_LORA_FILE not in headers:
        return None
    for name, entry in sorted(headers[PLAIN_LORA_FILE].items()):
        match = _FACTOR.fullmatch(name)
        if match and (reason := _misfit(component, match["site"], match["factor"], entry)):
            return f"{PLAIN_LORA_FILE}: {name} is {entry.shape_text}, and {reason}"
    return None


def is_plain_lora(component: Component) -> bool:
    """Whether a component's weights are plain LoRA in PEFT's form: y = Wx + alpha / r · B A x."""
    special = any(component.config.get(member) for member in ("peftSettings", "useDora", "useRslora"))
    return PLAIN_LORA_FILE in component.files and not special


def _misfit(component: Component, site: str, factor: str, entry: TensorEntry) -> str | None:
    targets = component.config.get("targetModules")
    if targets is not None and site not in targets:
        return f"targetModules does not name {site}"
    rank = component.config.get("rankPattern", {}).get(site, component.config.get("r"))
    if len(entry.shape) < 2:
        return "a factor has two dimensions or more"
    found = entry.shape[0 if factor == "A" else 1]
    if rank is not None and found != rank:
        return f"config gives {site} the rank {rank}, not {found}"
    return None
