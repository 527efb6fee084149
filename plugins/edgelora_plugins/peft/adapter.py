"""An adapter that PEFT makes."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from edgelora.errors import DependencyMissing
from edgelora.layers import FrozenLinear
from edgelora_plugins.peft.names import check_names
from edgelora_plugins.peft.options import PeftOptions
from edgelora_plugins.peft.refusals import check_it_learns, check_kept, heard, told_as_refusal, told_on_shapes

TRAINED, LOADED = "default", "loaded"
"""What PEFT calls the one adapter of a model: as it was made, and one that is made to be loaded."""


class PeftAdapter:
    """Any method of PEFT, on one model.

    Args:
        options: Of the method; their class knows its type.

    Raises:
        OptionsError: PEFT refuses the options.
        DependencyMissing: The installed PEFT is older than the method, or than an option that is set.
    """

    tuned: PeftModel
    """What PEFT made of the model."""

    def __init__(self, options: PeftOptions) -> None:
        self.options = options
        with told_as_refusal(options, "cannot take these options"), heard(options):
            self.config = _config_of(options)
        self.name = TRAINED

    def adapt(self, model: Any) -> Any:
        """The model itself where PEFT replaced modules in it, and PEFT's model where that computes more.

        Raises:
            OptionsError: PEFT refuses the options on this model, or would take others.
            ValueError: It would change the base, or train it.
        """
        # Kept, for nothing else could take their places in memory, and be taken for them.
        named = [*model.named_parameters(), *model.named_buffers()]
        self._base = {id(tensor): tensor for _, tensor in named}
        before = [(name, tensor, _glimpse(tensor)) for name, tensor in named if not tensor.is_meta]
        check_names(self.options, model)
        with heard(self.options):
            with _refusals(self.options, model), _described_weights(model):
                self.tuned = get_peft_model(model, self.config)
            # Before what was heard, which does not say where.
            check_kept(self.options, self.tuned, self.name)
        if moved := [name for name, tensor, seen in before if not torch.equal(_glimpse(tensor), seen)]:
            raise ValueError(
                f"with these options PEFT starts by changing the base, such as {moved[0]}, which nothing may"
            )
        if learning := [name for name, tensor in named if tensor.requires_grad]:
            for tensor in self._base.values():
                tensor.requires_grad_(False)
            raise ValueError(f"with these options PEFT trains the base itself, such as {learning[0]}")
        check_it_learns(self.options, self.tuned)
        if self.config.is_prompt_learning:
            _count_positions_by_mask(self.tuned)
            return self.tuned
        computes_itself = type(self.tuned.base_model).forward is not BaseTuner.forward
        return self.tuned if computes_itself else model

    def adapter_state(self, model: Any) -> dict[str, Tensor]:
        """What is in PEFT's model and was not in the base, each tensor once."""
        seen: set[int] = set()
        state = {}
        for name, tensor in self._tensors():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[name] = tensor.detach()
        return state

    @torch.no_grad()
    def load_adapter_state(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `adapter_state`."""
        for name, tensor in self.adapter_state(model).items():
            tensor.copy_(tensors[name])

    def peft_config(self, model: Any) -> dict[str, Any]:
        """As PEFT writes it for a model that is not trained further."""
        config = {**self.config.to_dict(), "inference_mode": True}
        return {name: _plain(value) for name, value in config.items()}

    def peft_tensors(self, model: Any) -> dict[str, Tensor]:
        """As PEFT saves them; of virtual tokens what their encoder makes, without the encoder."""
        # Otherwise PEFT looks on the network for the configuration of the base.
        return get_peft_model_state_dict(self.tuned, adapter_name=self.name, save_embedding_layers=False)

    def load_peft_tensors(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `peft_tensors`."""
        if self.config.is_prompt_learning and self.name == TRAINED:
            # One without an encoder takes its place.
            self.config = dataclasses.replace(self.config, inference_mode=True)
            self.name = LOADED
            self.tuned.add_adapter(LOADED, self.config)
            self.tuned.set_adapter(LOADED)
            self.tuned.delete_adapter(TRAINED)
        set_peft_model_state_dict(self.tuned, dict(tensors), adapter_name=self.name)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for place, module in self.tuned.named_modules():
            for name, tensor in (*_parameters(module), *_buffers(module)):
                if id(tensor) not in self._base:
                    yield f"{place}.{name}", tensor


def _refusals(options: PeftOptions, model: Any) -> AbstractContextManager[None]:
    told = told_on_shapes if any(each.is_meta for each in model.parameters()) else told_as_refusal
    return told(options, f"cannot adapt this {type(model).__name__}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Described:
    """What PEFT asks of a weight that is kept in codes; asked for its values, it fails."""

    device: torch.device
    dtype: torch.dtype
    shape: torch.Size
    is_meta: bool
    ndim: int = 2


@contextmanager
def _described_weights(model: Any) -> Iterator[None]:
    """Inside, quantized linears tell device, dtype and shape of the weight they have not."""
    quantized = [part for part in model.modules() if isinstance(part, FrozenLinear) and part.weight is None]
    for part in quantized:
        device = next(part.buffers()).device
        shape = torch.Size((part.out_features, part.in_features))
        vars(part)["weight"] = _Described(device, model.dtype, shape, device.type == "meta")
    try:
        yield
    finally:
        for part in quantized:
            part.weight = None


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_parameters(recurse=False)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that ``state_dict`` has: others follow from the configuration."""
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer


def _glimpse(weight: Tensor) -> Tensor:
    """Some of its numbers, from all rows alike, on the CPU."""
    numbers = weight.detach().flatten()
    # An odd step meets every column of an even width.
    return numbers[:: numbers.numel() // 64 | 1].to("cpu", copy=True)


def _count_positions_by_mask(tuned: PeftModel) -> None:
    """Let rows that are padded on the left be continued as they are alone.

    Virtual tokens come before the padding. PEFT gives no positions, and the model then counts the padding:
    in a batch the virtual tokens would be farther from a short row than they were in training.
    """
    prepare = tuned.prepare_inputs_for_generation

    # Called kwargs: transformers asks for this name before it passes anything on.
    def with_positions(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(*args, **kwargs)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            embedded = inputs.get("inputs_embeds")
            tokens = (inputs["input_ids"] if embedded is None else embedded).shape[1]
            positions = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -tokens:]
        return inputs

    tuned.prepare_inputs_for_generation = with_positions


def _config_of(options: PeftOptions) -> PeftConfig:
    installed = {kind.value: made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    name = options.peft_type
    fix = "pip install -U peft"
    if name not in installed:
        raise DependencyMissing(f"PEFT {version('peft')} has no method {name}", fix=fix)
    known = {field.name for field in dataclasses.fields(installed[name])}
    given = options.model_dump()
    for field, value in list(given.items()):
        if field not in known:
            if value != type(options).model_fields[field].default:
                raise DependencyMissing(f"{name} of PEFT {version('peft')} has no option {field!r}", fix=fix)
            del given[field]
    return installed[name](task_type="CAUSAL_LM", **given)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, set):
        return sorted(value)
    return value.value if isinstance(value, enum.Enum) else value
