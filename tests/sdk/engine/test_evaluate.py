"""Evaluators measure and leave no trace."""

import random

import pytest
import torch
from tiny_models import write_rows
from transformers import AutoModelForCausalLM

from edgelora.engine.base import load_base, load_tokenizer
from edgelora.engine.batches import PaddedBatches
from edgelora.engine.data import load_dataset
from edgelora.engine.evaluate import evaluate
from edgelora.engine.inject import inject
from edgelora.errors import PluginBug
from edgelora.intervals import mean_interval, wilson_interval
from edgelora.layers import held_out
from edgelora.protocols import Measurement


@pytest.fixture
def measure(plan, tiny_base):
    """Evaluates a fresh base with some evaluators; answers measurements, model and dataset."""

    def run(evaluators, adapted=False, wrap=lambda model: {}, tell=lambda line: None, **changes):
        the_plan = plan(evaluators=evaluators, **changes)
        model, tokenizer = load_base(the_plan), load_tokenizer(tiny_base)
        dataset = load_dataset(the_plan.recipe.data, tokenizer, max_length=256)
        layers = inject(model, the_plan) if adapted else wrap(model)
        model.train()
        measurements = evaluate(model, layers, the_plan, tokenizer=tokenizer, dataset=dataset, tell=tell)
        return measurements, model, dataset

    return run


class Routed(torch.nn.Module):
    """Notes the tasks of the rows that pass, and fails where their number is not that of the rows."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.task_ids = None
        self.passes = []

    def route(self, task_ids):
        self.task_ids = task_ids

    def forward(self, x):
        assert len(self.task_ids) == len(x)
        self.passes.append((x.shape[1], set(self.task_ids.tolist())))
        return self.base(x)


@pytest.fixture
def two_tasks(rows, tmp_path):
    """One recipe source for each of two tasks, with unequal numbers of rows."""
    other = write_rows(tmp_path / "other.jsonl", 30, seed=1)
    return [
        {"path": str(rows), "task": "versions", "held_out": 0.1},
        {"path": str(other), "task": "decimals", "held_out": 0.3},
    ]


def test_evaluators_that_measured_nothing_are_named_with_the_reason(measure, rows):
    told = []
    found, *_ = measure(["merge-error", "ranks", "loss"], tell=told.append)
    assert found.keys() == {"main.loss", "main.perplexity"}
    assert told == [
        "evaluator 'merge-error' measured nothing: there is no adapter with layers to fold",
        "evaluator 'ranks' measured nothing: no layer is a low-rank product, of which components could be "
        "counted",
    ]
    assert measure(["exact-match"], tell=told.append, data=[{"path": str(rows)}])[0] == {}
    assert told[2].startswith("evaluator 'exact-match' measured nothing: no row is held out; hold some out")


def test_reasons_are_told_of_evaluators_that_measured_something_too(measure, monkeypatch):
    def partly(self, run):
        run.tell("task 'b' asks no question")
        return {"a.loss": Measurement(1.0, 1, 1.0, 1.0)}

    told = []
    monkeypatch.setattr("edgelora_plugins.baseline.metrics.HeldOutLoss.__call__", partly)
    measure(["loss"], tell=told.append)
    monkeypatch.setattr("edgelora_plugins.baseline.metrics.HeldOutLoss.__call__", lambda self, run: {})
    measure(["loss"], tell=told.append)
    assert told == [
        "evaluator 'loss' left something out: task 'b' asks no question",
        "evaluator 'loss' measured nothing: it found nothing of its kind in this model and in the held-out "
        "rows",
    ]


def test_generating_evaluators_route_the_layers_to_the_task_they_measure(measure, two_tasks):
    def wrap(model):
        block = model.model.layers[0].self_attn
        block.q_proj = Routed(block.q_proj)
        return {"q_proj": block.q_proj}

    _, model, _ = measure(["loss", "exact-match"], wrap=wrap, data=two_tasks)
    passes = model.model.layers[0].self_attn.q_proj.passes
    generated = [tasks for length, tasks in passes if length == 1]
    versions = generated.count({0})
    assert 0 < versions < len(generated)
    assert generated == [{0}] * versions + [{1}] * (len(generated) - versions)


def test_a_digest_is_of_the_examples_measured(measure, two_tasks):
    samples = {"name": "exact-match", "samples": 5}
    some, _, dataset = measure(["loss", samples], data=two_tasks)
    alone = measure(["loss", samples], data=two_tasks[:1])[0]
    more = measure([samples | {"samples": 6}], data=two_tasks)[0]
    for metric in ("loss", "exact_match"):
        assert some[f"versions.{metric}"].split_digest == alone[f"versions.{metric}"].split_digest
        assert some[f"versions.{metric}"].split_digest != some[f"decimals.{metric}"].split_digest
    assert some["versions.exact_match"].split_digest != more["versions.exact_match"].split_digest
    assert dataset.held_out_digest not in {measurement.split_digest for measurement in some.values()}


@pytest.mark.parametrize(
    ("options", "length"), [({}, 41), ({"longest_answer": 7}, 7), ({"max_new_tokens": 3}, 3)]
)
def test_answers_are_as_long_as_the_longest_expected_one(measure, monkeypatch, tmp_path, options, length):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"prompt": "{n}?", "completion": "{"y" * n}"}}\n' for n in range(31, 41)))
    asked = []

    def answers(model, tokenizer, prompts, *, max_new_tokens, **rest):
        asked.append(max_new_tokens)
        return [""] * len(prompts)

    monkeypatch.setattr("edgelora.layers.answers.greedy", answers)
    source = {"path": str(path), "held_out": 0.9}
    _, _, dataset = measure([{"name": "exact-match", **options}], data=[source])
    longest = max(len(row.response) for row in dataset.held_out)
    assert asked == [longest + 1 if not options else length]
    assert longest > 32


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
    assert measurements["main.perplexity"].value == pytest.approx(2.718281828**found.value, rel=1e-6)


def test_exact_match_counts_answers_letter_by_letter(measure, monkeypatch):
    def answers(model, tokenizer, prompts, **options):
        return ["wrong"] + [f" {example}" for example in expected[1:]]

    _, _, dataset = measure([])
    expected = [row.response for row in dataset.held_out]
    monkeypatch.setattr("edgelora.layers.answers.greedy", answers)
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


def test_under_a_memory_budget_no_more_rows_are_measured_at_a_time_than_trained_on(
    plan, measure, monkeypatch
):
    sizes = []

    def remembering(rows, layers, tokenizer, device, batch_size):
        sizes.append(batch_size)
        return PaddedBatches(rows, layers, tokenizer, device, batch_size)

    monkeypatch.setattr("edgelora.engine.evaluate.PaddedBatches", remembering)
    free, _, _ = measure(["loss"])
    bound, _, _ = measure(["loss"], memory_budget="64GiB")
    assert sizes == [16, 2]
    assert free["main.loss"].value == pytest.approx(bound["main.loss"].value, rel=1e-5)


def test_no_more_rows_have_logits_at_a_time_than_in_training(measure, monkeypatch):
    many = []
    take = held_out.row_losses
    monkeypatch.setattr(held_out, "row_losses", lambda *given: many.append(given[2]) or take(*given))
    measure(["loss"], train={"loss_rows": 16})
    assert set(many) == {16}
