"""``export base``: the base an adapter was fitted to, as a plain model that any tool loads and converts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelora.engine.exporting.source import Source, open_source
from edgelora.engine.exporting.stock_base import StockBase, is_over_quantized
from edgelora.errors import ExportUnsupported, ModelError, WrongBase
from edgelora.manifest.base_identity import READ_SUFFIXES, file_sha256
from edgelora.plan.prepared import OF_THE_PRODUCT
from edgelora.registry import Registry

RECORD_NAME = "edgelora-dequantized.json"
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class ExportedBase:
    """What was written.

    Attributes:
        folder: A model folder of transformers.
        adapter: ``ns/name@version`` that was fitted to it.
        base: The unquantized model it was made from.
        quantizer: Whose weights it holds.
        largest_difference: Between its logits and those of the quantized base, absolute, on a probe.
    """

    folder: Path
    adapter: str
    base: str
    quantizer: str
    largest_difference: float


def export_base(
    reference: str,
    out: Path,
    *,
    base: str | None = None,
    dtype: Dtype = "float32",
    registry: Registry | None = None,
) -> ExportedBase:
    """Write the quantized base of an adapter, without the adapter, its weights in 32 or 16 bits.

    Over it any tool computes what the adapter was trained to compute, and a GGUF base converted from it is
    the one that an exported adapter fits.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store.
        out: The directory to make.
        base: The folder of its base, or its name; None takes the one the adapter names.
        dtype: Of the weights; in 16 bits they are rounded once.
        registry: The installed plugins.

    Raises:
        ExportUnsupported: The adapter was fitted to an unquantized base, which needs no export.
        TargetExists: ``out`` is there already.
        EdgeloraError: What `edgelora.engine.apply.load_adapted` and `edgelora.engine.merge.merge` raise.
    """
    registry = registry or Registry.discover()
    source = open_source(reference)
    part = source.component.parts.get("quantizer")
    if part is None or not is_over_quantized(source.component, registry):
        repo = source.manifest.base.repo
        raise ExportUnsupported(
            f"adapter {source.name} was fitted to {repo} as it is", fix=f"take {repo} itself"
        )
    import torch

    from edgelora.engine.merge import load_unadapted, merge

    bare = load_unadapted(reference, registry, base=base)

    def record(folder: Path) -> dict[str, bytes]:
        text = json.dumps({**_record(source), "files": _digests(folder)}, indent=2, sort_keys=True) + "\n"
        return {RECORD_NAME: text.encode()}

    done = merge(bare, out.absolute(), getattr(torch, dtype), record)
    return ExportedBase(out, source.name, source.manifest.base.repo, part.name, done.largest_difference)


def dequantized_base(source: Source, folder: Path) -> StockBase:
    """A folder that ``export base`` wrote, where it is the base of this adapter.

    Raises:
        ModelError: Nothing says what is in the folder, or something else is in it by now.
        WrongBase: It is another base, or quantized otherwise.
    """
    folder = Path(os.path.abspath(folder))  # named in what is written, wherever that is read
    path = folder / RECORD_NAME
    try:
        found = dict(json.loads(path.read_bytes()))
        files = found.pop("files")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder} is no base that edgelora exported: {path.name} cannot be read",
            fix=f"write it: edgelora export base {source.folder} --out BASE",
        ) from error
    if found != _record(source):
        raise WrongBase(
            f"{folder} holds another base than that of {source.name}, or the same one quantized otherwise",
            fix=f"write its own: edgelora export base {source.folder} --out BASE",
        )
    if files != _digests(folder):
        raise ModelError(
            f"{folder} is no longer what edgelora exported: its files changed",
            fix=f"write it again: edgelora export base {source.folder} --out BASE",
        )
    return StockBase(str(folder), is_dequantized=True)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a model or its tokenizer is read from, by name."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(READ_SUFFIXES))
    return {name: file_sha256(folder / name) for name in names if name != RECORD_NAME}


def _record(source: Source) -> dict[str, Any]:
    part = source.component.parts.get("quantizer")
    options = part.options if part else {}
    return {
        "format": 1,
        "source": source.manifest.base.tensors_digest,
        "quantizer": part
        and {
            "plugin": part.plugin,
            "name": part.name,
            "options": {name: value for name, value in options.items() if name not in OF_THE_PRODUCT},
        },
        "skip_modules": sorted(source.component.config.get("skipModules", [])),
    }
