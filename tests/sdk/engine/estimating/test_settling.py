"""A run under a memory budget: what it chooses holds until its end, also over a resumption."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from edgelora.engine import job
from edgelora.engine.base import default_device
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.estimating import settling
from edgelora.engine.estimating.budget import Choice
from edgelora.engine.estimating.memory import predict
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.estimating.settling import tell_peak
from edgelora.engine.memory import peaks, reset_peaks
from edgelora.engine.report import QuietReporter
from edgelora.errors import Interrupted, MemoryBudgetExceeded
from edgelora.run import run


class Remembering(QuietReporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


class StopAt(QuietReporter):
    def __init__(self, step):
        self.at = step

    def step(self, record):
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


class Counted:
    calls = 0

    def __call__(self, model):
        self.calls += 1
        enable_checkpointing(model)


def weights(result):
    return load_file(result.folder / "adapter_model.safetensors")


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("*.pt"))


def test_a_run_says_what_it_chose_and_what_it_took(recipe, registry):
    reporter = Remembering()
    run(recipe(memory_budget="64GiB"), registry, reporter=reporter)
    assert any(line.startswith("resident") and "memory_budget 64.0 GiB" in line for line in reporter.messages)
    assert any("within memory_budget 64.0 GiB" in line for line in reporter.messages)


def test_a_budget_that_is_too_small_is_refused_before_anything_is_written(recipe, registry, tmp_path):
    with pytest.raises(MemoryBudgetExceeded):
        run(recipe(memory_budget="1MiB"), registry)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_the_choice_is_taken_over_when_a_run_is_resumed(recipe, registry, tmp_path, monkeypatch):
    chosen = Placement(streamed=False, gradient_checkpointing=True, loss_rows=16)
    monkeypatch.setattr(
        settling, "choose_placement", lambda plan, around: Choice(predict(plan, around, chosen), "as told")
    )
    wanted = recipe(memory_budget="64GiB")
    whole = weights(run(wanted, registry))
    broken = wanted.model_copy(update={"out": tmp_path / "broken"})
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt(2))
    stored = torch.load(checkpoints(tmp_path / "broken")[0], weights_only=False)
    assert Placement(**stored["conditions"]["placement"]) == chosen
    assert stored["plan"]["recipe"]["train"]["gradient_checkpointing"] is False, "the plan is what was asked"

    def never(plan, around):
        raise AssertionError("a resumed run chooses nothing")

    monkeypatch.setattr(settling, "choose_placement", never)
    monkeypatch.setattr(job, "enable_checkpointing", counted := Counted())
    # Without a budget, and with another: what was chosen at the start holds on.
    resumed = weights(run(broken.model_copy(update={"memory_budget": None}), registry, resume=True))
    assert counted.calls == 1
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_budget_added_at_resumption_is_said_to_choose_nothing(recipe, registry):
    run(recipe(), registry)
    reporter = Remembering()
    run(recipe(memory_budget="1MiB"), registry, resume=True, reporter=reporter)
    told = [line for line in reporter.messages if "memory_budget 1.00 MiB" in line]
    assert told[0].startswith("the base stays resident, as the run began")
    assert "over memory_budget" in told[1]
    assert len(told) == 2


AGREE = """
import sys
import torch
from accelerate import PartialState
from edgelora.engine.estimating import settling
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.report import QuietReporter
from edgelora.errors import MemoryBudgetExceeded
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

plan = make_plan(make_recipe({"base": "micro", "memory_budget": "1GiB"}), Registry.discover())
state = PartialState(cpu=True)
assert state.num_processes == 2

class Chosen:
    placement = Placement.of(plan)
    reason = "as told"

def choose(plan, around):
    if state.process_index == refusing:
        raise MemoryBudgetExceeded("too much", fix="less")
    return Chosen

settling.choose_placement = choose
settling.rows_of = lambda plan, dataset: (None, "")
for refusing in (0, 1):
    conditions = {}
    try:
        settling.settle(plan, None, conditions, resumed=False, device=torch.device("cpu"),
                        reporter=QuietReporter())
        assert refusing == 1 and conditions, "the main process decides"
    except MemoryBudgetExceeded as error:
        assert refusing == 0 and error.fix == "less"
state.wait_for_everyone()  # a process that leaves while another still talks to it makes that one abort
state.destroy_process_group()
"""


def test_processes_of_a_run_settle_alike(tmp_path):
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="something was computed on a GPU before")
def test_a_gpu_that_is_left_alone_has_no_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_peaks()
    assert peaks().keys() == {"rss"}
    assert default_device() == torch.device("cpu")


def test_more_than_the_budget_is_said(plan):
    reporter = Remembering()
    tell_peak(plan(memory_budget="1GiB"), {"rss": 2**31}, reporter)
    tell_peak(plan(), {"rss": 2**31}, reporter)
    assert reporter.messages == ["peak memory 2.00 GiB, over memory_budget 1.00 GiB"]
