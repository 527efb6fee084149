"""``export gguf``: an adapter as llama.cpp, and what is built on it, applies it."""

from __future__ import annotations

import importlib.util
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelora.engine.exporting.base_config import find_config_folder
from edgelora.engine.exporting.forms import PeftFiles, forms_of
from edgelora.engine.exporting.pairs import lora_pairs
from edgelora.engine.exporting.refusing import LLAMA_CPP, instead
from edgelora.engine.exporting.source import Source, Wanted, open_source
from edgelora.engine.exporting.stock_base import is_over_quantized
from edgelora.errors import DependencyMissing, ExportUnsupported, ModelError, PlanError
from edgelora.files import disk_full_is_an_error, make_dirs, publish_new_file, refuse_existing
from edgelora.manifest.base_identity import read_base_config
from edgelora.registry import Registry
from edgelora.version import __version__

if TYPE_CHECKING:
    from edgelora.engine.exporting.gguf_tensors import Precision, Sizes

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
"""Whose adapters were compared with llama.cpp, to which both are ``llama``."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """What was written.

    Attributes:
        path: The file.
        adapter: ``ns/name@version`` it was made from.
        base: What it is to be applied to.
        quantizer: Of the base it was fitted to, where that was quantized: over other weights, those of a
            base GGUF file included that was quantized otherwise, it computes something else.
        tensors: In the file.
        size_bytes: Of the file.
    """

    path: Path
    adapter: str
    base: str
    quantizer: str | None
    tensors: int
    size_bytes: int


def export_gguf(
    reference: str,
    out: Path,
    wanted: Wanted | None = None,
    *,
    precision: Precision = "f32",
    registry: Registry | None = None,
) -> ExportedFile:
    """Write an adapter of a llama or mistral base as one GGUF file, which appears whole or not at all.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store.
        out: The file to make.
        wanted: Which of its functions, and where its base is; of that only ``config.json`` is read.
        precision: Of the numbers in the file.
        registry: The installed plugins.

    Raises:
        ExportUnsupported: GGUF cannot hold what the adapter computes, or nobody compared this architecture.
        DependencyMissing: The package gguf is not installed.
        TargetExists: ``out`` is there already.
        DiskFull: No space is left; nothing stays behind.
        EdgeloraError: What `edgelora.engine.exporting.forms.forms_of` raises.
    """
    if importlib.util.find_spec("gguf") is None:
        raise DependencyMissing(
            "writing GGUF needs gguf, which is not installed", fix="pip install 'edgelora[gguf]'"
        )
    from edgelora.engine.exporting.gguf_tensors import placed, write_adapter

    refuse_existing(out)
    wanted, registry = wanted or Wanted(), registry or Registry.discover()
    source = open_source(reference)
    _check_architecture(source, registry)
    files = _one_form(source, registry, wanted)
    pairs = placed(lora_pairs(source, files, registry), _sizes(find_config_folder(source, wanted.base)))
    quantizer = source.component.parts["quantizer"] if is_over_quantized(source.component, registry) else None
    metadata = _metadata(source, wanted) | ({"edgelora.base.quantizer": quantizer.name} if quantizer else {})
    staging = out.absolute().with_name(f".{out.name[:100]}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(out):
        make_dirs(staging.parent)
        try:
            write_adapter(staging, files.weights, pairs, metadata, precision)
            size_bytes = staging.stat().st_size
            publish_new_file(staging, out.absolute())
        finally:
            staging.unlink(missing_ok=True)
    base = source.manifest.base.repo
    return ExportedFile(out, source.name, base, quantizer and quantizer.name, 2 * len(pairs), size_bytes)


def _check_architecture(source: Source, registry: Registry) -> None:
    architecture = source.manifest.base.architecture
    if architecture not in ARCHITECTURES:
        raise ExportUnsupported(
            f"the base of {source.name} is a {architecture}, and only adapters of "
            f"{' and '.join(ARCHITECTURES)} were compared with llama.cpp",
            fix=instead(source, registry, LLAMA_CPP),
        )


def _one_form(source: Source, registry: Registry, wanted: Wanted) -> PeftFiles:
    forms = forms_of(source, registry, wanted, LLAMA_CPP)
    if len(forms) > 1:
        raise PlanError(
            f"adapter {source.name} computes by task, and a GGUF file holds one function",
            fix=f"name one: --task {' | '.join(map(str, forms))}",
        )
    return next(iter(forms.values()))


def _sizes(folder: Path) -> Sizes:
    from edgelora.engine.exporting.gguf_tensors import Sizes

    config = read_base_config(folder)
    try:
        heads = int(config["num_attention_heads"])
        return Sizes(int(config["num_hidden_layers"]), heads, int(config.get("num_key_value_heads") or heads))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / 'config.json'} does not say how many layers and heads there are: {error}",
            fix="pass the folder of the base model",
        ) from error


def _metadata(source: Source, wanted: Wanted) -> dict[str, Any]:
    manifest, identity = source.manifest, source.manifest.identity
    metadata: dict[str, Any] = {
        "general.name": f"{identity.namespace}/{identity.name}",
        "general.version": identity.version,
        "general.license": manifest.license,
        "general.base_model.0.name": manifest.base.repo,
        "edgelora.version": __version__,
        "edgelora.method": source.component.derivative.name,
        "edgelora.manifest.sha256": source.manifest_sha256,
        "edgelora.base.sha256": manifest.base.tensors_digest.removeprefix("sha256:"),
    }
    if manifest.languages:
        metadata["general.languages"] = list(manifest.languages)
    if wanted.task is not None:
        metadata |= {"adapter.lora.task_name": wanted.task, "edgelora.task": wanted.task}
    if wanted.rank is not None:
        metadata["edgelora.rank"] = str(wanted.rank)
    return metadata
