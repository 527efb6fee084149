"""From a published adapter back to an adapted model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from edgelora.capabilities import StockPeft, TaskAware
from edgelora.engine.adapter_base import base_of, identified, plan_over
from edgelora.engine.as_found import AsFound
from edgelora.engine.base import load_base, load_tokenizer, locate_base
from edgelora.engine.effect import embeds_alike
from edgelora.engine.inject import adapter_tensors, inject, plain_linears, replace_module
from edgelora.engine.linears import quantize_linear, unfrozen
from edgelora.engine.manifest_plan import can_stay_in_files, left_in_files, plan_of
from edgelora.engine.pack import NATIVE_NAME
from edgelora.engine.past_sites import past_to_load
from edgelora.engine.peft_format import WEIGHTS_NAME, from_peft
from edgelora.engine.ranks import set_rank
from edgelora.engine.whole_model import WholeModel, adapted_model
from edgelora.errors import ModelError, NoEffect, PlanError, TensorsMismatch
from edgelora.layers import frozen_part
from edgelora.manifest import Manifest
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.base_match import check_base
from edgelora.module_names import is_named
from edgelora.plan import Plan
from edgelora.prepared import prepared_base
from edgelora.registry import Registry
from edgelora.signing import check_trusted
from edgelora.transfer import locate_adapter
from edgelora.verify import read_verified


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with an adapter in place."""

    model: Any
    tokenizer: Any
    layers: dict[str, nn.Module] | WholeModel
    manifest: Manifest
    plan: Plan

    def route(self, task: str | None) -> None:
        """Let every row be of ``task`` from now on; needed where layers tell several tasks apart.

        Raises:
            PlanError: The adapter has no such task, or several and ``task`` is None.
        """
        tasks = self.tasks or self.plan.tasks
        if (task is None and len(self.tasks) > 1) or (task is not None and task not in tasks):
            problem = f"has no task {task!r}" if task else f"was trained on {len(tasks)} tasks"
            raise PlanError(
                f"adapter {self.manifest.identity.name} {problem}",
                fix=f"name one: --task {' | '.join(tasks)}" if len(tasks) > 1 else "leave --task out",
            )
        chosen = torch.tensor(tasks.index(task) if task else 0, device=_device(self.model))
        for layer in self.layers.values():
            if isinstance(layer, TaskAware):
                layer.route(chosen)

    def set_rank(self, rank: int) -> None:
        """Compute with the first ``rank`` components from now on; see `edgelora.engine.ranks.set_rank`."""
        set_rank(self.layers, rank, self.manifest.identity.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks its layers tell apart, by number; empty where they do not."""
        routed = any(isinstance(layer, TaskAware) for layer in self.layers.values())
        return self.plan.tasks if routed else ()


def load_adapted(
    reference: str,
    registry: Registry | None = None,
    *,
    base: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device | None = None,
    in_files: bool = False,
) -> Adapted:
    """Load the base of an adapter and apply the adapter to it.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store.
        registry: The installed plugins; where left out they are imported once the adapter may be trusted.
        base: Folder or Hub id of the base, unquantized or prepared with the quantizer the adapter was trained
            over; by default the one the manifest names, or the folder where a base with the same weights was
            last trained on or prepared.
        revision: Of ``base``, where that is a Hub id.
        dtype: ``auto``, ``float32`` or ``bfloat16``; the quantized weights do not depend on it.
        device: Where to load; the first GPU, or the CPU, when left out.
        in_files: Leave the weights of a base in its files, on the CPU, if the parts can do with that.

    Raises:
        WrongBase: The base's weights or tokenizer are not those the adapter was trained on.
        ModelError: The base cannot be loaded, or was changed after it had been identified.
        PluginMissing: A part of the adapter is not installed.
        TensorsMismatch: The adapter's tensors do not fit.
        NoEffect: The adapter changes nothing.
    """
    folder = locate_adapter(reference)
    manifest = check_trusted(folder)
    place = base_of(manifest, base, revision)
    registry = registry or Registry.discover()
    plan = plan_over(manifest, place, prepared_base(place), registry, dtype)
    if in_files and can_stay_in_files(plan):
        plan, device = left_in_files(plan), torch.device("cpu")
    with identified(place, manifest.base):
        model, tokenizer = load_base(plan, device), load_tokenizer(place)
    layers = _put_on(model, folder, manifest, plan)
    return Adapted(adapted_model(model, layers), tokenizer, layers, manifest, plan)


def apply(model: Any, reference: str, registry: Registry | None = None) -> Mapping[str, nn.Module]:
    """Apply an adapter to a model that ``from_pretrained`` loaded from a local folder.

    Linears are quantized in place where the adapter was trained over a quantized base. What is identified is
    that folder: that the model still is what it holds is the caller's word. Where the adapter is refused, the
    model is left as it was.

    Returns:
        The adapted layers by site name. Of an adapter that changes the model as a whole, a
        `edgelora.engine.whole_model.WholeModel`: use its ``model`` from then on.

    Raises:
        WrongBase: The folder the model came from holds another base.
        ModelError: The folder holds a prepared base.
        EdgeloraError: Whatever else `load_adapted` raises.
    """
    folder = locate_adapter(reference)
    manifest = check_trusted(folder)
    place = locate_base(model.name_or_path)
    if prepared_base(place):
        raise ModelError(
            f"the model comes from {place}, a prepared base, whose linears are quantized already",
            fix="let edgelora load it: load_adapted(reference, base=...)",
        )
    check_base(manifest.base, identify_base(place), str(place))
    plan = plan_of(manifest, registry or Registry.discover(), base=str(place), dtype="auto")
    quantizer, found = plan.build("quantizer"), AsFound(model)
    try:
        for name, linear in plain_linears(model).items():
            if not is_named(name, plan.recipe.skip_modules):
                replace_module(model, linear, quantize_linear(quantizer, linear, name))
        return _put_on(model, folder, manifest, plan)
    except BaseException:
        found.give_back()
        raise


def _put_on(model: Any, folder: Path, manifest: Manifest, plan: Plan) -> Mapping[str, nn.Module]:
    model.eval()
    before, embedding = probe_logits(model), model.get_input_embeddings()
    past = past_to_load(manifest.components[0].config, plain_linears(model))
    layers = inject(model, plan, past=past)
    adapted = adapted_model(model, layers)
    adapted.eval()  # what is new too: dropout belongs to training
    if isinstance(layers, WholeModel):
        _load_whole(layers, *read_file(folder, manifest), manifest.identity.name)
    else:
        load_tensors(layers, read_tensors(folder, manifest), manifest.identity.name)
    # What changes some tokens alone may change none of the probe's.
    alike = embeds_alike(embedding, adapted.get_input_embeddings(), len(embedding.weight))
    if alike and torch.equal(before, probe_logits(adapted)):
        raise NoEffect(
            f"adapter {manifest.identity.name} changes no output of the base",
            fix="use the base alone; if it is yours, train it again with other ranks or weights of tasks",
        )
    return layers


def take_off(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put what was frozen back where adapted layers are; unquantized, in the form the model keeps them."""
    if isinstance(layers, WholeModel):
        layers.take_off()
    for layer in layers.values():
        replace_module(model, layer, unfrozen(frozen_part(layer)))


def read_tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The adapter's tensors as ``"<site>.<name>"``, from the very bytes that were verified.

    Raises:
        TensorsMismatch: The manifest's component lists no weights in a known form.
        DigestMismatch: The file changed since it was verified.
    """
    name, tensors = read_file(folder, manifest)
    return from_peft(tensors) if name == WEIGHTS_NAME else tensors


def read_file(folder: Path, manifest: Manifest) -> tuple[str, dict[str, Tensor]]:
    """The name of the weights file, and its tensors by their names in it; raises as `read_tensors`."""
    name = weights_file(manifest)
    return name, load(read_verified(folder, manifest, name))


def weights_file(manifest: Manifest) -> str:
    """The name of an adapter's weights file, in PEFT's form or its own.

    Raises:
        TensorsMismatch: The manifest's component lists neither.
    """
    listed = manifest.components[0].files
    for name in (WEIGHTS_NAME, NATIVE_NAME):
        if name in listed:
            return name
    raise TensorsMismatch(
        f"adapter {manifest.identity.name} lists neither {WEIGHTS_NAME} nor {NATIVE_NAME}",
        fix="upgrade edgelora, or ask its publisher",
    )


@torch.no_grad()
def load_tensors(layers: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter: str) -> None:
    """Copy an adapter's tensors into freshly injected layers.

    Raises:
        TensorsMismatch: A tensor is missing, left over, or of another shape.
    """
    own = adapter_tensors(layers)
    check_tensors(own, tensors, adapter)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


@torch.no_grad()
def _load_whole(layers: WholeModel, file: str, tensors: Mapping[str, Tensor], adapter: str) -> None:
    """Load tensors of a weights file into a freshly adapted model; raises as `load_tensors`."""
    made, model = layers.adapter, layers.model
    if file == WEIGHTS_NAME and isinstance(made, StockPeft):
        check_tensors(made.peft_tensors(model), tensors, adapter)
        made.load_peft_tensors(model, tensors)
    else:
        check_tensors(layers.tensors(), tensors, adapter)
        layers.load(tensors)


def check_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], adapter: str) -> None:
    """Compare names and shapes of an adapter's tensors with those of what they are loaded into.

    Raises:
        TensorsMismatch: A tensor is missing, left over, or of another shape.
    """
    if different := sorted(own.keys() ^ tensors.keys()):
        state = "lacks" if different[0] in own else "has"
        raise TensorsMismatch(
            f"adapter {adapter} {state} the tensor {different[0]!r}, unlike the layers it describes "
            f"({len(different)} differ)",
            fix="pull the adapter again, or ask its publisher",
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise TensorsMismatch(
                f"{name} of adapter {adapter} is {tuple(tensors[name].shape)}, and the base needs "
                f"{tuple(tensor.shape)}",
                fix="use the base the adapter was trained on",
            )


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device


@torch.no_grad()
def probe_logits(model: Any) -> Tensor:
    """Logits on eight tokens spread over the vocabulary, (8, vocabulary), float32."""
    embeddings = model.get_input_embeddings().weight
    ids = torch.linspace(0, len(embeddings) - 1, 8, device=embeddings.device).long()[None]
    # From the end: before a row some adapters put virtual tokens, which have logits too.
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, -len(ids[0]) :]
    return logits.float().cpu()
