"""Greedy answers to many prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    before_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Continue each prompt with the likeliest token until the end of sequence.

    Prompts are already rendered: no special token is added. Leaves the model's training mode and the global
    random state as found.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        prompts: Any number; they are grouped by length.
        max_new_tokens: Per prompt.
        batch_size: Prompts generated at the same time.
        before_batch: Called with the number of prompts of each batch before it is generated; routes layers
            that compute differently for different tasks, see `edgelora.protocols.Evaluation.route`.

    Returns:
        The continuations in the order of the prompts, without special tokens.
    """
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    answers = [""] * len(encoded)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if before_batch:
                before_batch(len(chosen))
            texts = continue_rows(model, tokenizer, [encoded[index] for index in chosen], max_new_tokens)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text
    finally:
        for module in training:
            module.training = True
    return answers


def pad_id(tokenizer: Any) -> int:
    """The padding id, the end of sequence where there is none, or 0; masks never depend on it."""
    return next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)


def continue_rows(model: Any, tokenizer: Any, rows: list[list[int]], max_new_tokens: int) -> list[str]:
    """Continue each row of token ids with the likeliest tokens, all at the same time, in this order.

    Returns:
        The continuations without special tokens.
    """
    longest = max(1, *(len(row) for row in rows))
    pad = pad_id(tokenizer)
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    hook = read_head_once(model)
    try:
        produced = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
    finally:
        hook.remove()
    return list(tokenizer.batch_decode(produced[:, longest:], skip_special_tokens=True))


def read_head_once(model: Any) -> RemovableHandle:
    """Let the output head read its weight once for all rows of a prompt, until the handle is removed.

    It gets the hidden states of the last tokens, (rows, 1, width), as a slice of those of all tokens. Of an
    input that lies in pieces, and a weight that does not learn, torch 2.13 makes one product for each row and
    copies the weight for each.
    """
    head: nn.Module | None = model.get_output_embeddings()
    return (nn.Identity() if head is None else head).register_forward_pre_hook(_in_one_piece)


def _in_one_piece(head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in given)
