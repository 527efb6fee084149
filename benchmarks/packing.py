"""Goal 9: tokens per second of packed training against padded, on rows as long as Alpaca's.

Three ways through the same rows, with the same model, kernels and rows per optimizer step:

- padded in random order: micro-batches as a shuffled data loader cuts them, padded to their longest row; what
  training with transformers and PEFT does by default.
- padded, rows of like length together: what edgelora does without packing.
- packed: ``train.packing: true``, one sequence at a time (``batch_size: 1``, and as much more accumulation),
  which takes the least memory and, on a CPU, the least time.

A step of each is taken in turn within one process, so whatever else the machine does slows all alike; rounds
are fresh processes. Only tokens of rows count, padding never does.

Lengths are log-normal with a mean of 120 tokens and a longest of about 1,050 in 52,002 rows. It fits what is
known of Stanford Alpaca under its own prompt template, at 4.3 characters a token: 52,002 rows in 22.8 MB of
JSON are about 360 characters of text a row without the keys, the template adds about 155, and the longest row
has about 4,500 characters. No row is shorter than the template.

The shape is that of Llama-3.2-1B with 2 of its 16 layers and an eighth of its vocabulary, so that blocks and
head have the share of the step that they have in the model.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from array import array
from pathlib import Path
from random import Random
from typing import Any

from harness import Arm, Goal, Report, run_arm

SIGMA = 0.57
MU = math.log(120) - SIGMA**2 / 2
SHORTEST = 33
ANSWER = 0.5
"""Share of a row's tokens that is learned."""
SHAPE = {
    "vocab_size": 128_256 // 8,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
PADDED, SORTED, PACKED = "padded, random order", "padded, like lengths", "packed, one sequence"


def alpaca_lengths(count: int, seed: int, max_length: int) -> list[int]:
    """Tokens of ``count`` rows."""
    draw = Random(seed)
    lengths = (round(draw.lognormvariate(MU, SIGMA)) for _ in range(count))
    return [min(max(length, SHORTEST), max_length) for length in lengths]


def save_base(folder: Path) -> None:
    """A model of the shape with random weights, in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)


def train(
    base: str, rows: int, batch_size: int, accumulation: int, max_length: int, quantizer: str, seed: int
) -> dict[str, Any]:
    """One epoch of each way, a step of each in turn; seconds, padding and the largest micro-batch of each."""
    import torch
    from accelerate import Accelerator

    from edgelora.engine.base import load_base
    from edgelora.engine.data import Row, StepOrder, collate, collate_packed, pack_step
    from edgelora.engine.gradients import Gradients, RowLosses
    from edgelora.engine.inject import inject, trainable_parameters
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    torch.set_num_threads(1)
    settings = {"batch_size": batch_size, "accumulation": accumulation, "max_length": max_length}
    recipe = {
        "derivative": "lora",
        "base": base,
        "quantizer": quantizer,
        "adapter": {"rank": 16},
        "train": {**settings, "dtype": "bfloat16"},
    }
    plan = make_plan(make_recipe(recipe), Registry.discover())
    model = load_base(plan)
    layers = inject(model, plan)
    model.train()
    draw = Random(seed)
    data = []
    for length in alpaca_lengths(rows, seed, max_length):
        ids = array("i", (draw.randrange(SHAPE["vocab_size"]) for _ in range(length)))
        asked = round(length * (1 - ANSWER))
        data.append(Row(ids, array("i", [-100] * asked) + ids[asked:], 0, "row", None, None))

    order = StepOrder(data, batch_size=batch_size, accumulation=accumulation, seed=seed)
    dealt = [order.step(number) for number in range(order.steps_per_epoch)]
    shuffled = iter(draw.sample(range(rows), rows))
    shuffle = [[list(itertools.islice(shuffled, len(each))) for each in of_step[0]] for of_step in dealt]
    limits = {"batch_size": 1, "max_length": max_length}
    ways = {
        PADDED: (shuffle, lambda each: collate([data[index] for index in each], 0)),
        SORTED: ([of_step[0] for of_step in dealt], lambda each: collate([data[index] for index in each], 0)),
        PACKED: (
            [pack_step(of_step, data, **limits)[0] for of_step in dealt],
            lambda each: collate_packed([[data[index] for index in rows] for rows in each], 0),
        ),
    }
    learned = list(trainable_parameters(layers).values())
    optimizer = torch.optim.AdamW(learned)
    gradients = Gradients(
        RowLosses(model, layers, plan.recipe.train.loss_rows),
        plan.build("loss_combiner"),
        tasks=("main",),
        accelerator=Accelerator(cpu=True),
        pad_id=0,
        collate=lambda batch, pad_id, device: batch,
    )
    found = {way: {"wall_s": 0.0, "cpu_s": 0.0, "computed": 0, "largest": 0} for way in ways}
    turn = itertools.cycle(ways)
    # What is touched for the first time, and what is tried once for a model, belongs to no way.
    for micro_batches, make in ways.values():
        step(gradients, optimizer, [make(micro_batches[-1][-1][:1])])
    for number in range(len(dealt)):
        for way in (next(turn) for _ in ways):
            micro_batches, make = ways[way]
            batches = [make(each) for each in micro_batches[number]]
            wall, cpu = time.perf_counter(), time.process_time()
            step(gradients, optimizer, batches)
            told = found[way]
            told["wall_s"] += time.perf_counter() - wall
            told["cpu_s"] += time.process_time() - cpu
            sizes = [batch.input_ids.numel() for batch in batches]
            told["computed"] += sum(sizes)
            told["largest"] = max(told["largest"], *sizes)
        next(turn)  # another way is first in the next step
    return {"tokens": sum(len(row.input_ids) for row in data), "steps": len(dealt), "ways": found}


def step(gradients: Any, optimizer: Any, batches: list[Any]) -> None:
    """One optimizer step."""
    labelled = sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in batches)
    gradients.accumulate(batches, [labelled], 0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def compare(label: str, runs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row of the table per way, and the medians over rounds of how much faster packed is."""
    rows, ratios = [], {}
    for way in (PADDED, SORTED, PACKED):
        told = [{"tokens": run["tokens"], **run["ways"][way]} for run in runs]
        packed = [run["ways"][PACKED] for run in runs]
        pairs = list(zip(told, packed, strict=True))
        ratios[way] = statistics.median(mine["wall_s"] / other["wall_s"] for mine, other in pairs)
        cpu = statistics.median(mine["cpu_s"] / other["cpu_s"] for mine, other in pairs)
        speeds = [each["tokens"] / each["wall_s"] for each in told]
        rows.append(
            {
                "batch x accumulation": label,
                "micro-batches": way,
                "tokens/s": statistics.median(speeds),
                "range": f"{min(speeds):,.0f}-{max(speeds):,.0f}",
                "full": f"{told[0]['tokens'] / told[0]['computed']:.0%}",
                "largest, tokens": told[0]["largest"],
                "packed is faster by": f"{ratios[way]:.2f}x (CPU time {cpu:.2f}x)",
            }
        )
    return rows, ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", nargs="+", default=["8x4"], help="rows x accumulation of a step")
    parser.add_argument("--rows", type=int, default=128, help="of an epoch")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--quantizer", default="nf4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    lengths = alpaca_lengths(arguments.rows, arguments.seed, arguments.max_length)
    report = Report(
        "packing",
        "Packed against padded training on Alpaca-shaped rows",
        {
            "shape": "Llama-3.2-1B, 2 of 16 layers, an eighth of the vocabulary",
            "quantizer": arguments.quantizer,
            "dtype": "bfloat16",
            "rank": 16,
            "threads": 1,
            "rows": arguments.rows,
            "mean_tokens": round(statistics.mean(lengths), 1),
            "longest": max(lengths),
            "max_length": arguments.max_length,
            "rounds": arguments.rounds,
        },
    )
    runs: dict[str, list[dict[str, Any]]] = {label: [] for label in arguments.batches}
    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder))
        for _, label in itertools.product(range(arguments.rounds), arguments.batches):
            batch_size, accumulation = map(int, label.split("x"))
            settings = {
                "base": folder,
                "rows": arguments.rows,
                "batch_size": batch_size,
                "accumulation": accumulation,
                "max_length": arguments.max_length,
                "quantizer": arguments.quantizer,
                "seed": arguments.seed,
            }
            runs[label].append(run_arm(Arm(label, train, settings))["result"])
    for label, each in runs.items():
        rows, ratios = compare(label, each)
        report.rows += rows
        if label == arguments.batches[0]:
            report.goals.append(
                Goal(
                    "packed training has at least twice the tokens/s of padded training in random order",
                    f"{ratios[PADDED]:.2f}x, and {ratios[SORTED]:.2f}x of rows padded beside rows of like "
                    f"length, at batch {label}, mean length {report.conditions['mean_tokens']}",
                    ratios[PADDED] >= 2,
                )
            )
    report.measured["runs"] = runs
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
