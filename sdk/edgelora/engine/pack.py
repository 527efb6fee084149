"""From trained layers to an adapter directory with its manifest."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from edgelora.about import About
from edgelora.card import model_card
from edgelora.engine.component import component_of, dtype_of, native_shape, peft_shape, whole_shape
from edgelora.engine.data import Dataset
from edgelora.engine.inject import adapter_tensors
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME, peft_config, to_peft
from edgelora.engine.published import peft_form
from edgelora.engine.whole_model import WholeModel
from edgelora.errors import NonFiniteLoss
from edgelora.files import disk_full_is_an_error, fsync_dir, make_dirs, publish_directory
from edgelora.manifest import (
    MANIFEST_NAME,
    UNPUBLISHED,
    Base,
    DerivedFrom,
    EvaluationEntry,
    Identity,
    Manifest,
    Runtime,
    Security,
    Task,
    Training,
    TrainingDataset,
    Use,
    describe_files,
    manifest_bytes,
    tree_digest,
)
from edgelora.manifest.tensors import summarize_tensors
from edgelora.plan import Plan
from edgelora.protocols import Measurement

NATIVE_NAME = "edgelora.safetensors"
"""Weights file of an adapter that stock PEFT cannot compute; without ``adapter_config.json`` it refuses."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a manifest says about the run."""

    base: Base
    dataset: Dataset
    steps: int
    tokens: int
    threads: int
    started_at: datetime
    versions: Mapping[str, str]
    peak_bytes: Mapping[str, int]
    recipe_digest: str
    base_measurements: Mapping[str, Measurement]
    measurements: Mapping[str, Measurement]
    rank_pattern: Mapping[str, int]


def pack(
    model: nn.Module, layers: Mapping[str, nn.Module], plan: Plan, record: RunRecord, folder: Path
) -> Manifest:
    """Write the adapter into ``folder``, which appears whole or not at all.

    Where stock PEFT computes exactly the same on the declared base, the weights have PEFT's form and `apply`
    reads that same file. Otherwise they are in ``edgelora.safetensors``.

    Raises:
        DiskFull: No space is left; an adapter that was there before is untouched.
    """
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(folder):
        make_dirs(staging)
        try:
            manifest = _write(staging, model, layers, plan, record)
            flush_files(staging)
            publish_directory(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _write(
    staging: Path, model: nn.Module, layers: Mapping[str, nn.Module], plan: Plan, record: RunRecord
) -> Manifest:
    config: dict[str, Any] | None = None
    peft_versions: str | None = None
    if isinstance(layers, WholeModel):
        config, tensors = layers.published(plan, record.base.repo)
        shape = whole_shape(plan, config)
        peft_versions = ">=0.18" if config is not None else None
    elif form := peft_form(layers, plan):
        config, tensors = peft_config(form, model, plan, record.base.repo), to_peft(form.tensors)
        shape, peft_versions = peft_shape(form, config), form.peft_versions
    else:
        tensors = adapter_tensors(layers)
        shape = native_shape(layers, plan, record.rank_pattern)
    if config is not None:
        write_json(staging / CONFIG_NAME, config)
    save_tensors(tensors, staging / (NATIVE_NAME if config is None else WEIGHTS_NAME))
    if plan.recipe.skip_modules:
        shape["skipModules"] = list(plan.recipe.skip_modules)
    component = component_of(plan, shape, sorted(os.listdir(staging)), dtype_of(tensors))
    evaluation = _evaluation(record.base_measurements, "base") + _evaluation(record.measurements, "adapter")
    card = model_card(
        title=f"{plan.derivative} adapter for {record.base.repo}",
        base=record.base,
        component=component,
        evaluation=evaluation,
        license=plan.recipe.about.license,
        languages=plan.recipe.about.languages,
        peft=config is not None,
        datasets=_training(plan, record).datasets,
    )
    (staging / "README.md").write_text(card, encoding="utf-8")
    files = describe_files(staging)
    manifest = Manifest(
        identity=Identity(
            namespace=UNPUBLISHED,
            name=_name(plan.recipe.out.name or plan.derivative),
            version="0.1.0",
            created_at=_moment(datetime.now(UTC)),
            release_sequence=1,
        ),
        publisher=plan.recipe.about.publisher,
        base=record.base,
        components=(component,),
        derived_from=_origins(plan),
        files=tuple(files),
        tree_digest=tree_digest(files),
        tensors=summarize_tensors(staging, files),
        tasks=(Task(type="text-generation"),),
        languages=plan.recipe.about.languages or None,
        runtime=Runtime(edgelora=">=0.1,<2", peft=peft_versions),
        training=_training(plan, record),
        evaluation=evaluation or None,
        license=plan.recipe.about.license,
        use=_use(plan.recipe.about),
        security=Security(pickle=False),
    )
    (staging / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return manifest


def _origins(plan: Plan) -> tuple[DerivedFrom, ...] | None:
    stated = [(origin.manifest, origin.relation) for origin in plan.recipe.about.derived_from]
    origins = dict.fromkeys([*stated, *((past.digest, "continued") for past in plan.past)])
    return (
        tuple(DerivedFrom(manifest_digest=digest, relation=relation) for digest, relation in origins) or None
    )


def _use(about: About) -> Use | None:
    use = Use(intended=about.intended_use, out_of_scope=about.out_of_scope, risk=about.risk)
    return use if use != Use() else None


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; numbers that are not finite are refused."""
    # Tensors that share memory would be refused; a copy of each is written.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    for name, tensor in copies.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise NonFiniteLoss(
                f"{name} of the trained adapter holds numbers that are not finite",
                fix="lower train.learning_rate and train again",
            )
    save_file(copies, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _training(plan: Plan, record: RunRecord) -> Training:
    settings = plan.recipe.train
    return Training(
        framework="edgelora",
        seed=settings.seed,
        steps=record.steps,
        tokens=record.tokens,
        hyperparameters=settings.model_dump(mode="json", exclude={"seed", "tensorboard"})
        | {"threads": record.threads},
        datasets=(
            TrainingDataset(
                name=", ".join(source.path.name for source in plan.recipe.data) or "rows",
                digest=record.dataset.train_digest,
                rows=len(record.dataset.train),
                held_out_digest=record.dataset.held_out_digest if record.dataset.held_out else None,
            ),
        ),
        versions=dict(record.versions),
        recipe_digest=record.recipe_digest,
        peak_memory_bytes={_camel(name): value for name, value in record.peak_bytes.items()},
        started_at=_moment(record.started_at),
        finished_at=_moment(datetime.now(UTC)),
    )


def _evaluation(measurements: Mapping[str, Measurement], phase: str) -> tuple[EvaluationEntry, ...]:
    return tuple(
        EvaluationEntry(
            metric=name,
            value=float(measured.value),
            n=measured.n,
            low=float(measured.low) if math.isfinite(measured.low) else None,
            high=float(measured.high) if math.isfinite(measured.high) else None,
            phase=phase,
            split_digest=measured.split_digest or None,
        )
        for name, measured in measurements.items()
        if math.isfinite(measured.value)
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document for people and programs."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def flush_files(folder: Path) -> None:
    """Make the files in a folder, and their names, durable."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_dir(folder)


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64] or "adapter"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
