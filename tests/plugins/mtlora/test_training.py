"""Two tasks through the whole job: learning, resuming, and one model of each task."""

import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgelora.engine.apply import load_adapted, probe_logits
from edgelora.engine.inject import adapter_tensors
from edgelora.engine.job import Job
from edgelora.engine.merge import merge
from edgelora.engine.report import QuietReporter
from edgelora.engine.run_folder import RunFolder
from edgelora.engine.train import Surroundings, TrainingLoop
from edgelora.errors import Interrupted, PlanError
from edgelora.plan import make_plan
from edgelora.run import run

TASKS = ("first", "second")


def weights(result):
    return load_file(result.folder / "edgelora.safetensors")


def of_task(task, tensors):
    return {name: tensor for name, tensor in tensors.items() if name.endswith(f"_{task}")}


class StopAt(QuietReporter):
    """Sends SIGTERM to this process when a step is reported."""

    def __init__(self, step):
        self.at = step

    def step(self, record):
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGTERM)


class Loop:
    """A real training loop, taken a step at a time."""

    def __init__(self, recipe, registry):
        plan = make_plan(recipe, registry)
        job = Job(plan)
        job.begin(resume=False, overwrite=False)
        self.dataset, model = job.load_data(), job.load_base()
        _, self.layers = job.inject(model)
        around = Surroundings(
            job.accelerator, job.folder, QuietReporter(), job.tokenizer, {}, dict, job.check_base
        )
        self.loop = TrainingLoop(model, self.layers, plan, self.dataset, around)

    def tasks_of(self, step):
        return {
            TASKS[self.dataset.train[index].task]
            for process in self.loop.order.step(step)
            for micro_batch in process
            for index in micro_batch
        }

    def tensors(self):
        return {name: tensor.detach().clone() for name, tensor in adapter_tensors(self.layers).items()}


@pytest.mark.parametrize("combiner", [{"name": "task-weighted", "weights": {"second": 2.0}}, "uncertainty"])
def test_two_tasks_are_learned_by_one_adapter(recipe, registry, combiner):
    result = run(recipe({"max_steps": 12, "evaluate_base": True}, loss_combiner=combiner), registry)
    for task in TASKS:
        assert (
            result.measurements[f"{task}.loss"].value < 0.5 * result.base_measurements[f"{task}.loss"].value
        )
        assert all(tensor.any() for tensor in of_task(task, weights(result)).values())


@pytest.mark.parametrize("adapter", ["task-lora", "task-lora-addition"])
def test_gradient_checkpointing_changes_nothing(recipe, registry, tmp_path, adapter):
    changes = {"adapter": {"name": adapter, "rank": 4, "dropout": 0.1}}
    found = [
        weights(
            run(
                recipe({"gradient_checkpointing": saves}, out=str(tmp_path / str(saves)), **changes), registry
            )
        )
        for saves in (False, True)
    ]
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) < 1e-6


def test_a_step_moves_the_factors_of_the_tasks_in_it_alone(recipe, registry):
    settings = {"batch_size": 1, "accumulation": 1, "weight_decay": 0.5, "max_steps": 16}
    training = Loop(recipe(settings), registry)
    seen = []
    for step in range(8, 16):
        before = training.tensors()
        training.loop.take(step)
        (task,) = training.tasks_of(step)
        seen.append(task)
        moved = {name for name, tensor in training.tensors().items() if not torch.equal(tensor, before[name])}
        (other,) = set(TASKS) - {task}
        assert not moved & of_task(other, before).keys()
        assert moved >= of_task(task, before).keys()
    # Each is absent at a step at which the optimizer has moments of it.
    (other,) = set(TASKS) - {seen[0]}
    assert other in seen and seen[0] in seen[seen.index(other) :]


def test_a_resumed_run_with_learned_weights_is_bitwise_the_uninterrupted_one(recipe, registry, tmp_path):
    changes = {"loss_combiner": "uncertainty"}
    whole = run(recipe(out=str(tmp_path / "a"), **changes), registry)
    broken = recipe(out=str(tmp_path / "b"), **changes)
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt(2))
    saved = RunFolder(tmp_path / "b").latest_checkpoint()["state"]["combiner"]
    assert all(variance != 0 for variance in saved.values()) and len(saved) == 2
    resumed = run(broken, registry, resume=True)
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    ends = [RunFolder(tmp_path / name).latest_checkpoint()["state"]["combiner"] for name in "ab"]
    assert ends[0] == ends[1] != saved


def test_each_task_merges_into_a_model_of_its_own(recipe, registry, base, tmp_path):
    folder = run(recipe(adapter={"rank": 4}), registry).folder
    merged = {}
    for task in TASKS:
        adapted = load_adapted(str(folder), registry, base=str(base))
        adapted.route(task)
        expected = probe_logits(adapted.model)
        assert merge(adapted, tmp_path / task).largest_difference < 1e-4
        merged[task] = probe_logits(AutoModelForCausalLM.from_pretrained(tmp_path / task))
        torch.testing.assert_close(merged[task], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*merged.values(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"loss_combiner": {"name": "task-weighted", "weights": {"secnd": 2.0}}}, "loss_combiner.weights"),
        ({"adapter": {"task_rank_pattern": {"secnd": 2}}}, "adapter.task_rank_pattern"),
    ],
)
def test_a_misspelt_task_is_refused_before_training(recipe, registry, changes, field):
    with pytest.raises(PlanError, match=f"{field} names 'secnd'") as caught:
        run(recipe(**changes), registry)
    assert caught.value.fix == "did you mean 'second'?"


def test_tasks_called_as_members_of_a_module_are_trained(recipe, registry, data):
    renamed = [source | {"task": task} for source, task in zip(data, ("train", "values"), strict=True)]
    for adapter in ("task-lora", "task-lora-addition"):
        changes = {"adapter": {"name": adapter, "rank": 2}, "data": renamed}
        result = run(recipe({"max_steps": 2}, **changes), registry, overwrite=True)
        assert of_task("train", weights(result)) and of_task("values", weights(result))
