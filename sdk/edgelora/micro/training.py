"""Training of the micro base from random weights. Heavy: imports torch and transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.micro.corpus import FIRST_MIXTURE, SECOND_MIXTURE, mixed_questions
from edgelora.micro.tokenizer import BOS_ID, EOS_ID, PAD_ID, VOCABULARY_SIZE, encode, render_prompt

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SIZE = 64
POOLED_BATCHES = 8
WARMUP_STEPS = 100
PROMPT_LOSS_WEIGHT = 0.1
THREADS = 2
"""Part of the recipe: sums are split between threads, so another number gives other bits."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One stretch of training, with a corpus mixture and a learning rate schedule of its own."""

    steps: int
    learning_rate: float
    mixture: dict[str, float]


CYCLES = (Cycle(3000, 3e-3, FIRST_MIXTURE), Cycle(1500, 2.5e-3, SECOND_MIXTURE))


def model_config() -> LlamaConfig:
    """Shape of the micro base; every dimension is a multiple of 64, so that every 4-bit block is whole."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


def train_base(*, seed: int) -> LlamaForCausalLM:
    """Train the base in float32; the seed decides every bit on one machine with one version of torch."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config())
    for number, cycle in enumerate(CYCLES):
        train_cycle(model, cycle, seed=seed + number)
    return model.eval()


def train_cycle(model: LlamaForCausalLM, cycle: Cycle, *, seed: int) -> None:
    """One warmup and one cosine descent of the learning rate; leaves weights that float16 holds exactly."""
    torch.set_num_threads(THREADS)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cycle.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = LambdaLR(optimizer, lambda step: _share_of_rate(step, cycle.steps))
    started = time.monotonic()
    for step, (input_ids, loss_weights) in enumerate(islice(batches(cycle.mixture, seed), cycle.steps)):
        loss = weighted_loss(model(input_ids).logits, input_ids, loss_weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == cycle.steps - 1:
            print(f"step {step}/{cycle.steps}  loss {loss.item():.4f}  {time.monotonic() - started:.0f} s")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())


def batches(mixture: dict[str, float], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded batches of rows of similar length: token ids and loss weights, both (batch, tokens)."""
    questions = mixed_questions(mixture, seed=seed)
    rng = Random(f"batches {seed}")
    while True:
        rows = [
            _row(question.prompt, question.answer)
            for question in islice(questions, BATCH_SIZE * POOLED_BATCHES)
        ]
        rows.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(rows), BATCH_SIZE))
        rng.shuffle(starts)
        for start in starts:
            yield _padded(rows[start : start + BATCH_SIZE])


def weighted_loss(logits: Tensor, input_ids: Tensor, loss_weights: Tensor) -> Tensor:
    """Cross-entropy of each next token, weighted; logits are (batch, tokens, vocabulary)."""
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
    )
    weights = loss_weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def _row(prompt: str, answer: str) -> tuple[list[int], list[float]]:
    asked, answered = encode(render_prompt(prompt)), [*encode(answer), EOS_ID]
    return asked + answered, [PROMPT_LOSS_WEIGHT] * len(asked) + [1.0] * len(answered)


def _padded(rows: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), longest), PAD_ID)
    loss_weights = torch.zeros(len(rows), longest)
    for index, (ids, weights) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        loss_weights[index, : len(ids)] = torch.tensor(weights)
    return input_ids, loss_weights


def _share_of_rate(step: int, steps: int) -> float:
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
