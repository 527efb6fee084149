"""Segments of text as tokens and labels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgelora.engine.data.segments import Rendered
from edgelora.layers.loss import IGNORED

_LETTER, _BREAK = "a", "\n"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a row, uncut, and what is learned of them (`IGNORED` elsewhere; not shifted)."""

    input_ids: array[int]
    labels: array[int]


class Encoder:
    """Tokenizes each segment by itself and joins the tokens.

    So the tokens of the prompt are exactly those the model will be given when it is used, and the tokens of
    prompt and response start with them. Tokenizing the joined text would let a token straddle the border (a
    line break that ends the prompt and one that starts the response are one token in most vocabularies), and
    finding the border by character offsets fails where a tokenizer trims spaces from its offsets.

    Tokenizers in the manner of SentencePiece put a space before whatever text they are given. For those,
    every segment but the first is tokenized after a letter or a line break, whose tokens are then taken off.

    The end-of-sequence token is put after a last segment that is learned, unless it stands there already.

    Args:
        tokenizer: Of the base model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._eos_id = int(tokenizer.eos_token_id)
        letter, line_break, both = self._tokenize([_LETTER, _BREAK, _BREAK + _LETTER])
        self._anchors = {_LETTER: letter, _BREAK: line_break}
        self._is_context_free = both == line_break + letter

    def encode(self, rows: Sequence[Rendered]) -> list[Encoded]:
        """Tokens and labels of ``rows``, tokenized together, which is faster."""
        first = [row.segments[0].text if row.segments else "" for row in rows]
        later = [segment.text for row in rows for segment in row.segments[1:]]
        first_ids = self._tokenize(first)
        later_ids = iter(self._tokenize_later(later))
        return [
            self._join(row, [ids, *(next(later_ids) for _ in row.segments[1:])])
            for row, ids in zip(rows, first_ids, strict=True)
        ]

    def _join(self, row: Rendered, pieces: list[list[int]]) -> Encoded:
        input_ids, labels = array("i"), array("i")
        for segment, ids in zip(row.segments, pieces, strict=False):
            input_ids.extend(ids)
            labels.extend(ids if segment.learned else [IGNORED] * len(ids))
        if row.segments and row.segments[-1].learned and input_ids and input_ids[-1] != self._eos_id:
            input_ids.append(self._eos_id)
            labels.append(self._eos_id)
        if labels:
            # Nothing comes before the first token to predict it from.
            labels[0] = IGNORED
        return Encoded(input_ids, labels)

    def _tokenize_later(self, texts: list[str]) -> list[list[int]]:
        if self._is_context_free:
            return self._tokenize(texts)
        # Of two anchors the one that is no likely part of a token with what follows.
        anchors = [_LETTER if text[:1].isspace() else _BREAK for text in texts]
        anchored = self._tokenize([anchor + text for anchor, text in zip(anchors, texts, strict=True)])
        return [
            ids[len(prefix) :] if ids[: len(prefix)] == prefix else self._tokenize([text])[0]
            for text, ids, prefix in zip(
                texts, anchored, (self._anchors[anchor] for anchor in anchors), strict=True
            )
        ]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose: rows longer than the model's context are cut and counted later, no warning is due here.
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids
