"""Adapters that change the model as a whole instead of wrapping sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.capabilities import AdaptsModel, FoldsIntoModel, StockPeft
from edgelora.engine.as_found import AsFound
from edgelora.errors import ExportUnsupported, PlanError, PluginBug
from edgelora.layers import FrozenEmbedding, FrozenLinear
from edgelora.manifest import Manifest
from edgelora.manifest.requirements import only_component
from edgelora.plan import Plan
from edgelora.plan.able import into_own

FROZEN = (FrozenLinear, FrozenEmbedding)
"""What an adapted layer wraps, for ``isinstance``."""


class WholeModel(Mapping[str, nn.Module]):
    """The layers of an adapter that is `AdaptsModel`: at no site is there one.

    Whoever asks each layer for something finds none to ask; whoever wants what learns, or the adapter's
    state, finds it here (`edgelora.engine.inject.trainable_parameters`, ``adapter_tensors``).

    Args:
        adapter: The object of the adapter part.
        model: What it made of the base, possibly another object.
        names: Of the base's modules, as they were before.
        children: Of each of them, as they were before.
    """

    def __init__(
        self,
        adapter: AdaptsModel,
        model: nn.Module,
        names: Mapping[nn.Module, str],
        children: Mapping[nn.Module, Mapping[str, nn.Module | None]],
    ) -> None:
        self.adapter = adapter
        self.model = model
        self._names = names
        self._children = children

    def __getitem__(self, site: str) -> nn.Module:
        raise KeyError(site)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """All state of the adapter, by the adapter's own names."""
        return self.adapter.adapter_state(self.model)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.adapter.load_adapter_state(self.model, tensors)

    def published(self, plan: Plan, base: str) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
        """What ``adapter_config.json`` holds, and the tensors of the file beside it.

        The first is None where stock PEFT would not compute the same on the plan's base; the tensors are then
        those of `tensors`.
        """
        if not isinstance(self.adapter, StockPeft) or not plan.parts["quantizer"].part.keeps_weights:
            return None, self.tensors()
        named = {"base_model_name_or_path": base, "revision": plan.recipe.revision}
        return {**self.adapter.peft_config(self.model), **named}, self.adapter.peft_tensors(self.model)

    def by_present_names(self, source: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """``source``, which knows linears by their names in the base, by those they have in `model`."""
        return lambda name: source(self._names.get(self.model.get_submodule(name), name))

    def folded(self, manifest: Manifest) -> Any:
        """A model of the base's architecture that computes what the adapted one does; see `FoldsIntoModel`.

        Args:
            manifest: Of the adapter.

        Raises:
            ExportUnsupported: There is none.
        """
        if not isinstance(self.adapter, FoldsIntoModel):
            own = into_own("REF", only_component(manifest))
            raise ExportUnsupported(
                f"adapter {manifest.identity.name} changes the model as a whole, and cannot be folded into "
                "its weights",
                fix=f"{own}, which is merged"
                if own
                else "apply the adapter unmerged: edgelora generate --adapter REF",
            )
        return self.adapter.folded(self.model)

    @property
    def base(self) -> nn.Module:
        """What was adapted."""
        return next(iter(self._names))

    def take_off(self) -> None:
        """Put the modules of the base back where others took their place; `put_back` undoes it."""
        self._adapted = {module: dict(module._modules) for module in self._children}
        _give_children(self._children)

    def put_back(self) -> None:
        """Put the adapter back where it was when it was taken off."""
        _give_children(self._adapted)


def adapt_whole(model: nn.Module, adapter: AdaptsModel, name: str, dtype: torch.dtype) -> WholeModel:
    """Let an adapter change a frozen model; where that fails, the model is left as it was.

    Args:
        model: The base, in which nothing learns.
        adapter: What changes it.
        name: Of the adapter part.
        dtype: Of the matrices that learn.

    Raises:
        PlanError: The adapter's options do not suit the model.
        PluginBug: The adapter returned no module, or one in which nothing learns.
    """
    names = {module: name for name, module in model.named_modules()}
    found = AsFound(model)
    device = next(model.parameters()).device
    try:
        adapted = _adapt(model, adapter, name)
        settle_modules((each for each in adapted.modules() if each not in names), device, dtype)
    except Exception:
        found.give_back()
        raise
    # Not the parameters: to keep those that others replaced would double the memory of a full fine-tuning.
    return WholeModel(adapter, adapted, names, found.children)


def _adapt(model: nn.Module, adapter: AdaptsModel, name: str) -> nn.Module:
    try:
        adapted = adapter.adapt(model)
    except ValueError as error:
        raise PlanError(
            f"adapter {name!r} cannot adapt this {type(model).__name__}: {error}", fix="change its options"
        ) from error
    if not isinstance(adapted, nn.Module):
        raise PluginBug(
            f"adapter {name!r} returned {type(adapted).__name__} for the model",
            fix="return an nn.Module from adapt",
        )
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise PluginBug(
            f"adapter {name!r} made a {type(adapted).__name__} in which nothing learns",
            fix="let adapt return a model with parameters that require gradients",
        )
    return adapted


def _give_children(children: Mapping[nn.Module, Mapping[str, nn.Module | None]]) -> None:
    for module, each in children.items():
        module._modules = dict(each)


def modules_of(layers: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Where an adapter's parameters are: its layers by site name, or the model as a whole under ``""``."""
    return {"": layers.model} if isinstance(layers, WholeModel) else layers


def adapted_model(model: Any, layers: Mapping[str, nn.Module]) -> Any:
    """What computes: ``model``, in which the layers are, or what the adapter made of it."""
    return layers.model if isinstance(layers, WholeModel) else model


def settle_modules(modules: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Move what the adapter added, frozen tensors too, to the base's device; learned matrices take ``dtype``.

    Vectors and scalars stay as they were made: they cost nothing, and rounding a magnitude moves the start.
    """
    for module in modules:
        if isinstance(module, FROZEN):
            continue
        module._apply(lambda tensor: tensor.to(device), recurse=False)
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.dim() >= 2:
                parameter.data = parameter.data.to(dtype)
