"""One step's gradient does not depend on how its rows are split."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny_models import write_rows

from edgelora.engine.base import load_base
from edgelora.engine.compute import make_accelerator
from edgelora.engine.data import Row
from edgelora.engine.gradients import Gradients, RowLosses
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.optimizer import clipped_parameters
from edgelora.errors import CombinationError


def row(length, task=0, masked=2):
    ids = [(7 * length + position) % 250 for position in range(length)]
    return Row(ids, [-100] * masked + ids[masked:], task, f"rows:{length}", None, None)


class WeightedSum:
    """L = Σ wₜ Lₜ + 3, with learned weights; remembers what it was given."""

    def __init__(self):
        self.weights = torch.nn.Parameter(torch.tensor([0.5, 2.0]))
        self.given = []

    def __call__(self, losses, step):
        self.given.append(dict(losses))
        return 3.0 + sum(self.weights["ab".index(name[-1])] * loss for name, loss in losses.items())

    def parameters(self):
        return [self.weights]


def gradient(plan, micro_batches, tasks=("main",), combiner=None):
    the_plan = plan(derivative="qlora")
    model = load_base(the_plan)
    torch.manual_seed(0)
    layers = inject(model, the_plan)
    for parameter in trainable_parameters(layers).values():
        torch.nn.init.normal_(parameter, std=0.1)
    gradients = Gradients(
        RowLosses(model, layers, 512),
        combiner or the_plan.build("loss_combiner"),
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


def test_a_task_that_a_micro_batch_lacks_is_left_out_and_the_step_stays_the_same(plan):
    lengths, present = (5, 40, 3, 17, 9, 30, 12, 4), (0, 0, 0, 1, 1, 0, 1, 1)
    rows = [row(length, task) for length, task in zip(lengths, present, strict=True)]
    whole, split = WeightedSum(), WeightedSum()
    whole_loss, whole_gradient = gradient(plan, [rows], "ab", whole)
    split_loss, split_gradient = gradient(plan, [rows[i : i + 2] for i in range(0, 8, 2)], "ab", split)
    assert [set(losses) for losses in split.given] == [
        {"task.a"},
        {"task.a", "task.b"},
        {"task.a", "task.b"},
        {"task.b"},
    ]
    assert split_loss == pytest.approx(whole_loss, rel=1e-6)
    assert float((whole_gradient - split_gradient).norm() / whole_gradient.norm()) < 1e-6
    assert torch.allclose(whole.weights.grad, split.weights.grad, rtol=1e-6)


class OneWeightPerTask(WeightedSum):
    """Its weight of an absent task is no part of the graph."""

    def __init__(self):
        super().__init__()
        self.weights = [torch.nn.Parameter(torch.tensor(weight)) for weight in (0.5, 2.0)]

    def parameters(self):
        return self.weights


def test_a_weight_of_an_absent_task_is_still_exchanged_between_processes(plan, monkeypatch):
    exchanged = []
    monkeypatch.setattr(
        Accelerator, "reduce", lambda self, tensor, reduction: exchanged.append(reduction) or tensor
    )
    combiner = OneWeightPerTask()
    gradient(plan, [[row(5)]], "ab", combiner)
    assert exchanged == ["mean", "mean", "sum"]
    assert combiner.weights[0].grad > 0
    assert combiner.weights[1].grad == 0


def test_the_combiners_parameters_go_to_the_models_device():
    # PyTorch moves a parameter in place between real devices only, and a test has but one of them.
    learned = SimpleNamespace(data=SimpleNamespace(to=lambda device: f"on {device}"))
    combiner = SimpleNamespace(parameters=lambda: [learned])
    elsewhere = SimpleNamespace(device=torch.device("cuda:0"))
    Gradients(torch.nn.Identity(), combiner, tasks="ab", accelerator=elsewhere, pad_id=0)
    assert learned.data == "on cuda:0"


def test_the_combiners_parameters_are_clipped_with_the_adapters():
    combiner, layer = WeightedSum(), torch.nn.Linear(2, 2)
    clipped = clipped_parameters({"one": layer}, combiner)
    assert [id(parameter) for parameter in clipped] == [
        id(layer.weight),
        id(layer.bias),
        id(combiner.weights),
    ]


def test_the_loss_is_the_mean_over_labelled_tokens_of_each_task(plan):
    rows = [row(5, 0), row(40, 1), row(3, 0)]
    first = gradient(plan, [[rows[0], rows[2]]])[0]
    second = gradient(plan, [[row(40, 0)]])[0]
    both = gradient(plan, [rows[:1], rows[1:]], ("a", "b"))[0]
    assert both == pytest.approx(first + second, rel=1e-5)


RECIPE = """
derivative: {derivative}
base: {base}
adapter: {{rank: 4}}
{parts}
data: [{{path: {rows}, task: versions, held_out: 0.1}}, {{path: {other}, task: decimals, held_out: 0.1}}]
train: {{max_steps: 6, batch_size: {batch_size}, accumulation: 2, learning_rate: 1.0e-2, threads: 1,
         gradient_checkpointing: true, packing: {packing}, streamed: {streamed}}}
