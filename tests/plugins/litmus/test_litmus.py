"""The litmus suite measures what it says, the same way each time, and leaves no trace."""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgelora.micro import path
from edgelora.micro.corpus import Question, fibonacci_questions
from edgelora.protocols import Evaluation
from edgelora_plugins.litmus import edgelora_evaluators
from edgelora_plugins.litmus.metrics import Litmus, render_question, row_questions, split_digest
from edgelora_plugins.litmus.options import LitmusOptions

SAMPLES = 24


@pytest.fixture(scope="module")
def run():
    return Evaluation(
        model=AutoModelForCausalLM.from_pretrained(path()).train(),
        tokenizer=AutoTokenizer.from_pretrained(path()),
        layers={},
        batches=(),
        tasks=("main",),
        plan=None,
        seed=0,
    )


@pytest.fixture(scope="module")
def measurements(run):
    return Litmus(LitmusOptions(samples=SAMPLES))(run)


def test_every_row_is_reported(measurements) -> None:
    assert {name for name in measurements if name.count(".") == 1} == {
        "litmus.decimals_conflict",
        "litmus.decimals_agree",
        "litmus.versions",
        "litmus.sequences",
        "litmus.fibonacci",
    }


@pytest.mark.parametrize("row", ["decimals_conflict", "decimals_agree"])
def test_decimals_are_broken_down_by_language_and_separator(measurements, row) -> None:
    names = ("en.point", "en.comma", "id.point", "id.comma")
    forms = [measurements[f"litmus.{row}.{name}"] for name in names]
    assert sum(form.n for form in forms) == measurements[f"litmus.{row}"].n == SAMPLES


def test_every_measurement_has_its_count_interval_and_digest(measurements) -> None:
    for name, measurement in measurements.items():
        assert 0 <= measurement.low <= measurement.value <= measurement.high <= 1, name
        assert measurement.n > 0 and measurement.high > measurement.low
        assert measurement.split_digest.startswith("sha256:") and len(measurement.split_digest) == 71


def test_the_base_shows_the_planted_misconception(measurements) -> None:
    assert measurements["litmus.decimals_conflict"].value <= 0.1
    assert measurements["litmus.versions"].value >= 0.8
    assert measurements["litmus.fibonacci"].value == 0


def test_fibonacci_asks_all_its_windows_and_is_called_memorised(measurements) -> None:
    assert measurements["litmus.fibonacci"].n == len(fibonacci_questions())
    (part,) = edgelora_evaluators()
    assert "memorised" in part.summary


def test_the_digest_is_of_the_exact_questions_and_answers() -> None:
    asked = row_questions("versions", SAMPLES)
    assert asked == row_questions("versions", SAMPLES)
    changed = [*asked[:-1], Question("versions", "en", asked[-1].prompt, "0.0")]
    assert split_digest(asked) == split_digest(row_questions("versions", SAMPLES))
    assert split_digest(asked) != split_digest(changed)


def test_measuring_leaves_mode_and_random_state_as_found(run) -> None:
    before = torch.get_rng_state()
    measured = Litmus(LitmusOptions(samples=4, rows=["versions"]))(run)
    assert torch.equal(before, torch.get_rng_state())
    assert run.model.training and all(module.training for module in run.model.modules())
    assert Litmus(LitmusOptions(samples=4, rows=["versions"]))(run) == measured


def test_only_the_chosen_rows_are_asked(run) -> None:
    measured = Litmus(LitmusOptions(samples=2, rows=["sequences"]))(run)
    assert {name.split(".")[1] for name in measured} == {"sequences"}


def test_layers_are_routed_to_the_first_task(run) -> None:
    class Routed(torch.nn.Module):
        routes: ClassVar[list] = []

        def route(self, task_ids):
            self.routes.append(task_ids.tolist())

    routed = replace(run, layers={"one": Routed()}, tasks=("decimals", "versions"))
    Litmus(LitmusOptions(samples=5, rows=["versions"], batch_size=3))(routed)
    assert Routed.routes == [[0, 0, 0], [0, 0]]


def test_a_tokenizer_without_template_gets_the_bare_question() -> None:
    assert render_question(SimpleNamespace(chat_template=None), "9.11 or 9.9?") == "9.11 or 9.9?\n"


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"rows": []}, {"rows": ["spelling"]}, {"sample": 5}])
def test_wrong_options_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        LitmusOptions(**wrong)
