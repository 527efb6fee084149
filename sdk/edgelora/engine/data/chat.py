"""Conversations through the tokenizer's own chat template."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from jinja2 import TemplateError

from edgelora.engine.data.content import Conversation, Message
from edgelora.engine.data.segments import Rendered, Segment
from edgelora.errors import DataError

_PROBE = "edgelora-probe"


class ChatTemplate:
    """Renders a conversation and finds the assistant's turns in the text.

    A turn starts where the template's generation prompt ends, which is where the model takes over when it is
    used: what is learned is then exactly what has to be generated. It ends with the text the template
    puts after every answer, up to the end-of-sequence token if that is part of it. Templates are free to
    trim an answer or to drop the thoughts of earlier turns, so both places are looked up in the rendered text
    instead of being put together from pieces. An assistant's turn that answers nobody is not learned.

    Args:
        tokenizer: A tokenizer with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._closing = self._find_closing()

    def render(self, row: Conversation, where: str) -> Rendered:
        """One conversation whose last turn is the assistant's.

        Raises:
            DataError: The template refuses the conversation, or its answers cannot be found in the text.
        """
        whole = self._apply(row.messages, where)
        segments: list[Segment] = []
        prompt = response = None
        done = 0
        for number in range(len(row.messages)):
            if not _is_answer(row.messages, number):
                continue
            start, answered, end = self._find_answer(whole, row.messages, number, done, where)
            segments += [Segment(whole[done:start], False), Segment(whole[start:end], True)]
            prompt, response, done = whole[:start], whole[start:answered], end
        return Rendered(tuple(segments), prompt, response)

    def prompt(self, messages: tuple[Message, ...], where: str) -> str:
        """The conversation so far, up to where the model takes over.

        Raises:
            DataError: The template refuses the conversation.
        """
        return self._apply(messages, where, add_generation_prompt=True)

    def _find_answer(
        self, whole: str, turns: tuple[Message, ...], number: int, done: int, where: str
    ) -> tuple[int, int, int]:
        """Where the model takes over to write turn ``number``, where that text ends, where the turn ends."""
        question = turns[number - 1].content.strip()
        asked = whole.find(question, done)
        floor = asked + len(question) if asked >= 0 else done
        prompt = self.prompt(turns[:number], where)
        if floor <= len(prompt) and whole.startswith(prompt):
            start = search = len(prompt)
        else:
            # The generation prompt opens a thought, which a finished answer lacks, or earlier turns are
            # written in another way once more follow (Mistral's system message moves to the last question).
            start, search = _common_length(whole, prompt), floor
        find = whole.rfind if number == len(turns) - 1 else whole.find
        for answer in (turns[number].content, turns[number].content.strip()):
            begin = find(answer + self._closing, search)
            if begin >= 0:
                answered = begin + len(answer)
                return start if floor <= start <= begin else begin, answered, answered + len(self._closing)
        answered = whole.find(self._closing, max(start, floor)) if self._closing else -1
        if not floor <= start <= answered:
            raise DataError(
                f"{where}: the tokenizer's chat template changes turn {number + 1} beyond recognition",
                fix="write the turn the way the template prints it, or delete the row",
            )
        return start, answered, answered + len(self._closing)

    def _find_closing(self) -> str:
        """What the template puts after an answer, up to and with the end-of-sequence token."""
        turns = (Message("user", _PROBE.upper()), Message("assistant", _PROBE))
        _, found, closing = self._apply(turns, "a probe of the tokenizer").partition(_PROBE)
        eos = self._tokenizer.eos_token
        if found and eos in closing:
            return closing[: closing.index(eos) + len(eos)]
        return closing.rstrip()

    def _apply(
        self, messages: tuple[Message, ...], where: str, *, add_generation_prompt: bool = False
    ) -> str:
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise DataError(
                f"{where}: the tokenizer's chat template refuses this conversation: {error}",
                fix="reorder or drop turns so that the template takes them (often: no system turn, "
                "user and assistant in turn), or delete the row",
            ) from error
        return text


def _is_answer(messages: tuple[Message, ...], number: int) -> bool:
    answers_someone = any(turn.role in ("user", "tool") for turn in messages[:number])
    return messages[number].role == "assistant" and answers_someone


def _common_length(first: str, second: str) -> int:
    """Characters in which both texts agree from their start."""
    if first.startswith(second):
        return len(second)
    return next(position for position, pair in enumerate(zip_longest(first, second)) if pair[0] != pair[1])
