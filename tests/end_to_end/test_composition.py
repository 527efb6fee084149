"""Quantizers, adapters, schedulers and combiners go together as the plan allows, through the whole job."""

import re
import subprocess
import sys

import pytest
import torch
from first_party import first_party as parts_of
from first_party import is_ours, small
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.capabilities import TaskAware
from edgelora.engine.apply import probe_logits
from edgelora.engine.job import Job
from edgelora.errors import CombinationError
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.testing.compare import distance

TASKS = ("first", "second")
OPTIONS = {"budget": {"target_rank": 2, "warmup_steps": 0, "final_steps": 1, "every": 1}}
EVALUATORS = {"accuracy-scaled": [{"name": "exact-match", "samples": 2, "max_new_tokens": 2}]}
"""Of a combiner that goes by what they measure."""
UNDER_ALL = ("none", "nf4")
"""Quantizers under every adapter; the others take turns, each under two of the adapters or so."""
KINDS = ("quantizer", "adapter", "rank_scheduler", "loss_combiner")

APPLY = """
import sys, torch
from edgelora.capabilities import TaskAware
from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.registry import Registry
registry = Registry.discover()
logits = {}
for line in sys.stdin.read().split():
    name, folder = line.split("=")
    adapted = load_adapted(folder, registry, base=sys.argv[2])
    for task in adapted.tasks or ("",):
        adapted.route(task or None)
        logits[f"{name}/{task}"] = probe_logits(adapted.model)
torch.save(logits, sys.argv[1])
"""


def first_party(registry, kind):
    return [found.part.name for found in registry.parts(kind) if is_ours(found)]


def recipes(registry):
    """Every scheduler with every adapter; quantizers and combiners take turns."""
    schedulers, combiners = (first_party(registry, kind) for kind in ("rank_scheduler", "loss_combiner"))
    for row, quantizer in enumerate(first_party(registry, "quantizer")):
        for column, adapter in enumerate(first_party(registry, "adapter")):
            if quantizer not in UNDER_ALL and (row + column) % 7:
                continue
            for scheduler in schedulers:
                combiner = combiners[(row + column) % len(combiners)]
                yield {
                    "quantizer": quantizer,
                    "adapter": small(adapter),
                    "rank_scheduler": {"name": scheduler, **OPTIONS.get(scheduler, {})},
                    "loss_combiner": combiner,
                    "evaluators": EVALUATORS.get(combiner, []),
                }


def name_of(recipe):
    parts = [recipe[kind] for kind in KINDS]
    return "-".join(part if isinstance(part, str) else part["name"] for part in parts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Logits of each legal composition in the process that trained it, and the folder it was packed into."""
    folder = tmp_path_factory.mktemp("compositions")
    registry = Registry.discover()
    base = folder / "base"
    save_tokenizer(base)
    save_llama(base, tie_word_embeddings=False)
    data = [
        {"path": str(write_rows(folder / f"{task}.jsonl", 20, seed=n)), "task": task, "held_out": 0.1}
        for n, task in enumerate(TASKS)
    ]
    settings = {"max_steps": 3, "batch_size": 4, "accumulation": 1, "learning_rate": 2e-2, "threads": 1}
    common = {"base": str(base), "data": data, "train": {**settings, "evaluate_every": 2}}
    logits, folders, refused = {}, {}, []
    for recipe in recipes(registry):
        name = name_of(recipe)
        try:
            plan = make_plan(make_recipe({**common, **recipe, "out": str(folder / name)}), registry)
        except CombinationError as error:
            refused.append((name, str(error)))
            continue
        logits |= train(plan, name)
        folders[name] = folder / name / "adapter"
    return logits, folders, refused, base


def train(plan, name):
    job = Job(plan)
    with job.lock():
        checkpoint = job.begin(resume=False, overwrite=False)
        dataset = job.load_data()
        model = job.load_base()
        model, layers = job.inject(model)
        job.train(model, layers, dataset, checkpoint)
        logits = {}
        routed = [layer for layer in layers.values() if isinstance(layer, TaskAware)]
        for number, task in enumerate(TASKS if routed else ("",)):
            for layer in routed:
                layer.route(torch.tensor(number))
            logits[f"{name}/{task}"] = probe_logits(model)
        job.pack(model, layers, dataset, {}, {})
    return logits


def test_each_legal_composition_means_the_same_in_a_fresh_process(trained, tmp_path):
    logits, folders, _, base = trained
    subprocess.run(
        [sys.executable, "-c", APPLY, str(tmp_path / "logits.pt"), str(base)],
        input=" ".join(f"{name}={folder}" for name, folder in folders.items()),
        text=True,
        check=True,
    )
    applied = torch.load(tmp_path / "logits.pt")
    assert applied.keys() == logits.keys()
    # What is stored in another form than it was trained in, factors pruned or folded, is rounded once more.
    far = {name: distance(applied[name], logits[name]) for name in logits}
    assert {name: value for name, value in far.items() if value > 1e-6} == {}


def test_what_cannot_work_is_refused_at_plan_time_with_the_reason(trained):
    _, folders, refused, _ = trained
    reasons = {"-budget-": "Prunable", "-nested-": "Nested", "-weights-": "adapter 'weights'"}
    for name, message in refused:
        told = [reason in message for key, reason in reasons.items() if key in name]
        assert any(told), (name, message)
    for scheduler in ("budget", "nested"):
        assert any(f"-{scheduler}-" in name for name in folders)


def test_stock_peft_loads_only_what_it_computes(trained):
    _, folders, _, _ = trained
    adapters = parts_of("adapter")
    for name, folder in folders.items():
        quantizer, rest = re.match(r"(nf\d-icq|[^-]+)-(.*)", name).groups()
        adapter = max((name for name in adapters if rest.startswith(f"{name}-")), key=len)
        abilities = set(adapters[adapter].abilities)
        known = abilities & {"LowRank", "Exportable"} and "TaskAware" not in abilities
        stock = quantizer in ("none", "nf4", "fp4") and bool(known)
        assert (folder / "adapter_config.json").exists() == stock, name
        assert (folder / "edgelora.safetensors").exists() != stock, name
