"""Exact match on the litmus questions, row by row and form by form."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from edgelora.digests import questions_digest
from edgelora.intervals import wilson_interval
from edgelora.layers.generate import greedy
from edgelora.micro.corpus import Question, fibonacci_questions, held_out_questions
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.litmus.options import LitmusOptions

QUESTION_SEED = 911
"""Fixed, so that measurements of different runs are of the same questions."""


class Litmus:
    """Fraction of questions whose greedy answer is the expected one, outer blanks aside.

    The questions are asked as questions of the run's first task.
    """

    def __init__(self, options: LitmusOptions) -> None:
        self.options = options

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"litmus.<row>"``, and ``"litmus.<row>.<form>"`` where a row is asked in several forms."""
        questions = [
            question for row in self.options.rows for question in row_questions(row, self.options.samples)
        ]
        answers = greedy(
            run.model,
            run.tokenizer,
            [render_question(run.tokenizer, question.prompt) for question in questions],
            max_new_tokens=self.options.max_new_tokens,
            batch_size=self.options.batch_size,
            before_batch=partial(run.route, run.tasks[0]),
        )
        is_right = [
            answer.strip() == question.answer for answer, question in zip(answers, questions, strict=True)
        ]
        measurements = {}
        for name, chosen in _groups(questions).items():
            right = sum(is_right[index] for index in chosen)
            measurements[f"litmus.{name}"] = _measurement(right, [questions[index] for index in chosen])
        return measurements


def row_questions(row: str, samples: int) -> list[Question]:
    """The questions of a row, the same in every run; those of Fibonacci are few and were trained on."""
    if row == "fibonacci":
        return fibonacci_questions()
    return held_out_questions(row, samples, seed=QUESTION_SEED)


def split_digest(questions: Sequence[Question]) -> str:
    """``sha256:`` of the questions with their answers, one JSON array a line, in the order asked."""
    return questions_digest((question.prompt, question.answer) for question in questions)


def render_question(tokenizer: Any, question: str) -> str:
    """The question as a user's message, up to the answer; bare where the tokenizer has no template."""
    if not tokenizer.chat_template:
        return f"{question}\n"
    message = {"role": "user", "content": question}
    rendered: str = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return rendered


def _groups(questions: Sequence[Question]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.topic, []).append(index)
        groups.setdefault(f"{question.topic}.{question.form}", []).append(index)
    return groups


def _measurement(right: int, questions: Sequence[Question]) -> Measurement:
    low, high = wilson_interval(right, len(questions))
    return Measurement(right / len(questions), len(questions), low, high, split_digest(questions))
