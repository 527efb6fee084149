"""Evaluators measure and leave no trace."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgelora.engine.base import load_base, load_tokenizer
from edgelora.engine.data import load_dataset
from edgelora.engine.evaluate import evaluate
from edgelora.engine.inject import inject
from edgelora.errors import PluginBug
from edgelora.intervals import mean_interval, wilson_interval
from edgelora.protocols import Measurement


@pytest.fixture
def measure(plan, tiny_base):
    """Evaluates a fresh base with some evaluators; answers measurements, model and dataset."""

    def run(evaluators, adapted=False):
        the_plan = plan(evaluators=evaluators)
        model, tokenizer = load_base(the_plan), load_tokenizer(tiny_base)
        dataset = load_dataset(the_plan.recipe.data, tokenizer, max_length=256)
        layers = inject(model, the_plan) if adapted else {}
        model.train()
        measurements = evaluate(model, layers, the_plan, tokenizer=tokenizer, dataset=dataset)
        return measurements, model, dataset

    return run


def test_loss_is_the_mean_over_all_held_out_labelled_tokens(measure, tiny_base):
    measurements, _, dataset = measure(["loss"])
    reference = AutoModelForCausalLM.from_pretrained(tiny_base)
    total = count = 0
    for row in dataset.held_out:
        ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
        labelled = int((labels[:, 1:] != -100).sum())
        total += float(reference(input_ids=ids, labels=labels).loss) * labelled
        count += labelled
    found = measurements["main.loss"]
    assert found.value == pytest.approx(total / count, rel=1e-5)
    assert found.n == count
    assert found.low < found.value < found.high
    assert found.split_digest == dataset.held_out_digest
    assert measurements["main.perplexity"].value == pytest.approx(2.718281828**found.value, rel=1e-6)


def test_exact_match_counts_answers_letter_by_letter(measure, monkeypatch):
    def answers(model, tokenizer, prompts, **options):
        return ["wrong"] + [f" {example}" for example in expected[1:]]

    _, _, dataset = measure([])
    expected = [row.response for row in dataset.held_out]
    monkeypatch.setattr("edgelora_plugins.baseline.metrics.greedy", answers)
    found = measure(["exact-match"])[0]["main.exact_match"]
    assert found.n == len(expected)
    assert found.value == (len(expected) - 1) / len(expected)


def test_random_state_mode_and_base_are_left_as_found(measure):
    torch.manual_seed(5)
    random.seed(5)
    numbers = (torch.rand(1).item(), random.random())
    torch.manual_seed(5)
    random.seed(5)
    _, model, _ = measure(["loss", "exact-match"])
    assert model.training
    assert (torch.rand(1).item(), random.random()) == numbers


@pytest.mark.parametrize("answer", [{"x": 0.5}, {"main.loss": Measurement(0, 1, 0, 0)}])
def test_an_evaluator_that_breaks_its_protocol_is_named(measure, monkeypatch, answer):
    monkeypatch.setattr("edgelora_plugins.baseline.metrics.ExactMatch.__call__", lambda self, run: answer)
    with pytest.raises(PluginBug, match="evaluator 'exact-match' gave"):
        measure(["loss", "exact-match"])


def test_wilson_interval_against_published_values():
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mean_interval_shrinks_with_the_root_of_n():
    low, high = mean_interval(1.0, 2.0, 100)
    assert (low, high) == pytest.approx((1 - 0.392, 1 + 0.392), abs=1e-3)
