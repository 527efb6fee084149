"""Memory that a training step takes beyond what lies there before it, against peft and bitsandbytes.

Llama-3.2-1B's widths and vocabulary, four of its sixteen blocks, random weights; NF4 with double
quantization, LoRA of rank 16 on all linear layers, AdamW, two rows of equal length, every token labelled;
all in bfloat16, beside peft as its guide has it and with everything in bfloat16 too. Each arm is a fresh
process; its transient memory is the largest resident set during two steps less the one before the first, when
what is free was given back to the system.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, interleave, median, phase

SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
RANK, BATCH, STEPS = 16, 2, 2
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DOCUMENTED, LEANEST = "peft, as documented", "peft, all bfloat16"
GOAL = 4.0
"""The peer's transient memory over ours, at least."""


def edgelora(tokens: int, checkpointed: bool, layers: int) -> dict[str, Any]:
    """Steps of edgelora's own layers and loss."""
    import torch

    from edgelora.engine.inject import inject, plain_linears
    from edgelora.layers.loss import row_losses
    from edgelora.plan import make_plan
    from edgelora.protocols import Batch
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    adapter = {"name": "lora", "rank": RANK, "alpha": 2 * RANK, "target_modules": "all-linear"}
    train = {"dtype": "bfloat16", "adapter_dtype": "bfloat16"}
    document = {"derivative": "qlora", "base": "micro", "adapter": adapter, "train": train}
    plan = make_plan(make_recipe(document), Registry.discover())
    model, quantizer = _llama(layers), plan.build("quantizer")
    for name, linear in plain_linears(model).items():
        model.set_submodule(name, quantizer.quantize(linear, name))
    inject(model, plan)

    def loss(ids: torch.Tensor) -> torch.Tensor:
        batch = Batch(ids, torch.ones_like(ids), ids, torch.zeros(len(ids), dtype=torch.int64))
        sums, counts = row_losses(model, batch)
        return sums.sum() / counts.sum()

    return _steps(model, loss, tokens, checkpointed)


def peft(tokens: int, checkpointed: bool, layers: int, documented: bool) -> dict[str, Any]:
    """Steps of peft's LoRA over bitsandbytes' linears, with transformers' own loss.

    ``documented``: ``prepare_model_for_kbit_training`` (embeddings, head and norms in float32), adapters in
    float32, under autocast, as peft's guide has it. Otherwise all of it is bfloat16: the least it can take.
    """
    import bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from torch import nn

    model: Any = _llama(layers)
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and name != "lm_head":
            four_bit = bitsandbytes.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            four_bit.weight = bitsandbytes.nn.Params4bit(
                linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            model.set_submodule(name, four_bit.to("cpu"))
    # peft takes its four-bit layer only then.
    model.is_loaded_in_4bit = True
    if documented:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config, autocast_adapter_dtype=documented)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if documented else torch.bfloat16)
    if checkpointed:
        model.enable_input_require_grads()

    def loss(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16) if documented else nullcontext():
            return model(input_ids=ids, labels=ids).loss

    return _steps(model, loss, tokens, checkpointed)


def _llama(layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=layers)).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return model


def _steps(model: Any, loss_of: Any, tokens: int, checkpointed: bool) -> dict[str, Any]:
    import ctypes
    import gc

    import torch

    torch.set_num_threads(1)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    ids = torch.randint(SHAPE["vocab_size"], (BATCH, tokens), generator=torch.Generator().manual_seed(1))
    model.train()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    losses = []
    with phase("steps"):
        for _ in range(STEPS):
            loss = loss_of(ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
    return {"losses": losses, "trainable": sum(parameter.numel() for parameter in learning)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 512], help="per row; two rows")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "transient_memory",
        "Transient memory of a training step",
        {
            "shape": f"Llama-3.2-1B, {arguments.layers} of 16 blocks, vocabulary {SHAPE['vocab_size']:,}",
            "batch": BATCH,
            "rank": RANK,
            "dtypes": "bfloat16 but in peft as documented, base NF4 with double quantization",
            "threads": 1,
            "rounds": arguments.rounds,
        },
    )
    for tokens in arguments.tokens:
        for checkpointed in (False, True):
            settings = {"tokens": tokens, "checkpointed": checkpointed, "layers": arguments.layers}
            arms = [
                Arm("edgelora", edgelora, settings),
                Arm(DOCUMENTED, peft, {**settings, "documented": True}),
                Arm(LEANEST, peft, {**settings, "documented": False}),
            ]
            runs = interleave(arms, arguments.rounds)
            name = f"{tokens} tokens, {'checkpointed' if checkpointed else 'not checkpointed'}"
            report.measured[name] = runs
            ours, theirs, leanest = (_megabytes(runs[arm.name], "peak_rss", "rss") for arm in arms)
            for arm in arms:
                taken = _megabytes(runs[arm.name], "peak_rss", "rss")
                report.rows.append(
                    {
                        "arm": arm.name,
                        "tokens": tokens,
                        "checkpointed": "yes" if checkpointed else "no",
                        "MB": taken,
                        "× edgelora": taken / ours,
                        "anonymous MB": _megabytes(runs[arm.name], "anon", "anon"),
                        "CPU s": median(runs[arm.name], "phases", "steps", "cpu_s") / STEPS,
                    }
                )
            report.goals.append(
                Goal(
                    f"transient memory at most 1/{GOAL:g} of peft's as documented at {name}",
                    f"1/{theirs / ours:.2f} ({ours:,.0f} against {theirs:,.0f} MB; {leanest:,.0f} MB with "
                    f"peft all in bfloat16, 1/{leanest / ours:.2f})",
                    theirs / ours >= GOAL,
                )
            )
    report.notes.append("MB are 10^6 bytes; CPU seconds are per step, the first included")
    report.finish(arguments.out)


def _megabytes(runs: list[dict[str, Any]], peak: str, before: str) -> float:
    steps = [run["phases"]["steps"] for run in runs]
    return median([{"MB": (each["peaks"][peak] - each["before"][before]) / 1e6} for each in steps], "MB")


if __name__ == "__main__":
    main()
