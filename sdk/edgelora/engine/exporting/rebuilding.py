"""Adapters that are stored in their own form, rebuilt by the plugins that trained them.

The base's weights are not read: layers are put around linears whose every weight is NaN. What a layer makes
of them shows as NaN in its factors, and only then the real base is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from edgelora.capabilities import ApproximatelyLowRank, Exportable, LowRank, TaskAware
from edgelora.engine.adapter_base import identified
from edgelora.engine.apply import load_tensors, read_tensors
from edgelora.engine.base import load_base
from edgelora.engine.component import peft_shape
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.exporting.base_config import find_config_folder
from edgelora.engine.exporting.forms import PeftFiles
from edgelora.engine.exporting.refusing import Reader, refusal
from edgelora.engine.exporting.source import Source, Wanted
from edgelora.engine.inject import inject, plain_linears
from edgelora.engine.manifest_plan import plan_of, trained_plan_of
from edgelora.engine.past_sites import past_to_load
from edgelora.engine.peft_format import peft_config, to_peft
from edgelora.engine.published import PeftForm, form_of
from edgelora.engine.ranks import set_rank
from edgelora.errors import ExportUnsupported, PlanError
from edgelora.layers import factors_are_exact
from edgelora.plan import Plan
from edgelora.registry import Registry


def rebuilt_forms(
    source: Source, registry: Registry, wanted: Wanted, reader: Reader
) -> dict[str | None, PeftFiles]:
    """As `edgelora.engine.exporting.forms.forms_of`, by rebuilding the layers.

    Raises:
        ExportUnsupported: PEFT has no form for what they compute.
        PlanError: There is no such task or rank.
        BaseNotFound: The configuration of the base is nowhere here.
        WrongBase: What is there is another base.
    """
    place = find_config_folder(source, wanted.base)
    # Slices of plain LoRA need no plugin; other nested adapters need the one that trained them.
    make_plan = plan_of if source.component.config.get("nested") else trained_plan_of
    plan = make_plan(source.manifest, registry, base=str(place), dtype="float32")
    try:
        model: Any = _model_of_nothing(place)
        layers = _rebuilt(model, plan, source, wanted)
        reads_base = not all(map(_is_finite, layers.values()))
    except torch.linalg.LinAlgError:
        reads_base = True
    if reads_base:
        with identified(place, source.manifest.base):
            model = load_base(plan)
        layers = _rebuilt(model, plan, source, wanted)
    forms: dict[str | None, PeftFiles] = {}
    for task in _tasks(layers, plan, wanted, source):
        for layer in layers.values():
            if task is not None and isinstance(layer, TaskAware):
                layer.route(torch.tensor(plan.tasks.index(task)))
        form = form_of(layers)
        if form is None:
            raise _no_form(source, registry, reader, layers)
        forms[task] = _files(form, model, plan, source)
    return forms


def _rebuilt(model: Any, plan: Plan, source: Source, wanted: Wanted) -> dict[str, nn.Module]:
    """The layers, with the adapter's tensors, cut where that is wanted."""
    train = plan.recipe.train.model_copy(update={"fused": False})
    past = past_to_load(source.component.config, plain_linears(model))
    layers = inject(model, replace(plan, recipe=plan.recipe.model_copy(update={"train": train})), past=past)
    model.eval()
    load_tensors(layers, read_tensors(source.folder, source.manifest), source.name)
    if wanted.rank is not None:
        set_rank(layers, wanted.rank, source.name)
    return layers


def _is_finite(layer: nn.Module) -> bool:
    """Whether what would be exported of a layer holds no NaN."""
    numbers: tuple[Any, ...] = ()
    if isinstance(layer, LowRank):
        numbers = layer.factors()
    elif isinstance(layer, Exportable):
        held = layer.peft_layer()
        numbers = (*held.tensors.values(), held.alpha)
    return all(bool(torch.as_tensor(each).isfinite().all()) for each in numbers)


def _tasks(
    layers: Mapping[str, nn.Module], plan: Plan, wanted: Wanted, source: Source
) -> tuple[str | None, ...]:
    """Those whose functions are asked for; None alone where there is one function."""
    told_apart = any(isinstance(layer, TaskAware) for layer in layers.values()) and len(plan.tasks) > 1
    if wanted.task is not None and (not told_apart or wanted.task not in plan.tasks):
        raise PlanError(
            f"adapter {source.name} "
            + (f"has no task {wanted.task!r}" if told_apart else "computes the same for every task"),
            fix=f"name one: --task {' | '.join(plan.tasks)}" if told_apart else "leave --task out",
        )
    if not told_apart:
        return (None,)
    return (wanted.task,) if wanted.task is not None else plan.tasks


def _files(form: PeftForm, model: Any, plan: Plan, source: Source) -> PeftFiles:
    config = peft_config(form, model, plan, source.manifest.base.repo)
    tensors = {name: _own(tensor) for name, tensor in to_peft(form.tensors).items()}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    shape = {**peft_shape(form, config), "skipModules": list(plan.recipe.skip_modules)}
    return PeftFiles(text.encode(), save(tensors, metadata={"format": "pt"}), shape)


def _own(tensor: Tensor) -> Tensor:
    # Tensors that share memory would be refused.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _no_form(
    source: Source, registry: Registry, reader: Reader, layers: Mapping[str, nn.Module]
) -> ExportUnsupported:
    inexact = (
        (site, layer)
        for site, layer in layers.items()
        if not (isinstance(layer, LowRank) and factors_are_exact(layer))
    )
    site, strange = next(inexact, next(iter(layers.items())))
    ways = strange.approximations() if isinstance(strange, ApproximatelyLowRank) else ()
    part = source.component.parts["adapter"].name
    why = f"what adapter {source.name} ({part}) computes at {site} is not one low-rank product"
    return refusal(source, registry, reader, why, ways)


def _model_of_nothing(folder: Path) -> Any:
    """The base's modules, every weight one NaN in memory however large it is."""
    config = read_config(str(folder))
    if hasattr(config, "quantization_config"):  # of a prepared base; nothing is quantized here
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    nothing = torch.tensor(torch.nan)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(nothing.expand(parameter.shape), requires_grad=False))
    return model
