"""The model card of an exported adapter: what it was made from, and over which base it is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from edgelora.card_front import front_matter
from edgelora.engine.exporting.source import Source, Wanted
from edgelora.engine.exporting.stock_base import StockBase
from edgelora.version import __version__


def exported_card(source: Source, wanted: Wanted, over: StockBase) -> str:
    """Markdown with the Hub's front matter.

    Args:
        source: The adapter.
        wanted: Its task and rank, where it has several.
        over: The base it is for.
    """
    manifest, base = source.manifest, source.manifest.base
    title = f"{manifest.identity.name} for {base.repo}"
    front = front_matter(
        title=title,
        base=base,
        derivative=source.component.derivative.name,
        evaluation=(),
        datasets=manifest.training.datasets if manifest.training else (),
        license=manifest.license,
        languages=manifest.languages or (),
        peft=True,
    )
    task = f", task `{wanted.task}`" if wanted.task else ""
    cut = f", cut at rank {wanted.rank}" if wanted.rank else ""
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"The adapter `{source.name}`{task}{cut}, trained with {source.component.derivative.name} and "
        f"exported for PEFT by edgelora {__version__}.\n\n"
        f"- manifest: `sha256:{source.manifest_sha256}`\n"
        f"- weights of its base: `{base.tensors_digest}`\n\n"
        f"## Use\n\n{_over(over)}\n\n```python\n{_snippet(over.name, over.quantization)}```\n"
    )


def _over(base: StockBase) -> str:
    if base.is_dequantized:
        return (
            "It was fitted to the base as a quantizer made it, and the base named here holds those weights. "
            "Over the model they were made from it computes something else."
        )
    if not base.quantization:
        return "It was fitted to the base as it is, unquantized."
    return (
        "It was fitted to the base as it is when quantized like this, from weights in the dtype they are "
        "stored in. Over other weights, the unquantized ones included, it computes something else."
    )


def _snippet(base: str, quantization: Mapping[str, Any]) -> str:
    if not quantization:
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained({base!r}, dtype="auto")\n'
            'model = PeftModel.from_pretrained(base, ".")\n'
        )
    fields = "".join(f"    {name}={value!r},\n" for name, value in quantization.items())
    return (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, BitsAndBytesConfig\n\n"
        f"quantization = BitsAndBytesConfig(\n{fields})\n"
        f"base = AutoModelForCausalLM.from_pretrained(\n    {base!r}, quantization_config=quantization, "
        'dtype="auto"\n)\n'
        'model = PeftModel.from_pretrained(base, ".")\n'
    )
