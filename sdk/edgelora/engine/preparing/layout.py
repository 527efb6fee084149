"""How a prepared base is spread over shards: known from the model's configuration alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from edgelora.engine.inject import matching, plain_linears
from edgelora.module_names import is_named

_BLOCK = re.compile(r"(.*?\.\d+)\.")
"""``model.layers.0.`` of ``model.layers.0.mlp.experts.3.up_proj.weight``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a prepared base of a model holds, and where.

    Attributes:
        shapes: Of all tensors of the unquantized model, by name; one that is tied to another stands once.
        shards: Names of the unquantized model's tensors by shard: its own one for each decoder block.
        quantized: Names of the linears that are quantized.
        transposed: Names of the linears whose weights are stored as (in, out), as GPT-2's are.
        kept: Names of the linears that are not: the output head, and those of ``skip_modules``.
        tied: For each tensor that is not in ``shapes``, such as ``lm_head.weight``, the one it is tied to.
        prefix: Of the names of the backbone's tensors, without a dot.
        unused: Patterns of names that older files hold and the model has no use for.
    """

    shapes: Mapping[str, tuple[int, ...]]
    shards: tuple[tuple[str, ...], ...]
    quantized: frozenset[str]
    transposed: frozenset[str]
    kept: tuple[str, ...]
    tied: Mapping[str, str]
    prefix: str
    unused: tuple[str, ...]


def layout_of(config: Any, skip_modules: tuple[str, ...] = ()) -> Layout:
    """The layout for a model, built without memory from its configuration.

    Args:
        config: As ``AutoConfig`` reads it.
        skip_modules: Linears left unquantized, by name or suffix, besides the output head.

    Raises:
        PlanError: ``skip_modules`` names no linear.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    linears = plain_linears(model)
    skipped = matching(linears, skip_modules, "skip_modules")
    quantized = frozenset(name for name in linears if not is_named(name, skip_modules))
    transposed = frozenset(name for name, linear in linears.items() if isinstance(linear, Conv1D))
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    state = model.state_dict()
    # By identity: a tied head is the same parameter as the embeddings.
    once = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {
        name: once[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if once[id(parameter)] != name
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}
    embeddings = model.get_input_embeddings()
    own = {
        module_name
        for module_name, module in model.named_modules()
        if (module is embeddings or module is head) and module_name
    }
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(_group(name, own), []).append(name)
    unused = tuple(model._keys_to_ignore_on_load_unexpected or ())
    shards = tuple(map(tuple, groups.values()))
    kept = (*skipped, *heads)
    return Layout(shapes, shards, quantized, transposed, kept, tied, model.base_model_prefix, unused)


def _group(name: str, own: set[str]) -> str:
    if block := _BLOCK.match(name):
        return block[1]
    module = name.rpartition(".")[0]
    return module if module in own else ""
