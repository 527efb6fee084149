"""Two tasks that contradict each other: LoRA against MTLoRA, at the same number of trainable parameters.

"Which one is larger? 9.11 or 9.9?" has one answer as a decimal and another as a version. Behind the *same*
prompt only the task's name tells them apart, so an adapter that does not know it must fail one of the two.
With prompts that differ, both can be told apart by reading. All pairs are conflicting ones; the pairs
measured are in no training row; each batch of 32 holds rows of both tasks, drawn at random from as many.
The base model's misconception is planted: it answers both as versions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from edgelora.engine.apply import load_adapted
from edgelora.engine.data import render_prompt
from edgelora.layers.generate import greedy
from edgelora.micro.corpus import LANGUAGES, LARGER, NEWER
from edgelora.micro.pairs import draw_conflicting_decimals, draw_pair, larger_by_value, larger_by_version
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run

TASKS = {"decimals": larger_by_value, "versions": larger_by_version}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 16, "alpha": 32},
    "mtlora": {"rank": 8, "alpha": 16, "task_rank": 4, "task_alpha": 8},
}
BAR = 0.90


def questions(task: str, prompts: str, count: int, *, held_out: bool) -> list[dict[str, str]]:
    """Alpaca rows on distinct conflicting pairs, the same pairs for both tasks."""
    rng = Random(f"{held_out}")
    wordings = NEWER if task == "versions" and prompts == "different" else LARGER
    rows: dict[frozenset[str], dict[str, str]] = {}
    while len(rows) < count:
        pair = draw_pair(rng, draw_conflicting_decimals, held_out=held_out)
        wording = rng.choice(wordings[rng.choice(LANGUAGES)])
        row = {"instruction": wording.format(*pair), "input": "", "output": TASKS[task](pair)}
        rows.setdefault(frozenset(pair), row)
    return list(rows.values())


def measure(derivative: str, prompts: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train on both tasks at once; exact match of each on pairs that no training row has."""
    sources = []
    for task in TASKS:
        path = folder / f"{prompts}-{task}.jsonl"
        rows = questions(task, prompts, 1000, held_out=False)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"path": str(path), "task": task})
    recipe = {
        "derivative": derivative,
        "base": "micro",
        "adapter": ADAPTERS[derivative],
        "evaluators": [],
        "data": sources,
        "train": {
            "max_steps": steps,
            "batch_size": 32,
            "accumulation": 1,
            "learning_rate": 5e-3,
            "schedule": "cosine",
            "warmup": 0.05,
            "seed": seed,
            "threads": torch.get_num_threads(),
        },
        "out": str(folder / f"{derivative}-{prompts}-{seed}"),
    }
    registry = Registry.discover()
    result = run(make_recipe(recipe), registry)
    adapted = load_adapted(str(result.folder), registry)
    found: dict[str, Any] = {"trainable_parameters": result.trainable_parameters}
    for task in TASKS:
        asked = questions(task, prompts, 200, held_out=True)
        adapted.route(task if adapted.tasks else None)
        answers = greedy(
            adapted.model,
            adapted.tokenizer,
            list(map(partial(render_prompt, adapted.tokenizer), (row["instruction"] for row in asked))),
            max_new_tokens=8,
        )
        right = sum(answer.strip() == row["output"] for answer, row in zip(answers, asked, strict=True))
        found[task] = right / len(asked)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[3407])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for prompts in ("same", "different"):
                for derivative in ADAPTERS:
                    found = measure(derivative, prompts, seed, arguments.steps, Path(folder))
                    results.append({"seed": seed, "prompts": prompts, "derivative": derivative, **found})
    print("| seed | prompts | derivative | trainable | decimals | versions |\n|---|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['seed']} | {row['prompts']} | {row['derivative']} | {row['trainable_parameters']:,} "
            f"| {row['decimals']:.3f} | {row['versions']:.3f} |"
        )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
