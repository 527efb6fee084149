"""Content as text: which template a row gets."""

from __future__ import annotations

from typing import Any

from edgelora.engine.data.alpaca import AlpacaTemplate
from edgelora.engine.data.chat import ChatTemplate
from edgelora.engine.data.content import Completion, Content, Instruction, Message, Text, system_turn
from edgelora.engine.data.segments import Rendered, Segment
from edgelora.errors import ModelError


class Renderer:
    """Renders rows for one tokenizer.

    Instructions and conversations go through the tokenizer's chat template where it has one, else through the
    Alpaca template. Completions and text are taken verbatim. Where no chat template decides, the text starts
    with the tokenizer's beginning-of-sequence token if the tokenizer itself puts one there; rows are later
    tokenized without adding special tokens, so there is never a second one.

    Args:
        tokenizer: Of the base model.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, so the model could not learn where to stop",
                fix="set eos_token in the base's tokenizer_config.json",
            )
        self._bos = _bos(tokenizer)
        self._chat = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._alpaca = AlpacaTemplate(bos=self._bos, eos=tokenizer.eos_token)

    def render(self, content: Content, where: str) -> Rendered:
        """One row as text; without segments where there is nothing to learn.

        Raises:
            DataError: The chat template refuses the row.
        """
        match content:
            case Text(text):
                return Rendered((Segment(self._begin(""), False), Segment(text, True)) if text else ())
            case Completion(prompt, completion):
                return _answered(self._begin(prompt), completion)
            case Instruction() if self._chat is None:
                return _answered(self._alpaca.prompt(content), content.output)
            case Instruction():
                content = content.as_conversation()
        conversation = content.up_to_last_answer()
        if not conversation.messages:
            return Rendered(())
        return (self._chat or self._alpaca).render(conversation, where)

    def prompt(self, question: str, *, system: str | None = None) -> str:
        """``question`` up to where the model takes over, as in training."""
        if self._chat is None:
            return self._alpaca.prompt(Instruction(question, "", "", system))
        return self._chat.prompt((*system_turn(system), Message("user", question)), "the question")

    def _begin(self, text: str) -> str:
        return text if text.startswith(self._bos) else self._bos + text


def render_prompt(tokenizer: Any, question: str, *, system: str | None = None) -> str:
    """``question`` as in training, to be tokenized without adding special tokens."""
    return Renderer(tokenizer).prompt(question, system=system)


def _answered(prompt: str, answer: str) -> Rendered:
    if not answer.strip():
        return Rendered(())
    return Rendered((Segment(prompt, False), Segment(answer, True)), prompt, answer)


def _bos(tokenizer: Any) -> str:
    """The beginning-of-sequence token where the tokenizer puts one before every text, else nothing."""
    ids = tokenizer("a")["input_ids"]
    starts_with_it = tokenizer.bos_token is not None and ids[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if starts_with_it else ""
