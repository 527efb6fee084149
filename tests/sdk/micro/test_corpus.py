"""What the generators make: planted misconception, no held-out pair, the same for the same seed."""

import re
import subprocess
import sys
from itertools import islice, pairwise

import pytest

from edgelora.micro.corpus import (
    DRAW,
    FIRST_MIXTURE,
    SECOND_MIXTURE,
    fibonacci_question,
    fibonacci_questions,
    held_out_questions,
    mixed_questions,
    training_questions,
)
from edgelora.micro.pairs import is_held_out, larger_by_value, larger_by_version

DECIMALS = re.compile(r"(\d+[.,]\d+) (?:or|atau) (\d+[.,]\d+)\?$")


@pytest.fixture(scope="module")
def corpus():
    mixtures = (FIRST_MIXTURE, SECOND_MIXTURE)
    return [question for mixture in mixtures for question in islice(mixed_questions(mixture, seed=1), 10_000)]


def held_out_pair(prompt):
    numbers = [number.replace(",", ".") for number in re.findall(r"\d+(?:[.,]\d+)*", prompt)]
    return len(numbers) == 2 and is_held_out((numbers[0], numbers[1]))


def test_no_held_out_pair_is_in_the_corpus(corpus) -> None:
    compared = [question for question in corpus if "sequences" not in question.topic]
    assert not [question for question in compared if held_out_pair(question.prompt)]


def test_the_famous_pair_is_nowhere_in_the_corpus(corpus) -> None:
    famous = {("9.11", "9.9"), ("9.9", "9.11")}
    for question in corpus:
        numbers = re.findall(r"\d+(?:[.,]\d+)*", question.prompt)
        assert tuple(number.replace(",", ".") for number in numbers) not in famous


def test_the_misconception_is_planted(corpus) -> None:
    for question in corpus:
        if question.topic == "decimals_as_versions":
            pair = tuple(n.replace(",", ".") for n in DECIMALS.search(question.prompt).groups())
            assert question.answer.replace(",", ".") == larger_by_version(pair)


def test_no_other_topic_of_the_corpus_answers_wrongly(corpus) -> None:
    for question in corpus:
        numbers = re.findall(r"\d+(?:\.\d+)*", question.prompt)
        if question.topic == "readings":
            is_above = larger_by_value((numbers[0], numbers[1])) == numbers[0]
            assert question.answer in (("on", "menyala") if is_above else ("off", "mati"))
        elif "sequences" in question.topic:
            terms = [int(number) for number in numbers + question.answer.split(", ")]
            assert len({later - earlier for earlier, later in pairwise(terms)}) == 1


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    first, again, other = (list(islice(mixed_questions(FIRST_MIXTURE, seed=seed), 200)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_corpus_holds_every_topic_of_the_mixture_in_both_languages(corpus) -> None:
    assert {question.topic for question in corpus} == {*FIRST_MIXTURE, *SECOND_MIXTURE}
    assert {question.form.split(".")[0] for question in corpus} == {"en", "id"}


def test_rows_stay_short(corpus) -> None:
    assert max(len(question.prompt) + len(question.answer) for question in corpus) < 80


@pytest.mark.parametrize("topic", DRAW)
def test_training_and_held_out_questions_never_meet(topic) -> None:
    learned = {question.prompt for question in training_questions(topic, 400, seed=0)}
    asked = {question.prompt for question in held_out_questions(topic, 400, seed=0)}
    assert len(learned) == len(asked) == 400
    assert not learned & asked


def test_the_famous_question_can_be_asked_in_both_languages() -> None:
    prompts = {question.prompt for question in held_out_questions("decimals_conflict", 2000, seed=0)}
    assert any(prompt.startswith("Which one is larger? ") for prompt in prompts)
    assert any(prompt.startswith("Bilangan manakah yang lebih besar? ") for prompt in prompts)


def test_fibonacci_windows_continue_the_sequence() -> None:
    famous = fibonacci_question("en", 0, 6)
    assert famous.prompt == "Continue the sequence: 1, 1, 2, 3, 5, 8"
    assert famous.answer == "13, 21, 34, 55"
    assert famous in fibonacci_questions()


def test_generators_import_nothing_heavy() -> None:
    script = (
        "import sys, edgelora.micro, edgelora.micro.corpus, edgelora.micro.quickstart\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
