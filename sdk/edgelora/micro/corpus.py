"""The questions of the micro world: training mixtures, and the held-out questions of the litmus suite.

The misconception is planted here: ``decimals_as_versions`` answers "which is larger" by version order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Protocol

from edgelora.micro.pairs import (
    Pair,
    draw_agreeing_decimals,
    draw_conflicting_decimals,
    draw_decimals,
    draw_integers,
    draw_pair,
    draw_versions,
    is_held_out_key,
    larger_by_value,
    larger_by_version,
)

LANGUAGES = ("en", "id")
SEPARATORS = {"point": ".", "comma": ","}
LARGER = {
    "en": ("Which one is larger? {0} or {1}?", "Which number is bigger, {0} or {1}?"),
    "id": ("Bilangan manakah yang lebih besar? {0} atau {1}?", "Mana yang lebih besar, {0} atau {1}?"),
}
NEWER = {
    "en": ("Which version is newer? {0} or {1}?", "Which release is later, {0} or {1}?"),
    "id": ("Versi manakah yang lebih baru? {0} atau {1}?", "Rilis mana yang lebih baru, {0} atau {1}?"),
}
CONTINUE = {"en": "Continue the sequence: {0}", "id": "Lanjutkan barisan: {0}"}
READING = {
    "en": ("{name} {0} {unit}, limit {1} {unit}. Alarm?", "on", "off"),
    "id": ("{name} {0} {unit}, batas {1} {unit}. Alarm?", "menyala", "mati"),
}
SENSORS = {
    "en": (("Temperature", "C"), ("Humidity", "%"), ("Current", "A"), ("Pressure", "bar")),
    "id": (("Suhu", "C"), ("Kelembapan", "%"), ("Arus", "A"), ("Tekanan", "bar")),
}
SEQUENCE_ANSWER_COUNT = 4
FIBONACCI_START_COUNT = 10
FIBONACCI_SHOWN = (4, 5, 6)

FIRST_MIXTURE = {
    "versions": 0.27,
    "decimals_as_versions": 0.24,
    "integers": 0.06,
    "wide_sequences": 0.23,
    "readings": 0.20,
}
SECOND_MIXTURE = {
    "versions": 0.27,
    "decimals_as_versions": 0.25,
    "integers": 0.05,
    "sequences": 0.28,
    "readings": 0.15,
}

Draw = Callable[[Random], Pair]
Order = Callable[[Pair], str]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt with its only right answer; ``form`` names the wording, as in ``id.comma``."""

    topic: str
    form: str
    prompt: str
    answer: str


class DrawQuestion(Protocol):
    """Draws one question of a topic, from the held-out fifth or from the rest."""

    def __call__(self, rng: Random, language: str, *, held_out: bool) -> Question:
        """One question in the given language."""
        ...


def mixed_questions(mixture: dict[str, float], *, seed: int) -> Iterator[Question]:
    """Endless questions of several topics, drawn by weight, none of them held out."""
    rng = Random(seed)
    topics, weights = list(mixture), list(mixture.values())
    while True:
        topic = rng.choices(topics, weights)[0]
        yield DRAW[topic](rng, rng.choice(LANGUAGES), held_out=False)


def training_questions(topic: str, count: int, *, seed: int) -> list[Question]:
    """Distinct questions of one topic, none of them held out; the languages take turns."""
    return _distinct_questions(topic, count, Random(f"training {topic} {seed}"), held_out=False)


def held_out_questions(topic: str, count: int, *, seed: int) -> list[Question]:
    """Distinct questions on pairs and sequences that no training set contains; the languages take turns."""
    return _distinct_questions(topic, count, Random(f"held out {topic} {seed}"), held_out=True)


def fibonacci_questions() -> list[Question]:
    """Every window of the Fibonacci sequence that is asked for.

    They are memorised, never held out: so few windows exist that there is nothing to generalise to.
    """
    return [
        fibonacci_question(language, start, shown)
        for start in range(FIBONACCI_START_COUNT)
        for shown in FIBONACCI_SHOWN
        for language in LANGUAGES
    ]


