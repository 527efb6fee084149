"""The small real model, tokenizer and rows the checks work on, written once per process."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from edgelora.engine.base import load_tokenizer, no_progress_bar
from edgelora.engine.data import Dataset, load_dataset
from edgelora.errors import CombinationError
from edgelora.micro.tokenizer import VOCABULARY_SIZE, write_tokenizer
from edgelora.parts import Derivative, Kind
from edgelora.plan import Plan, make_plan
from edgelora.plan.options import options_model
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.registry.status import FoundPart
from edgelora.testing.check import skip

TASKS = ("first", "second")
SMALL: Mapping[str, Any] = {"rank": 4, "alpha": 8.0}
"""The adapter's options here unless a test says otherwise; dropout would make forwards differ."""


@cache
def folder() -> Path:
    """Of the base and the rows; it goes when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="edgelora-conformance-")
    _keep_until_exit.append(made)
    return Path(made.name)


_keep_until_exit: list[Any] = []


@cache
def base_folder() -> Path:
    """A llama of two blocks, widths 64, 96 and 32, with a byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    place = folder() / "base"
    place.mkdir()
    write_tokenizer(place)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(), no_progress_bar():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(place)
    return place


@cache
def tokenizer() -> Any:
    """That of the base."""
    return load_tokenizer(base_folder())


def data(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of unequal length of each task, as a recipe names them; some are held out."""
    return [{"path": str(_rows(task)), "task": task, "held_out": 0.3} for task in tasks]


@cache
def _rows(task: str) -> Path:
    path, draw = folder() / f"{task}.jsonl", random.Random(task)
    with path.open("w") as file:
        for number in range(12):
            question, answer = "say " + "x" * draw.randint(1, 9), "y" * draw.randint(1, 9) + str(number)
            file.write(json.dumps({"instruction": question, "input": "", "output": answer}) + "\n")
    return path


@cache
def dataset(tasks: tuple[str, ...]) -> Dataset:
    """The rows of some tasks."""
    recipe = make_recipe({"base": str(base_folder()), "data": data(tasks)})
    return load_dataset(recipe.data, tokenizer(), max_length=64)


def plan_with(
    registry: Registry, adapter: FoundPart, parts: Mapping[str, Any], *, tasks: tuple[str, ...] = ("main",)
) -> Plan:
    """A plan for the tiny base, baseline parts where ``parts`` names no others.

    Args:
        registry: The installed plugins.
        adapter: The adapter of the plan.
        parts: As in a recipe, ``train`` included.
        tasks: Names of the tasks of its data.

    Raises:
        CombinationError: The parts refuse each other.
    """
    document = {
        "derivative": _derivative(registry, adapter),
        "base": str(base_folder()),
        "data": data(tasks),
        "quantizer": "baseline:none",
        "rank_scheduler": "baseline:constant",
        "loss_combiner": "baseline:sum",
        "evaluators": [],
        "adapter": {
            "name": adapter.qualified_name,
            **small_options(adapter),
            **adapter.part.kit.get("options", {}),
        },
        "out": str(folder() / "run"),
    }
    # What is checked is each layer's own forward.
    train = {"fused": False, **parts.get("train", {})}
    return make_plan(make_recipe({**document, **parts, "train": train}), registry)


def companion(registry: Registry, found: FoundPart) -> FoundPart:
    """An adapter with the abilities that a part needs: its own plugin's, else plain LoRA, else any.

    Raises:
        SkipTest: None is installed.
    """
    needs = set(found.part.needs)
    offered = [each for each in registry.parts("adapter") if each.plugin != found.plugin]
    offered.sort(key=lambda each: each.qualified_name != "lora:lora")
    able = [*own_parts(registry, found, "adapter"), *offered]
    for adapter in (each for each in able if needs <= set(each.part.abilities)):
        try:
            plan_with(registry, adapter, {})
        except CombinationError:
            continue
        return adapter
    skip(f"no adapter is installed that is {' and '.join(sorted(needs)) or 'usable here'}")


def small_options(adapter: FoundPart) -> dict[str, Any]:
    """`SMALL`, as far as an adapter has such options: one that adapts the model as a whole may have none."""
    fields = options_model(adapter).model_fields
    return {name: value for name, value in SMALL.items() if name in fields}


def own_parts(registry: Registry, found: FoundPart, kind: Kind) -> list[FoundPart]:
    """Parts of a kind that the plugin of a part offers, in its own order."""
    (plugin,) = [status for status in registry.plugins if status.name == found.plugin]
    return [each for each in plugin.parts if each.kind == kind]


def _derivative(registry: Registry, adapter: FoundPart) -> str:
    """One under whose name an adapter of this kind can be packed: the plugin's own, or LoRA's."""
    own = [
        each.qualified_name
        for each in registry.derivatives()
        if each.plugin == adapter.plugin and _adapter_of(each.derivative) == adapter.part.name
    ]
    return own[0] if own else "lora:lora"


def _adapter_of(derivative: Derivative) -> str | None:
    """The adapter a derivative names, with or without options."""
    given = derivative.parts.get("adapter")
    name: str | None = given["name"] if isinstance(given, Mapping) else given
    return name