out: {out}
"""

PARTS = {
    "lora": "",
    "adalora": "rank_scheduler: {target_rank: 2, warmup_steps: 0, final_steps: 2, every: 1}",
    "mtlora": "loss_combiner: uncertainty",
}

SCRIPT = """
import sys
from pathlib import Path
from edgelora.recipe import read_recipe
from edgelora.registry import Registry
from edgelora.run import run
for recipe in sys.argv[1:]:
    run(read_recipe(Path(recipe)), Registry.discover())
"""


@pytest.fixture(scope="module")
def split_runs(tiny_base, rows, tmp_path_factory):
    """Run folders by number of processes, then derivative, all of the same global batch."""
    folder = tmp_path_factory.mktemp("split")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    other = write_rows(folder / "other.jsonl", 60, seed=1)
    runs = {}
    for processes, batch_size in ((1, 4), (2, 2)):
        runs[processes] = {derivative: folder / f"{derivative}-{processes}" for derivative in PARTS}
        recipes = []
        for derivative, out in runs[processes].items():
            recipes.append(out.with_suffix(".yaml"))
            recipes[-1].write_text(
                RECIPE.format(
                    derivative=derivative,
                    parts=PARTS[derivative],
                    base=tiny_base,
                    rows=rows,
                    other=other,
                    batch_size=batch_size,
                    packing="true" if derivative == "mtlora" and processes > 1 else "false",
                    streamed="true" if derivative == "lora" and processes > 1 else "false",
                    out=out,
                )
            )
        if processes == 1:
            _launch([str(script), *map(str, recipes)])
        # A process group cannot be made anew in the same processes, so each derivative has its own.
        for recipe in recipes if processes > 1 else ():
            launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
            _launch([*launcher, str(script), str(recipe)])
    return runs


def _launch(arguments):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("derivative", PARTS)
def test_two_processes_equal_one_at_the_same_global_batch(split_runs, derivative):
    adapters, first_steps = [], []
    for runs in split_runs.values():
        (weights,) = (runs[derivative] / "adapter").glob("*.safetensors")
        adapters.append(load_file(weights))
        first_steps.append(json.loads((runs[derivative] / "metrics.jsonl").read_text().splitlines()[0]))
    one, two = first_steps
    # AdamW does not see the scale of its gradients; the norm and the loss before it do.
    assert one["step"] == two["step"] == 0
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-6)
    one, two = adapters
    # Pruned components are not in the file: its shapes are the masks.
    assert {name: tensor.shape for name, tensor in one.items()} == {n: t.shape for n, t in two.items()}
    # AdamW divides by the gradient's size: an element whose gradient is rounding may go either way.
    assert max(float((one[name] - two[name]).norm() / one[name].norm()) for name in one) < 1e-3


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_a_wrapper_that_shards_the_base_is_refused(monkeypatch, tmp_path, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(CombinationError, match=rf"{name} is not supported: .* sharding") as caught:
        make_accelerator(tmp_path, tensorboard=False, routed=False)
    assert "torchrun" in caught.value.fix
