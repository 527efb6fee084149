"""Writing an adopted adapter: PEFT's form with every scaling spelled out, and a manifest that says so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgelora.card import model_card
from edgelora.engine.adopting.convert import Converted
from edgelora.engine.adopting.source import CARD_NAME, PeftSource
from edgelora.engine.component import component_of, peft_shape
from edgelora.engine.pack import flush_files, save_tensors, write_json
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME, peft_config, to_peft
from edgelora.engine.published import PeftForm
from edgelora.manifest import (
    MANIFEST_NAME,
    Base,
    Component,
    DerivedFrom,
    FileEntry,
    Identity,
    Manifest,
    Runtime,
    Security,
    Task,
    describe_files,
    manifest_bytes,
    tree_digest,
)
from edgelora.manifest.components import Dtype
from edgelora.manifest.tensors import summarize_tensors
from edgelora.plan import Plan
from edgelora.store import Reference

_DTYPES: dict[torch.dtype, Dtype] = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_KEPT_PARTS = ("quantizer", "adapter")


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is written down of an adopted adapter."""

    source: PeftSource
    converted: Converted
    plan: Plan
    base: Base
    reference: Reference
    license: str


def write_adopted(model: Any, adoption: Adoption, staging: Path) -> None:
    """Write every file of the adapter directory into ``staging``, durably."""
    form, dtype = _form(adoption.converted)
    config = peft_config(form, model, adoption.plan, adoption.base.repo)
    write_json(staging / CONFIG_NAME, config)
    save_tensors(to_peft(form.tensors), staging / WEIGHTS_NAME)
    component = _component(adoption.plan, peft_shape(form, config), sorted(os.listdir(staging)), dtype)
    source = adoption.source
    card = source.card if source.card is not None else _card(adoption, component)
    (staging / CARD_NAME).write_text(card, encoding="utf-8")
    for name, data in source.licenses.items():
        (staging / name).write_bytes(data)
    files = describe_files(staging)
    reference = adoption.reference
    manifest = Manifest(
        identity=Identity(
            namespace=reference.namespace,
            name=reference.name,
            version=str(reference.version),
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            release_sequence=1,
        ),
        publisher=source.author(),
        base=adoption.base,
        components=(component,),
        derived_from=(DerivedFrom(manifest_digest=_source_digest(source), relation="adopted"),),
        files=tuple(files),
        tree_digest=tree_digest(files),
        tensors=summarize_tensors(staging, files),
        tasks=(Task(type="text-generation"),),
        languages=source.languages() or None,
        runtime=Runtime(edgelora=">=0.1,<2", peft=">=0.18"),
        license=adoption.license,
        license_files=tuple(source.licenses) or None,
        security=Security(pickle=False),
    )
    (staging / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    flush_files(staging)


def _form(converted: Converted) -> tuple[PeftForm, Dtype]:
    """The adapter as PEFT holds it; tensors keep the dtype they were stored in, where all have the same."""
    factors, tensors = converted.factors, dict[str, Tensor]()
    for site, each in factors.items():
        tensors |= {f"{site}.lora_A.weight": each.A, f"{site}.lora_B.weight": each.B}
    tensors |= {f"{site}.lora_magnitude_vector": each for site, each in converted.magnitudes.items()}
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) > 1 or not kinds <= _DTYPES.keys():
        tensors, kinds = {name: tensor.float() for name, tensor in tensors.items()}, {torch.float32}
    ranks = {site: len(each.A) for site, each in factors.items()}
    alphas = {site: each.scaling * ranks[site] for site, each in factors.items()}
    settings = {"use_dora": True} if converted.magnitudes else {}
    return PeftForm(tensors, ranks, alphas, settings), _DTYPES[kinds.pop()]


def _component(plan: Plan, shape: dict[str, Any], files: list[str], dtype: Dtype) -> Component:
    component = component_of(plan, shape, files, dtype)
    parts = {kind: component.parts[kind] for kind in component.parts if kind in _KEPT_PARTS}
    return component.model_copy(update={"parts": parts})


def _card(adoption: Adoption, component: Component) -> str:
    return model_card(
        title=f"An adopted adapter for {adoption.base.repo}",
        base=adoption.base,
        component=component,
        evaluation=(),
        license=adoption.license,
        languages=adoption.source.languages(),
        peft=True,
    )


def _source_digest(source: PeftSource) -> str:
    """The tree digest of the configuration and the weights, as they were found."""
    kinds = {
        CONFIG_NAME: ("application/json", "config"),
        WEIGHTS_NAME: ("application/vnd.safetensors", "weights"),
    }
    return tree_digest(
        FileEntry(path=path, size=size, sha256=sha256, media_type=kinds[path][0], role=kinds[path][1])
        for path, size, sha256 in source.digests
    )
