"""Forgetting: what was answered before training and is not any more, question by question."""

from copy import deepcopy

import pytest
import torch
from tiny_models import save_llama, save_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from edgelora.errors import CombinationError, PlanError
from edgelora.intervals import paired_interval
from edgelora.layers import FrozenLinear, LowRankLinear
from edgelora.layers.generate import greedy
from edgelora.layers.start import as_started
from edgelora.plan import make_plan
from edgelora.protocols import Evaluation, Example, Factors, Site
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.clora.metrics import Forgetting
from edgelora_plugins.clora.options import ForgettingOptions


def test_a_layer_computes_its_start_inside_and_itself_again_afterwards():
    torch.manual_seed(0)
    layer = LowRankLinear(FrozenLinear.of(nn.Linear(6, 4)), Site("q", 0, "q", 2, 2.0))
    nn.init.normal_(layer.lora_B)
    past = Factors(torch.randn(3, 6), torch.randn(4, 3), 0.5)
    x = torch.randn(2, 6)
    before = layer(x)
    with as_started({"q": layer}, {"q": (past,)}):
        torch.testing.assert_close(layer(x), layer.base(x) + 0.5 * x @ past.A.T @ past.B.T)
    with as_started({"q": layer}, {}):
        torch.testing.assert_close(layer(x), layer.base(x))
    assert torch.equal(layer(x), before) and "forward" not in vars(layer)


@torch.no_grad()
def adapted(folder, past):
    """A model of two blocks and its tokenizer, its adapted layers, and a function that tells its answers.

    The first layer has a past and learned nothing, the second learned; before they take their places the
    past is in the weights.
    """
    tokenizer = save_tokenizer(folder)
    save_llama(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    first, second = (block.mlp for block in model.model.layers)
    layers = {}
    for depth, mlp in enumerate((first, second)):
        base = FrozenLinear.of(deepcopy(mlp.down_proj))
        layers[str(depth)] = LowRankLinear(base, Site(str(depth), depth, "down_proj", 2, 2.0))
    layers["1"].lora_A.normal_(std=0.1)
    layers["1"].lora_B.normal_()
    first.down_proj.weight += past.scaling * past.B @ past.A
    questions = [f"say {a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    before = greedy(model, tokenizer, questions, max_new_tokens=2)
    first.down_proj, second.down_proj = layers.values()
    after = greedy(model, tokenizer, questions, max_new_tokens=2)
    return model, tokenizer, layers, list(zip(questions, before, after, strict=True))


def test_it_counts_what_is_lost_less_what_is_gained(tmp_path):
    torch.manual_seed(0)
    past = Factors(torch.randn(2, 128), torch.randn(64, 2), 0.1)
    model, tokenizer, layers, answers = adapted(tmp_path, past)
    kept = next((question, before) for question, before, after in answers if before.strip() == after.strip())
    changed = [each for each in answers if each[1].strip() != each[2].strip()]
    lost, lost_too, gained, never = changed[:4]
    asked = [kept, lost[:2], lost_too[:2], (gained[0], gained[2]), (never[0], "neither")]
    examples = [Example("old", question, response) for question, response in asked]
    run = Evaluation(
        model, tokenizer, layers, (), ("old",), None, 0, examples=examples, past={"0": (past,)}
    )  # fmt: skip
    found = Forgetting(ForgettingOptions(tasks=["old"], max_new_tokens=2))(run)
    assert found["old.forgetting"].value == pytest.approx((2 - 1) / 5)
    assert found["old.before"].value == pytest.approx(3 / 5)
    low, high = paired_interval(2, 1, 5)
    assert (found["old.forgetting"].low, found["old.forgetting"].high) == (low, high)
    assert greedy(model, tokenizer, [lost[0]], max_new_tokens=2) == [lost[2]]  # and it computes as it did


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(0, 0, 1), (1, 0, 1), (50, 0, 50), (0, 7, 7), (30, 10, 200)]
)
def test_the_interval_holds_the_value_and_is_never_empty(lost, gained, n):
    low, high = paired_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1 and low < high


def test_the_interval_is_that_of_the_published_method():
    # b = 30, c = 10, n = 200: (30.5 − 10.5) / 202 ± 1.96 √((41 / 202 − (20 / 202)²) / 202)
    low, high = paired_interval(30, 10, 200)
    assert (low, high) == (pytest.approx(0.0384, abs=1e-4), pytest.approx(0.1596, abs=1e-4))


def plan_with(data, adapter="lora:lora", **options):
    evaluators = [{"name": "forgetting", **options}]
    document = {"base": "micro", "data": data, "adapter": adapter, "evaluators": evaluators}
    return make_plan(make_recipe(document), Registry.discover())


def test_it_asks_about_the_tasks_that_are_only_measured():
    data = [
        {"path": "new.jsonl", "task": "new", "held_out": 0.5},
        {"path": "o", "task": "old", "held_out": 1},
    ]
    plan = plan_with(data)
    assert plan.evaluators[0].options.chosen(plan) == ["old"]
    assert plan_with(data, tasks=["new"]).evaluators[0].options.chosen(plan) == ["new"]


def test_a_plan_without_an_earlier_task_is_refused():
    with pytest.raises(PlanError, match="all tasks of the data are trained on") as caught:
        plan_with([{"path": "new.jsonl"}])
    assert "held_out: 1" in caught.value.fix
    with pytest.raises(PlanError, match="the data have no task 'old'"):
        plan_with([{"path": "new.jsonl"}], tasks=["old"])


def test_an_adapter_of_the_whole_model_is_refused_for_it_has_no_layers_to_set_back():
    data = [{"path": "new.jsonl"}, {"path": "o", "task": "old", "held_out": 1}]
    with pytest.raises(
        CombinationError, match="adapter 'weights', which is AdaptsModel: it sets layers back"
    ):
        plan_with(data, adapter="full:weights")
