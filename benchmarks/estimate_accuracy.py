"""What ``edgelora estimate`` predicts, beside what training then takes: peak memory in a fresh process each.

Bases are built with random weights in the shapes of known models, blocks left out. Each case is trained for
two optimizer steps on rows of exactly the case's length, or of up to it. Judged are the peak, and what the
process holds of its own above what it held once all was imported: the imports are most of a small peak, and
are not predicted but looked at. The estimate's constants were measured on other cases than those held out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Arm, Goal, Report, phase, run_arm
from harness.memory import memory_of

MIB = 2**20
SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b-4": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 4,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
    },
    "qwen-0.5b-8": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 8, "num_attention_heads": 14, "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama-8b-2": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 2,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "micro lora": {"base": "micro", "rows": (8, 64), "dtype": "float32"},
    "1b lora fp32": {"base": "llama-1b-4", "rows": (1, 128), "dtype": "float32"},
    "1b lora bf16": {"base": "llama-1b-4", "rows": (1, 256)},
    "1b qlora": {"base": "llama-1b-4", "derivative": "qlora", "rows": (2, 256)},
    "1b qlora checkpointed": {
        "base": "llama-1b-4", "derivative": "qlora", "rows": (2, 256),
        "train": {"gradient_checkpointing": True},
    },
    "1b qlora 512 budget": {"base": "llama-1b-4", "derivative": "qlora", "rows": (1, 512), "budget": "64GiB"},
    "1b qlora prepared streamed": {
        "base": "llama-1b-4-nf4", "derivative": "qlora", "rows": (1, 256), "budget": "64GiB",
        "train": {"streamed": True},
    },
    "1b dora": {"base": "llama-1b-4", "derivative": "dora", "rows": (1, 128)},
    "0.5b qlora fp32 8-bit": {
        "base": "qwen-0.5b-8", "derivative": "qlora", "rows": (1, 128), "dtype": "float32",
        "train": {"optimizer": "adamw-8bit"},
    },
    "0.5b qlora budget": {
        "base": "qwen-0.5b-8", "derivative": "qlora", "rows": (1, 256), "budget": "64GiB",
        "train": {"optimizer": "adamw-8bit", "adapter_dtype": "bfloat16"},
    },
    "0.5b qlora prepared streamed 16": {
        "base": "qwen-0.5b-8-nf4", "derivative": "qlora", "rows": (1, 256), "budget": "64GiB",
        "train": {"streamed": True, "loss_rows": 16, "optimizer": "adamw-8bit", "adapter_dtype": "bfloat16"},
    },
    "8b qlora checkpointed": {
        "base": "llama-8b-2", "derivative": "qlora", "rows": (1, 128),
        "train": {"gradient_checkpointing": True},
    },
    "8b lora streamed": {
        "base": "llama-8b-2", "rows": (1, 128), "train": {"streamed": True}, "budget": "64GiB",
    },
    "8b qlora prepared": {
        "base": "llama-8b-2-nf4", "derivative": "qlora", "rows": (1, 128), "budget": "64GiB",
    },
    "0.5b qlora padded": {
        "base": "qwen-0.5b-8", "derivative": "qlora", "rows": (2, 192), "train": {"accumulation": 2},
        "shortest": 48, "held_out": True,
    },
    "0.5b qlora packed": {
        "base": "qwen-0.5b-8", "derivative": "qlora", "rows": (1, 256), "train": {"packing": True},
        "shortest": 48, "held_out": True,
    },
    "0.5b adalora": {
        "base": "qwen-0.5b-8", "derivative": "adalora", "rows": (1, 128), "held_out": True,
        "recipe": {"rank_scheduler": {"target_rank": 8}},
    },
    "0.5b dora": {"base": "qwen-0.5b-8", "derivative": "dora", "rows": (2, 128), "held_out": True},
}  # fmt: skip
"""``rows`` is batch size, tokens. bfloat16 unless said. ``-nf4`` is the base prepared with nf4.
Rows have one length, or all down to ``shortest``."""
WHOLE = {
    "llama-3.1-8b streamed": {
        "base": "llama-3.1-8b", "derivative": "qlora", "rows": (1, 128), "held_out": True,
        "train": {"streamed": True, "optimizer": "adamw-8bit", "adapter_dtype": "bfloat16"},
    },
}  # fmt: skip
"""Of prepared bases that are not built here; the machine has to have room for their files."""


def build(name: str, folder: str) -> None:
    """Write a base with random weights in bfloat16, and a tokenizer of bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from edgelora.micro.tokenizer import write_tokenizer

    shape = {"model_type": "llama", **SHAPES[name]}
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(Path(folder))


def prepare(source: str, folder: str) -> None:
    """Quantize a base as ``edgelora bases prepare --quantizer nf4`` does."""
    from edgelora.engine.preparing import prepare_base
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    plan = make_plan(make_recipe({"derivative": "qlora", "base": source}), Registry.discover())
    prepare_base(Path(source), Path(folder), plan.parts["quantizer"])


def recipe_of(case: dict[str, Any], folder: Path, bases: Path) -> dict[str, Any]:
    """The recipe of a case, its rows written beside it."""
    batch_size, length = case["rows"]
    rows = folder / f"rows-{length}.jsonl"
    shortest = case.get("shortest", length)
    # Tokens are bytes; what is longer than the recipe's length is cut.
    sizes = [shortest + (length - shortest) * number // 31 for number in range(32)]
    texts = ("x" * (2 * length if size == length else size) for size in sizes)
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        "derivative": case.get("derivative", "lora"),
        "base": case["base"] if case["base"] == "micro" else str(bases / case["base"]),
        "adapter": {"rank": 16},
        "data": [{"path": str(rows), "format": "text"}],
        "evaluators": [],
        "memory_budget": case.get("budget"),
        "train": {
            "max_steps": 2, "batch_size": batch_size, "accumulation": 1, "max_length": length,
            "dtype": case.get("dtype", "bfloat16"), "threads": 1, **case.get("train", {}),
        },
        "out": str(folder / "run"),
        **case.get("recipe", {}),
    }  # fmt: skip


