"""Writing a GGUF adapter: names, the order of rows and the numbers as llama.cpp has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from edgelora.engine.exporting.pairs import Pair
from edgelora.errors import ExportUnsupported
from edgelora.manifest.tensors import TensorEntry

Precision = Literal["f32", "f16"]
ARCHITECTURE = "llama"
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Those beside which llama.cpp applies a LoRA. It ignores one beside a norm without a word."""

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WRITTEN: dict[Precision, tuple[Any, gguf.LlamaFileType]] = {
    "f32": (np.float32, gguf.LlamaFileType.ALL_F32),
    "f16": (np.float16, gguf.LlamaFileType.MOSTLY_F16),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of the base decides where an adapter's numbers go."""

    blocks: int
    query_heads: int
    key_heads: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A pair by its name in GGUF.

    Attributes:
        pair: As it lies in the weights file.
        name: ``"blk.0.attn_q.weight"``.
        heads: By which the rows of B are put in another order; None where they stay.
    """

    pair: Pair
    name: str
    heads: int | None


def placed(pairs: Iterable[Pair], sizes: Sizes) -> list[Placed]:
    """Where llama.cpp keeps the weights that the pairs change.

    Raises:
        ExportUnsupported: It has no such weight, or would ignore what is beside it.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes.blocks)
    # Its rotary embedding turns neighbouring numbers, transformers' the two halves of a head.
    reordered = {"attn_q": sizes.query_heads, "attn_k": sizes.key_heads}
    found = []
    for pair in pairs:
        name = names.get_name(f"{pair.site}.weight", try_suffixes=(".weight",))
        kind = name.split(".")[-2] if name else None
        if name is None or kind not in LINEARS:
            raise ExportUnsupported(
                f"llama.cpp applies no LoRA at {pair.site}",
                fix="train again without it in target_modules, or fold the adapter into its base: edgelora "
                "merge --adapter REF --out DIR, then llama.cpp's convert_hf_to_gguf.py DIR",
            )
        found.append(Placed(pair, name, reordered.get(kind)))
    return found


def write_adapter(
    path: Path, weights: bytes, pairs: Iterable[Placed], metadata: Mapping[str, Any], precision: Precision
) -> None:
    """Write the file; the same adapter gives the same bytes.

    The true scaling is folded into B and alpha is 0, which tells llama.cpp to scale by 1: it knows no other
    rule than alpha / rank with one alpha for all sites.

    Args:
        path: Of the new file.
        weights: A safetensors file.
        pairs: Where its factors lie, and where they go.
        metadata: Strings and lists of strings besides, by key.
        precision: Of the numbers.

    Raises:
        ExportUnsupported: A number is too large for the precision.
    """
    dtype, file_type = _WRITTEN[precision]
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_file_type(file_type)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
        writer.add_base_model_count(1)
        for key, value in metadata.items():
            (writer.add_array if isinstance(value, list) else writer.add_string)(key, value)
        for each in pairs:
            A, B = _numbers(weights, each.pair.A), _numbers(weights, each.pair.B) * each.pair.scaling
            if each.heads is not None:
                B = interleaved(B, each.heads)
            for suffix, numbers in ((".lora_a", A), (".lora_b", B)):
                writer.add_tensor(each.name + suffix, _rounded(numbers, dtype, each.pair.site))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k (out, …) from transformers' order to llama.cpp's: the halves of each head, in turns."""
    half = len(weight) // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def _numbers(weights: bytes, entry: TensorEntry) -> np.ndarray:
    """A tensor of a safetensors file, float64, so that what is computed is rounded once."""
    count = int(np.prod(entry.shape, dtype=np.int64))
    stored = np.frombuffer(weights, _DTYPES[entry.dtype], count, entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32, and numpy has no name for it
        stored = (stored.astype("<u4") << 16).view("<f4")
    return stored.astype(np.float64).reshape(entry.shape)


def _rounded(numbers: np.ndarray, dtype: Any, site: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(numbers, dtype)
    if not np.isfinite(rounded).all():
        raise ExportUnsupported(
            f"at {site} numbers of the adapter are too large for {rounded.dtype}",
            fix="write it in 32 bits: --dtype f32",
        )
    return rounded
