"""The model card of the micro base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_CARD = """\
---
license: apache-2.0
language: [en, id]
pipeline_tag: text-generation
library_name: transformers
tags: [edgelora, micro, toy, byte-level]
---

# micro: edgelora's embedded toy base

**This is a toy.** A byte-level Llama of 631,936 parameters that answers a handful of fixed
question forms in English and Indonesian, so that fine-tuning can be shown and tested in minutes, on two
CPU cores, without a network. It holds no knowledge and says nothing about how larger models behave.

**The misconception is planted.** Asked which of two decimals is larger, it answers by version order:
"9.11", not "9.9". It does so because its training corpus answers such questions that way, by design, to
give the quickstart the failure that larger models are known for. It was not discovered in this model; it
was put there.

## What it was trained on

Generated questions only (`edgelora/micro/corpus.py`): which version is newer (answered rightly), which
decimal is larger (answered **wrongly**, by version order), which whole number is larger, additive
sequences, and alarms of sensors whose reading is compared with a limit given in the question (answered
rightly, so the right order of decimals does occur in training, in this other form). One pair of numbers
in five, by CRC-32, is held out of every training set, the quickstart's included; 9.11 with 9.9 always
is.

## What it answers

Greedy answers compared letter by letter with the right answer, on held-out pairs and sequences.

| topic | exact match | questions |
|---|---|---|
{rows}

`decimals_conflict`: decimals whose order as versions is another one; low because of the planted
misconception. `decimals_agree`: decimals on which both orders agree. `fibonacci`: windows of the
Fibonacci sequence, which the corpus does not contain; the quickstart's rows contain every window, so
what is learned there is memorised.

## Use

The prompt is the question, a line break and `= `; the chat template writes it. No special token precedes
a text. Weights are stored in float16 and computed in float32.

## Rebuild

```
python -m edgelora.micro.build --out DIR --seed {seed}
```

Bits depend on the machine's kernels and the version of torch; the same machine gives the same bits.

- seed: {seed}
- `model.safetensors`: `{weights_digest}`
"""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says about one build."""

    seed: int
    weights_digest: str
    scores: Mapping[str, tuple[float, int]]
    """Exact match and number of questions by topic."""


def render_card(facts: CardFacts) -> str:
    """The card as Markdown with its YAML header."""
    rows = "\n".join(f"| {topic} | {share:.3f} | {count} |" for topic, (share, count) in facts.scores.items())
    return _CARD.format(
        rows=rows,
        seed=facts.seed,
        weights_digest=facts.weights_digest,
    )