def train(recipe: dict[str, Any]) -> dict[str, int]:
    """Train as ``edgelora train`` does, and tell the peaks it reports."""
    from edgelora.engine.job import Job
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    job = Job(make_plan(make_recipe(recipe), Registry.discover()))
    imported = memory_of()["anon"]
    with job.lock():
        job.begin(resume=False, overwrite=True)
        dataset = job.load_data()
        job.settle(dataset, None)
        with phase("load"):
            model = job.load_base()
            model, layers = job.inject(model)
        with phase("steps"):
            job.train(model, layers, dataset, None)
    return {**job.peak_bytes, "imported": imported}


def predict(recipe: dict[str, Any]) -> dict[str, Any]:
    """What ``edgelora estimate`` says of the recipe's own placement."""
    from edgelora.engine.estimating.estimate import estimate
    from edgelora.plan import make_plan
    from edgelora.recipe import make_recipe
    from edgelora.registry import Registry

    plan = make_plan(make_recipe(recipe), Registry.discover())
    plan.build("quantizer"), plan.build("adapter")
    imported = memory_of()["anon"]
    found = estimate(plan).memory[0]
    return {
        "peak": found.peak, "loading": found.loading, "stepping": found.stepping,
        "anonymous": found.anonymous, "imported": imported, "parts": dict(found.parts),
    }  # fmt: skip


def compare(name: str, case: dict[str, Any], bases: Path) -> dict[str, Any]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        recipe = recipe_of(case, Path(temporary), bases)
        said = run_arm(Arm(f"{name}, predicted", predict, {"recipe": recipe}))["result"]
        done = run_arm(Arm(f"{name}, measured", train, {"recipe": recipe}))
    loading, steps = done["phases"]["load"]["peaks"], done["phases"]["steps"]["peaks"]
    measured = max(loading["peak_rss"], steps["peak_rss"])
    above = steps["anon"] - done["result"]["imported"]
    return {
        "case": name,
        "held out": bool(case.get("held_out")),
        "batch × tokens": "{} × {}".format(*case["rows"]),
        "predicted MiB": said["peak"] / MIB,
        "measured MiB": measured / MIB,
        "ratio": said["peak"] / measured,
        "loading: predicted": said["loading"] / MIB,
        "measured": loading["peak_rss"] / MIB,
        "step: predicted": said["stepping"] / MIB,
        "measured ": steps["peak_rss"] / MIB,
        "anonymous: predicted": said["anonymous"] / MIB,
        "measured  ": steps["anon"] / MIB,
        "own above imports: predicted": (said["anonymous"] - said["imported"]) / MIB,
        "measured   ": above / MIB,
        "ratio ": (said["anonymous"] - said["imported"]) / above,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = CASES | WHOLE
    parser.add_argument("--cases", nargs="+", choices=list(every), metavar="CASE")
    parser.add_argument("--bases", type=Path, help="a folder of prepared bases: adds llama-3.1-8b")
    parser.add_argument("--work", type=Path, help="keep the bases here (8 GB), and use those that are there")
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    report = Report(
        "estimate_accuracy",
        "Predicted and measured peak memory",
        {"rank": 16, "threads": 1, "accumulation": "1, padded 2", "dtype": "bfloat16 unless said"},
    )
    with tempfile.TemporaryDirectory() as temporary:
        bases = arguments.work or Path(temporary)
        bases.mkdir(parents=True, exist_ok=True)
        there = arguments.bases or bases
        whole = [name for name, case in WHOLE.items() if (there / case["base"]).is_dir()]
        for name in arguments.cases or [*CASES, *whole]:
            case = every[name]
            if name in CASES:
                make_base(case["base"], bases)
            report.rows.append(compare(name, case, bases if name in CASES else there))
            print(json.dumps(report.rows[-1]), file=sys.stderr, flush=True)
    held_out = [row for row in report.rows if row["held out"]]
    judge(report, "predicted peak within 10 % of measured, 64 to 512 tokens", report.rows, "ratio", 0.1)
    judge(report, "the same, of cases held out", held_out, "ratio", 0.1)
    judge(report, "own memory above the imports within 20 % of measured", report.rows, "ratio ", 0.2)
    judge(report, "the same of it, of cases held out", held_out, "ratio ", 0.2)
    report.finish(arguments.out)


def judge(report: Report, goal: str, rows: list[dict[str, Any]], column: str, limit: float) -> None:
    """Add a goal: all ratios of a column are this close to 1."""
    ratios = [row[column] for row in rows]
    if ratios:
        told = f"{min(ratios):.2f} to {max(ratios):.2f} of measured over {len(ratios)} cases"
        report.goals.append(Goal(goal, told, max(abs(ratio - 1) for ratio in ratios) <= limit))


def make_base(name: str, bases: Path) -> None:
    """Build a base that is not there yet, and prepare it where its name says so."""
    if name == "micro" or (bases / name / "config.json").exists():
        return
    source, prepared, _ = name.partition("-nf4")
    if not prepared:
        run_arm(Arm(f"building {name}", build, {"name": name, "folder": str(bases / name)}))
        return
    make_base(source, bases)
    settings = {"source": str(bases / source), "folder": str(bases / name)}
    run_arm(Arm(f"preparing {name}", prepare, settings))


if __name__ == "__main__":
    main()
