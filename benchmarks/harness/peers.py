"""The same step by PEFT and bitsandbytes, on the same prepared base, as their documentation has it."""

from __future__ import annotations

from contextlib import nullcontext
from random import Random
from typing import Any

from harness.memory import memory_of
from harness.phases import begin, end


def peft_steps(
    base: str, *, sequence_length: int, steps: int, rank: int, threads: int, canonical: bool
) -> dict[str, Any]:
    """Optimizer steps of LoRA on all linears, batch 1, checkpointed, AdamW with 8-bit states.

    Args:
        base: Folder of a prepared base that stock transformers reads.
        sequence_length: Tokens of each row, all of them learned.
        steps: How many.
        rank: Of the adapters.
        threads: Of torch.
        canonical: ``prepare_model_for_kbit_training`` (embeddings, head and norms in float32), adapters in
            float32, under autocast; else all is bfloat16.
    """
    begin("imports")
    import bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    end()
    imported = memory_of()
    begin("loading")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    checkpointing: dict[str, Any] = {"use_reentrant": False}
    if canonical:
        model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=checkpointing)
    else:
        model.gradient_checkpointing_enable(checkpointing)
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, settings, autocast_adapter_dtype=canonical)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.data = parameter.data.to(torch.float32 if canonical else torch.bfloat16)
    optimizer = bitsandbytes.optim.AdamW8bit(learned, lr=2e-4)
    draw, losses = Random(0), []
    end()
    model.train()
    for step in range(steps):
        ids = torch.tensor([[draw.randrange(model.config.vocab_size) for _ in range(sequence_length)]])
        begin(f"step {step}")
        with torch.autocast("cpu", torch.bfloat16) if canonical else nullcontext():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end()
        losses.append(loss.item())
    return {
        "losses": losses,
        "trainable_parameters": sum(parameter.numel() for parameter in learned),
        "dtypes": {"adapter": str(learned[0].dtype)},
        "threads": threads,
        "imported": imported,
    }