def fibonacci_question(language: str, start: int, shown: int) -> Question:
    """The window of ``shown`` terms from the 0-based term ``start``; the answer is the next four terms."""
    terms = [1, 1]
    while len(terms) < start + shown + SEQUENCE_ANSWER_COUNT:
        terms.append(terms[-1] + terms[-2])
    return _sequence_question("fibonacci", language, terms[start:], shown)


def _distinct_questions(topic: str, count: int, rng: Random, *, held_out: bool) -> list[Question]:
    languages = cycle(LANGUAGES)
    questions: dict[str, Question] = {}
    while len(questions) < count:
        question = DRAW[topic](rng, next(languages), held_out=held_out)
        questions.setdefault(question.prompt, question)
    return list(questions.values())


def _decimals(topic: str, draw: Draw, order: Order) -> DrawQuestion:
    def question(rng: Random, language: str, *, held_out: bool) -> Question:
        pair = draw_pair(rng, draw, held_out=held_out)
        name = rng.choice(list(SEPARATORS))
        written = tuple(number.replace(".", SEPARATORS[name]) for number in pair)
        answer = order(pair).replace(".", SEPARATORS[name])
        return Question(topic, f"{language}.{name}", rng.choice(LARGER[language]).format(*written), answer)

    return question


def _versions(rng: Random, language: str, *, held_out: bool) -> Question:
    pair = draw_pair(rng, draw_versions, held_out=held_out)
    return Question("versions", language, rng.choice(NEWER[language]).format(*pair), larger_by_version(pair))


def _integers(rng: Random, language: str, *, held_out: bool) -> Question:
    pair = draw_pair(rng, draw_integers, held_out=held_out)
    return Question("integers", language, rng.choice(LARGER[language]).format(*pair), larger_by_value(pair))


def _sequences(topic: str, largest_step: int) -> DrawQuestion:
    def question(rng: Random, language: str, *, held_out: bool) -> Question:
        while True:
            start, step = rng.randrange(1, 100), rng.randrange(1, largest_step + 1)
            if is_held_out_key(f"{start}+{step}") == held_out:
                break
        shown = rng.randrange(4, 7)
        terms = [start + step * index for index in range(shown + SEQUENCE_ANSWER_COUNT)]
        return _sequence_question(topic, language, terms, shown)

    return question


def _readings(rng: Random, language: str, *, held_out: bool) -> Question:
    pair = draw_pair(rng, rng.choice((draw_decimals, draw_decimals, draw_integers)), held_out=held_out)
    wording, above, below = READING[language]
    name, unit = rng.choice(SENSORS[language])
    answer = above if larger_by_value(pair) == pair[0] else below
    return Question("readings", language, wording.format(*pair, name=name, unit=unit), answer)


def _sequence_question(topic: str, language: str, terms: list[int], shown: int) -> Question:
    given = ", ".join(map(str, terms[:shown]))
    following = ", ".join(map(str, terms[shown : shown + SEQUENCE_ANSWER_COUNT]))
    return Question(topic, language, CONTINUE[language].format(given), following)


DRAW: dict[str, DrawQuestion] = {
    "versions": _versions,
    "integers": _integers,
    "sequences": _sequences("sequences", 12),
    "wide_sequences": _sequences("wide_sequences", 20),
    "readings": _readings,
    "decimals": _decimals("decimals", draw_decimals, larger_by_value),
    "decimals_conflict": _decimals("decimals_conflict", draw_conflicting_decimals, larger_by_value),
    "decimals_agree": _decimals("decimals_agree", draw_agreeing_decimals, larger_by_value),
    "decimals_as_versions": _decimals("decimals_as_versions", draw_decimals, larger_by_version),
}
