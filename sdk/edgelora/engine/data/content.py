"""What a row says, whatever file and format it came in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns; the assistant's are learned."""

    messages: tuple[Message, ...]

    def up_to_last_answer(self) -> Conversation:
        """Without the turns nobody answers; empty if the assistant never says anything."""
        answers = [
            number
            for number, turn in enumerate(self.messages)
            if turn.role == "assistant" and turn.content.strip()
        ]
        return Conversation(self.messages[: answers[-1] + 1] if answers else ())


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction, its input (may be empty), and the output to learn."""

    instruction: str
    input: str
    output: str
    system: str | None = None

    def as_conversation(self) -> Conversation:
        """The same as one question and one answer, the input on a line of its own."""
        question = f"{self.instruction}\n{self.input}" if self.input else self.instruction
        return Conversation(
            (*system_turn(self.system), Message("user", question), Message("assistant", self.output))
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and the completion to learn, both taken verbatim: no template is put around them."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text learned as a whole."""

    text: str


Content = Conversation | Instruction | Completion | Text


def system_turn(content: str | None) -> tuple[Message, ...]:
    """The turn that opens a conversation with ``content``, or nothing."""
    return (Message("system", content),) if content else ()


def canonical(content: Content) -> str:
    """The same text for the same content, whatever format it came in; hashed to find duplicates."""
    if isinstance(content, Instruction):
        content = content.as_conversation()
    match content:
        case Conversation(messages):
            parts: list[Any] = ["conversation", [[message.role, message.content] for message in messages]]
        case Completion(prompt, completion):
            parts = ["completion", prompt, completion]
        case Text(text):
            parts = ["text", text]
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
