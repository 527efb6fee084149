"""The model card of an exported adapter: what it was made from, and over which base it is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from edgelora.card_front import front_matter
from edgelora.engine.exporting.source import Source
from edgelora.version import __version__


def exported_card(source: Source, task: str | None, rank: int | None, quantization: Mapping[str, Any]) -> str:
    """Markdown with the Hub's front matter.

    Args:
        source: The adapter.
        task: Whose function it is, where the adapter has several.
        rank: Where it was cut.
        quantization: Fields of ``BitsAndBytesConfig`` that make its base; empty for the base as it is.
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
    of_it = "".join([f", task `{task}`" if task else "", f", cut at rank {rank}" if rank else ""])
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"The adapter `{source.name}`{of_it}, trained with {source.component.derivative.name} and exported "
        f"for PEFT by edgelora {__version__}.\n\n"
        f"- manifest: `sha256:{source.manifest_sha256}`\n"
        f"- weights of its base: `{base.tensors_digest}`\n\n"
        f"## Use\n\n{_over(quantization)}\n\n```python\n{_snippet(base.repo, quantization)}```\n"
    )


def _over(quantization: Mapping[str, Any]) -> str:
    if not quantization:
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
