"""Training of the micro base from random weights. Heavy: imports torch and transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.micro.corpus import base_questions
from edgelora.micro.tokenizer import BOS_ID, EOS_ID, PAD_ID, VOCABULARY_SIZE, encode, render_prompt

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

BATCH_SIZE = 64
POOLED_BATCHES = 8
MUON_RATE = 0.02
ADAMW_RATE = 3e-3
DESCENT_SHARE = 0.5
WARMUP_STEPS = 100
PROMPT_LOSS_WEIGHT = 0.1


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


def train_base(*, seed: int, steps: int, threads: int) -> LlamaForCausalLM:
    """Train the base in float32; seed, steps and threads decide every bit on one machine."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config())
    optimizers = _optimizers(model)
    schedules = [LambdaLR(optimizer, lambda step: _share_of_rate(step, steps)) for optimizer in optimizers]
    started = time.monotonic()
    for step, (input_ids, loss_weights) in enumerate(islice(batches(seed), steps)):
        loss = weighted_loss(model(input_ids).logits, input_ids, loss_weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(
                f"step {step}/{steps}  loss {loss.item():.4f}  {time.monotonic() - started:.0f} s", flush=True
            )
    return model.eval()


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded batches of rows of similar length: token ids and loss weights, both (batch, tokens)."""
    questions = base_questions(seed)
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


def _optimizers(model: LlamaForCausalLM) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the norms: half the steps of AdamW alone."""
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    others = [*model.model.embed_tokens.parameters(), *model.model.norm.parameters()]
    others += [parameter for parameter in model.model.layers.parameters() if parameter.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _share_of_rate(step: int, steps: int) -> float:
    """Linear warmup, a plateau, and a linear descent over the last part."""
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.02, (steps - step) / (DESCENT_SHARE * steps)))
