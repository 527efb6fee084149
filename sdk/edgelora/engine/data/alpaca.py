"""The Alpaca template, for tokenizers without a chat template."""

from __future__ import annotations

from edgelora.engine.data.content import Conversation, Instruction
from edgelora.engine.data.segments import Rendered, Segment
from edgelora.errors import DataError

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


class AlpacaTemplate:
    """The prompt of Stanford Alpaca (Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca, Apache-2.0).

    Two things are added, as is common: a line break after ``### Response:``, and further turns of a
    conversation as further instructions and responses, each response ended by the end-of-sequence token. A
    system message takes the place of the opening sentence.

    Args:
        bos: Text the tokenizer puts before every sequence, or nothing.
        eos: The end-of-sequence token.
    """

    def __init__(self, *, bos: str, eos: str) -> None:
        self._bos = bos
        self._eos = eos

    def prompt(self, row: Instruction) -> str:
        """All that stands before the output."""
        opening = row.system or (WITH_INPUT if row.input else WITHOUT_INPUT)
        return f"{self._bos}{opening}\n\n{_block(row.instruction, row.input)}"

    def render(self, row: Conversation, where: str) -> Rendered:
        """Turns of user and assistant.

        Raises:
            DataError: A turn is by a tool, which the template has no form for.
        """
        opening = "\n\n".join(turn.content for turn in row.messages if turn.role == "system") or WITHOUT_INPUT
        pending = f"{self._bos}{opening}"
        history, segments = "", list[Segment]()
        prompt = response = None
        asked = False
        for turn in row.messages:
            if turn.role == "tool":
                raise DataError(
                    f"{where}: a turn is by a tool, and the tokenizer has no chat template",
                    fix="delete the row, or use a base whose tokenizer has a chat template",
                )
            if turn.role == "user":
                asked = True
                pending += f"\n\n{_block(turn.content, '')}"
            elif turn.role == "assistant" and asked:
                history += pending
                segments += [Segment(pending, False), Segment(turn.content + self._eos, True)]
                pending, prompt, response = "", history, turn.content
                history += turn.content + self._eos
        return Rendered(tuple(segments), prompt, response)


def _block(instruction: str, further: str) -> str:
    given = f"\n\n### Input:\n{further}" if further else ""
    return f"### Instruction:\n{instruction}{given}\n\n### Response:\n"
