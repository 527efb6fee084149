"""Adapters of several methods, ranks and sites, trained on the tiny base for a few steps."""

import pytest
from tiny_models import write_rows

from edgelora.recipe import make_recipe
from edgelora.run import run

TASKS = ("first", "second")
RECIPES = {
    "lora": {"derivative": "lora", "adapter": {"rank": 4}},
    "sites": {"derivative": "rslora", "adapter": {"rank": 8, "target_modules": ["q_proj", "down_proj"]}},
    "olora": {"derivative": "olora", "adapter": {"rank": 4}},
    "adalora": {
        "derivative": "adalora",
        "adapter": {"rank": 6, "target_modules": "all-linear"},
        "rank_scheduler": {"target_rank": 2, "warmup_steps": 0, "final_steps": 1, "every": 1},
    },
    "tasks": {"derivative": "mtlora", "adapter": {"rank": 4, "task_rank": 2}},
    "dora": {"derivative": "dora", "adapter": {"rank": 4, "target_modules": ["q_proj"]}},
    "embedding": {"derivative": "lora", "adapter": {"rank": 4, "target_modules": ["embed_tokens", "q_proj"]}},
    "over-nf4": {"derivative": "qlora", "adapter": {"rank": 4}},
    "iec": {"derivative": "irqlora", "adapter": {"rank": 4}},
    "over-icq": {"derivative": "lora", "quantizer": "nf4-icq", "adapter": {"rank": 2}},
}


@pytest.fixture(scope="session")
def served(tiny_base, registry, tmp_path_factory):
    """A function that gives the folder of an adapter of RECIPES as text; each is trained when asked for."""
    folder = tmp_path_factory.mktemp("served")
    made = {}
    settings = {"max_steps": 3, "batch_size": 4, "accumulation": 1, "learning_rate": 2e-2, "threads": 1}

    def make(name):
        if name not in made:
            tasks = TASKS if name == "tasks" else ("main",)
            data = [
                {"path": str(write_rows(folder / f"{name}-{task}.jsonl", 20, seed=seed)), "task": task}
                for seed, task in enumerate(tasks)
            ]
            common = {"base": str(tiny_base), "data": data, "train": settings, "evaluators": []}
            document = common | RECIPES[name] | {"out": str(folder / name)}
            made[name] = str(run(make_recipe(document), registry).folder)
        return made[name]

    return make
