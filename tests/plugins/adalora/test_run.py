"""What a run with AdaLoRA measures and publishes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_tokenizer, write_rows
from torch import nn

from edgelora.engine.published import peft_form
from edgelora.layers import FrozenLinear
from edgelora.plan import make_plan
from edgelora.protocols import Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run
from edgelora_plugins.adalora.layer import SvdLinear

KEPT = {"o": 4, "q": 1, "v": 0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A function that makes a recipe: keywords replace its keys, ``train`` is merged."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tokenizer(folder)
    save_llama(folder)
    data = [{"path": str(write_rows(folder / "train.jsonl", 40)), "held_out": 0.2}]

    def make(out, train, **changes):
        settings = {"batch_size": 4, "accumulation": 1, "threads": 1, **train}
        document = {"base": str(folder), "derivative": "adalora", "data": data, "evaluators": ["loss"]}
        return make_recipe({**document, "out": str(out), "train": settings, **changes})

    return make


def pruned(kept):
    layers = {}
    for depth, (site, count) in enumerate(kept.items()):
        torch.manual_seed(depth)
        layer = SvdLinear(FrozenLinear.of(nn.Linear(16, 12)), Site(site, depth, site, 6, 8.0))
        nn.init.normal_(layer.lora_E)
        layer.zero_ranks(torch.arange(6) < count)
        layers[site] = layer
    return layers


def plan():
    return make_plan(make_recipe({"base": "micro", "derivative": "adalora"}), Registry.discover())


def test_only_kept_components_are_published_and_alpha_is_still_over_the_rank_of_the_start():
    layers = pruned(KEPT)
    form = peft_form(layers, plan())
    # PEFT knows no rank 0: a site that was pruned away is left out.
    assert form.ranks == {"o": 4, "q": 1}
    for site, rank in form.ranks.items():
        A, B = (form.tensors[f"{site}.lora_{side}.weight"] for side in "AB")
        assert (A.shape, B.shape) == ((rank, 16), (12, rank))
        assert form.alphas[site] / rank == pytest.approx(8.0 / (6 + 1e-5))
        layer = layers[site]
        change = layer.scaling * layer.lora_B @ (layer.lora_E * layer.lora_A)
        torch.testing.assert_close(form.alphas[site] / rank * B @ A, change, rtol=1e-5, atol=1e-7)


def test_where_everything_was_pruned_a_change_of_zero_is_published():
    form = peft_form(pruned(dict.fromkeys(KEPT, 0)), plan())
    assert form.ranks == dict.fromkeys(KEPT, 1)
    assert not any(tensor.any() for tensor in form.tensors.values())


def test_the_published_ranks_sum_to_the_budget(recipe, tmp_path):
    result = run(
        recipe(
            tmp_path / "run",
            {"max_steps": 8, "learning_rate": 1e-2},
            adapter={"rank": 6},
            rank_scheduler={"target_rank": 2, "warmup_steps": 0, "final_steps": 2, "every": 1},
        ),
        Registry.discover(),
    )
    config = json.loads((result.folder / "adapter_config.json").read_text())
    tensors = load_file(result.folder / "adapter_model.safetensors")
    ranks = {name: len(tensor) for name, tensor in tensors.items() if ".lora_A" in name}
    assert sum(ranks.values()) == 2 * 14
    assert len(set(ranks.values())) > 1 and config["rank_pattern"]


def test_the_measured_loss_is_that_of_the_answers_without_the_regularization(recipe, tmp_path):
    learning_nothing = {"max_steps": 1, "learning_rate": 1e-12, "evaluate_base": True}
    parts = {"adapter": {"rank": 4, "orthogonality": 1000.0}, "rank_scheduler": "constant"}
    result = run(recipe(tmp_path / "run", learning_nothing, **parts), Registry.discover())
    measured, base = (each["main.loss"].value for each in (result.measurements, result.base_measurements))
    assert measured == pytest.approx(base, rel=1e-6)
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert next(records)["loss"] > 1000
