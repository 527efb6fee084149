"""One step's gradient does not depend on how its rows are split."""

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from edgelora.engine.base import load_base
from edgelora.engine.compute import make_accelerator
from edgelora.engine.data import Row
from edgelora.engine.gradients import Gradients, RowLosses
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.errors import CombinationError


def row(length, task=0, masked=2):
    ids = [(7 * length + position) % 250 for position in range(length)]
    return Row(ids, [-100] * masked + ids[masked:], task, f"rows:{length}", None, None)


def gradient(plan, micro_batches, tasks=("main",)):
    the_plan = plan(derivative="qlora")
    model = load_base(the_plan)
    torch.manual_seed(0)
    layers = inject(model, the_plan)
    for parameter in trainable_parameters(layers).values():
        torch.nn.init.normal_(parameter, std=0.1)
    gradients = Gradients(
        RowLosses(model, layers, 512),
        layers,
        the_plan.build("loss_combiner"),
        tasks=tasks,
        accelerator=Accelerator(),
        pad_id=0,
    )
    every = [one for micro in micro_batches for one in micro]
    tokens = [sum(len(r.input_ids) - 2 for r in every if r.task == task) for task in range(len(tasks))]
    loss = gradients.accumulate(micro_batches, tokens, step=0)
    return loss, torch.cat([p.grad.flatten() for p in trainable_parameters(layers).values()])


@pytest.mark.parametrize("tasks", [("main",), ("versions", "decimals")])
def test_four_times_two_rows_equal_eight_rows(plan, tasks):
    rows = [
        row(length, task=number % len(tasks)) for number, length in enumerate((5, 40, 3, 17, 9, 30, 12, 4))
    ]
    whole_loss, whole = gradient(plan, [rows], tasks)
    split_loss, split = gradient(plan, [rows[i : i + 2] for i in range(0, 8, 2)], tasks)
    assert split_loss == pytest.approx(whole_loss, abs=1e-6)
    assert float((whole - split).norm() / whole.norm()) < 1e-6


def test_the_loss_is_the_mean_over_labelled_tokens_of_each_task(plan):
    rows = [row(5, 0), row(40, 1), row(3, 0)]
    first = gradient(plan, [[rows[0], rows[2]]])[0]
    second = gradient(plan, [[row(40, 0)]])[0]
    both = gradient(plan, [rows[:1], rows[1:]], ("a", "b"))[0]
    assert both == pytest.approx(first + second, rel=1e-5)


RECIPE = """
derivative: lora
base: {base}
adapter: {{rank: 4}}
data: [{{path: {rows}, held_out: 0.1}}]
train: {{max_steps: 4, batch_size: {batch_size}, accumulation: 2, learning_rate: 1.0e-2, threads: 1,
         gradient_checkpointing: true}}
out: {out}
"""

SCRIPT = """
import sys
from pathlib import Path
from edgelora.recipe import read_recipe
from edgelora.registry import Registry
from edgelora.run import run
run(read_recipe(Path(sys.argv[1])), Registry.discover())
"""


def test_two_processes_equal_one_at_the_same_global_batch(tiny_base, rows, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    adapters = []
    for processes, batch_size in ((1, 4), (2, 2)):
        out = tmp_path / f"run-{processes}"
        recipe = tmp_path / f"{processes}.yaml"
        recipe.write_text(RECIPE.format(base=tiny_base, rows=rows, batch_size=batch_size, out=out))
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *(launch if processes > 1 else []), str(script), str(recipe)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        adapters.append(load_file(out / "adapter" / "adapter_model.safetensors"))
    one, two = adapters
    # AdamW divides by the gradient's size, which enlarges differences in the last bit of small gradients.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_a_wrapper_that_shards_the_base_is_refused(monkeypatch, tmp_path, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(CombinationError, match=rf"{name} is not supported: .* sharding") as caught:
        make_accelerator(tmp_path, tensorboard=False, routed=False)
    assert "torchrun" in caught.value.fix
