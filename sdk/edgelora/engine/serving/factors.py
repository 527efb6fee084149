"""An adapter's factors by site, from its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from safetensors.torch import load
from torch import Tensor, nn

from edgelora.capabilities import AdaptsModel, Additive, CrossSite, LowRank
from edgelora.engine.apply import Adapted, check_tensors, load_tensors, weights_file
from edgelora.engine.inject import choose_sites, inject
from edgelora.engine.past_sites import past_to_load
from edgelora.engine.peft_format import WEIGHTS_NAME, from_peft
from edgelora.engine.serving.base import ServedBase
from edgelora.errors import CombinationError, NoEffect
from edgelora.layers import FrozenLinear, factors_are_exact
from edgelora.manifest import Manifest
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.plan import Plan
from edgelora.protocols import Factors


@torch.no_grad()
def read_factors(
    manifest: Manifest, weights: Mapping[str, bytes], plan: Plan, base: ServedBase, *, task: str | None
) -> dict[str, Factors]:
    """The factors of an adapter by site, from its verified bytes.

    Plain LoRA in PEFT's form is factors already. For any other adapter its layers are built beside the base's
    linears, without taking their place in the model, and asked once.

    Args:
        manifest: Of the adapter.
        weights: The bytes of its safetensors files by path; see `edgelora.signing.trusted_weights`.
        plan: That rebuilds the adapter over ``base``.
        base: What it will work over.
        task: Of an adapter that computes by task: which one.

    Raises:
        CombinationError: The adapter is no low-rank product beside each linear.
        PlanError: It has no such task, or several and none is named; or it names a linear that is not there.
        TensorsMismatch: Its tensors do not fit.
        NoEffect: It changes nothing.
    """
    file = weights_file(manifest)
    tensors = load(weights[file])
    _refuse_embeddings(manifest, base)
    if is_plain_lora(manifest.components[0]):
        factors = _plain(from_peft(tensors), manifest, plan, base.linears)
        Adapted(base.model, base.tokenizer, {}, manifest, plan).route(task)
    else:
        tensors = from_peft(tensors) if file == WEIGHTS_NAME else tensors
        factors = _of_layers(tensors, manifest, plan, base, task)
    if not any(_changes(each) for each in factors.values()):
        raise NoEffect(
            f"adapter {manifest.identity.name} changes no output of the base",
            fix="use the base alone; if it is yours, train it again with other ranks or weights of tasks",
        )
    return factors


def _plain(
    tensors: Mapping[str, Tensor], manifest: Manifest, plan: Plan, linears: Mapping[str, FrozenLinear]
) -> dict[str, Factors]:
    sites = choose_sites(linears, plan)
    wanted = {}
    for site in sites:
        linear = linears[site.name]
        wanted[f"{site.name}.lora_A"] = torch.empty(site.rank, linear.in_features, device="meta")
        wanted[f"{site.name}.lora_B"] = torch.empty(linear.out_features, site.rank, device="meta")
    check_tensors(wanted, tensors, manifest.identity.name)
    return {
        site.name: Factors(
            tensors[f"{site.name}.lora_A"], tensors[f"{site.name}.lora_B"], site.alpha / site.rank
        )
        for site in sites
    }


def _refuse_embeddings(manifest: Manifest, base: ServedBase) -> None:
    targets = manifest.components[0].config.get("targetModules", ())
    strangers = [name for name in targets if name not in base.linears]
    parts = dict(base.model.named_modules()) if strangers else {}
    for name in strangers:
        if isinstance(parts.get(name), nn.Embedding):
            raise _alone(
                manifest.identity.name, f"it changes the embedding {name}, and only linears tell rows apart"
            )


def _of_layers(
    tensors: Mapping[str, Tensor], manifest: Manifest, plan: Plan, base: ServedBase, task: str | None
) -> dict[str, Factors]:
    name = manifest.identity.name
    adapter = plan.build("adapter")
    if isinstance(adapter, AdaptsModel):
        raise _alone(name, "it adapts the model as a whole")
    train = plan.recipe.train.model_copy(update={"fused": False})
    plan = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))
    past, part = past_to_load(manifest.components[0].config, base.linears), plan.parts["adapter"].name
    layers = inject(_beside(base.linears), plan, adapter, past=past)
    load_tensors(layers, tensors, name)
    for layer in layers.values():
        layer.eval()
    Adapted(base.model, base.tokenizer, layers, manifest, plan).route(task)
    for site, layer in layers.items():
        if isinstance(layer, CrossSite):
            raise _alone(name, f"its layer at {site} reads the inputs of other linears")
        if not (isinstance(layer, LowRank) and isinstance(layer, Additive) and factors_are_exact(layer)):
            raise _alone(name, f"what it computes at {site} is no low-rank product ({part})")
    found = {site: layer.factors() for site, layer in layers.items()}
    return {site: Factors(A, B, float(scaling)) for site, (A, B, scaling) in found.items()}


def _alone(adapter: str, reason: str) -> CombinationError:
    return CombinationError(
        f"adapter {adapter} cannot share a model with others: {reason}",
        fix="load it alone: load_adapted, or edgelora generate with this adapter only",
    )


def _beside(linears: Mapping[str, FrozenLinear]) -> nn.Module:
    """A model of nothing but these linears, under their names, in which layers can take their place."""
    root = nn.Module()
    for name, linear in linears.items():
        *parents, leaf = name.split(".")
        at = root
        for parent in parents:
            if parent not in dict(at.named_children()):
                at.add_module(parent, nn.Module())
            at = at.get_submodule(parent)
        at.add_module(leaf, linear)
    return root


def _changes(factors: Factors) -> bool:
    """Whether B A is not zero, tried on random numbers."""
    A, B, scaling = factors
    x = torch.randn(A.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(A.device)
    return scaling != 0 and bool((B.float() @ (A.float() @ x)).any())
