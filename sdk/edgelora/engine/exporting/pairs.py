"""Plain LoRA as it lies in a weights file: which factors, and their scaling. Without numpy or torch."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from edgelora.engine.exporting.forms import PeftFiles
from edgelora.engine.exporting.refusing import LLAMA_CPP, refusal
from edgelora.engine.exporting.source import Source
from edgelora.errors import TensorsMismatch
from edgelora.manifest.lora_shapes import PLAIN_LORA_FILE
from edgelora.manifest.tensors import MAX_BASE_HEADER, TensorEntry, header_of
from edgelora.registry import Registry

_FACTOR = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<factor>[AB])\.weight")
_OTHER_MEMBERS = ("peftSettings", "useDora", "useRslora", "modulesToSave")


@dataclass(frozen=True, slots=True)
class Pair:
    """One site's change: scaling · B A.

    Attributes:
        site: ``"model.layers.0.self_attn.q_proj"``.
        A: Where A (rank, in) lies in the file.
        B: Where B (out, rank) lies.
        scaling: alpha / rank.
    """

    site: str
    A: TensorEntry
    B: TensorEntry
    scaling: float


def lora_pairs(source: Source, files: PeftFiles, registry: Registry) -> list[Pair]:
    """The pairs of an adapter that is nothing but plain LoRA, in the order of their sites.

    Raises:
        ExportUnsupported: It is something else: DoRA, HiRA, or whole modules beside the factors.
        TensorsMismatch: A factor has no other.
    """
    found: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in header_of(
        io.BytesIO(files.weights), PLAIN_LORA_FILE, max_header=MAX_BASE_HEADER
    ).items():
        match = _FACTOR.fullmatch(name)
        if match is None or len(entry.shape) != 2:
            raise refusal(source, registry, LLAMA_CPP, f"adapter {source.name} holds {name}")
        found.setdefault(match["site"], {})[match["factor"]] = entry
    for member in _OTHER_MEMBERS:
        if files.shape.get(member):
            raise refusal(source, registry, LLAMA_CPP, f"adapter {source.name} is stored with {member}")
    pairs = []
    for site, factors in sorted(found.items()):
        if len(factors) != 2 or factors["A"].shape[0] != factors["B"].shape[1]:
            raise TensorsMismatch(
                f"{site} of adapter {source.name} has no pair of factors that fit",
                fix="ask its publisher to pack it again",
            )
        alpha = files.shape.get("alphaPattern", {}).get(site, files.shape["alpha"])
        pairs.append(Pair(site, factors["A"], factors["B"], float(alpha) / factors["A"].shape[0]))
    return pairs
