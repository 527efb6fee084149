"""Held-out questions, and which of them a model answers letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgelora.layers.generate import greedy
from edgelora.options import AnswerOptions
from edgelora.protocols import Evaluation, Example


def examples_of(run: Evaluation, task: str, options: AnswerOptions) -> list[Example]:
    """The first held-out questions of a task, ``options.samples`` at most."""
    return [example for example in run.examples if example.task == task][: options.samples]


def answered_right(
    run: Evaluation, task: str, examples: Sequence[Example], options: AnswerOptions
) -> list[bool]:
    """Whether the greedy answer to each is the expected one, outer blanks aside."""
    answers = greedy(
        run.model,
        run.tokenizer,
        [example.prompt for example in examples],
        max_new_tokens=options.max_new_tokens or _longest(run, examples, options.longest_answer),
        batch_size=options.batch_size,
        before_batch=partial(run.route, task),
    )
    return [
        answer.strip() == example.response.strip() for answer, example in zip(answers, examples, strict=True)
    ]


def _longest(run: Evaluation, examples: Sequence[Example], most: int) -> int:
    """Tokens of the longest expected answer and one more, by which an answer that goes on is told."""
    responses = [example.response for example in examples]
    encoded = run.tokenizer(responses, add_special_tokens=False)["input_ids"]
    return min(max(len(ids) for ids in encoded) + 1, most)
