"""The training loop: gradients, determinism, interruptions and what it refuses."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama

from edgelora.engine import run_folder
from edgelora.engine.report import PlainReporter, QuietReporter
from edgelora.engine.resuming import compare_plans
from edgelora.engine.train import Outcome
from edgelora.errors import (
    CheckpointError,
    CheckpointNotFound,
    DataError,
    DependencyMissing,
    DiskFull,
    Interrupted,
    NonFiniteLoss,
    PlanError,
    ResumeMismatch,
    RunExists,
    RunLocked,
)
from edgelora.run import run
from edgelora.verify import verify
from edgelora_plugins.lora.layer import LoraAdapter


def weights(result):
    return load_file(result.folder / "adapter_model.safetensors")


def largest_difference(first, second):
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class StopAt(QuietReporter):
    """Sends a signal to this process when a step is reported."""

    def __init__(self, step, number=signal.SIGTERM):
        self.at, self.number = step, number

    def step(self, record):
        if record["step"] == self.at:
            signal.raise_signal(self.number)


def test_training_lowers_the_held_out_loss_and_leaves_a_verified_adapter(recipe, registry):
    from edgelora.verify import verify

    result = run(recipe({"max_steps": 12, "evaluate_base": True}), registry)
    assert result.measurements["main.loss"].value < result.base_measurements["main.loss"].value
    assert verify(result.folder) == []
    assert result.peak_bytes["rss"] > 0


def test_metrics_hold_a_line_per_step(recipe, registry, tmp_path):
    run(recipe(), registry)
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(6))
    for line in lines:
        assert line["tokens_per_second"] > 0
        assert line["longest"] >= line["tokens"] / 4
        assert line["peak_bytes"]["rss"] > 0


def test_the_first_step_holds_the_longest_row(recipe, registry, tmp_path):
    run(recipe({"max_steps": 50}), registry)
    lines = records(tmp_path / "run")
    assert lines[0]["longest"] == max(line["longest"] for line in lines)


@pytest.mark.parametrize("derivative", ["lora", "qlora"])
def test_accumulation_equals_one_large_batch(recipe, registry, tmp_path, derivative):
    changes = {"derivative": derivative}
    split = run(recipe({"batch_size": 2, "accumulation": 4}, out=str(tmp_path / "a"), **changes), registry)
    whole = run(recipe({"batch_size": 8, "accumulation": 1}, out=str(tmp_path / "b"), **changes), registry)
    lines = [records(tmp_path / name) for name in "ab"]
    assert lines[0][0]["loss"] == pytest.approx(lines[1][0]["loss"], abs=1e-6)
    assert lines[0][0]["gradient_norm"] == pytest.approx(lines[1][0]["gradient_norm"], rel=1e-5)
    assert largest_difference(weights(split), weights(whole)) < 1e-4  # six AdamW steps amplify rounding


def test_gradient_checkpointing_changes_nothing(recipe, registry, tmp_path):
    changes = {"adapter": {"rank": 4, "dropout": 0.1}}
    plain = run(recipe(out=str(tmp_path / "a"), **changes), registry)
    saved = run(recipe({"gradient_checkpointing": True}, out=str(tmp_path / "b"), **changes), registry)
    assert largest_difference(weights(plain), weights(saved)) < 1e-6


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(recipe, registry, tmp_path):
    first = run(recipe(out=str(tmp_path / "a")), registry)
    torch.rand(3)
    second = run(recipe(out=str(tmp_path / "b")), registry)
    third = run(recipe({"seed": 1}, out=str(tmp_path / "c")), registry)
    assert largest_difference(weights(first), weights(second)) == 0
    assert largest_difference(weights(first), weights(third)) > 0


def test_evaluation_on_the_way_changes_nothing(recipe, registry, tmp_path):
    changes = {"derivative": "qlora", "adapter": {"rank": 4, "dropout": 0.1}}
    without = run(recipe(out=str(tmp_path / "a"), **changes), registry)
    evaluators = ["loss", "exact-match"]
    often = recipe({"evaluate_every": 2}, out=str(tmp_path / "b"), evaluators=evaluators, **changes)
    assert largest_difference(weights(without), weights(run(often, registry))) == 0
    assert [line["step"] for line in records(tmp_path / "b") if "evaluation" in line] == [1, 3]


@pytest.mark.parametrize("derivative", ["lora", "qlora"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_is_bitwise_the_uninterrupted_run(
    recipe, registry, tmp_path, derivative, number
):
    changes = {"derivative": derivative, "adapter": {"rank": 4, "dropout": 0.1}}
    train = {"evaluate_every": 4, "optimizer": "adamw"}
    whole = run(recipe(train, out=str(tmp_path / "a"), **changes), registry)
    broken = recipe(train, out=str(tmp_path / "b"), **changes)
    with pytest.raises(Interrupted, match=f"{number.name} arrived; step 3 of 6 is saved") as caught:
        run(broken, registry, reporter=StopAt(2, number))
    assert caught.value.exit_code == 130
    assert "--resume" in caught.value.fix
    resumed = run(broken, registry, resume=True)
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert [r["step"] for r in records(tmp_path / "b") if "loss" in r] == list(range(6))


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw", "paged-adamw-8bit"])
def test_small_optimizers_train_and_resume_bitwise(recipe, registry, tmp_path, optimizer):
    train = {"optimizer": optimizer}
    whole = run(recipe(train, out=str(tmp_path / "a")), registry)
    broken = recipe(train, out=str(tmp_path / "b"))
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt(2))
    assert largest_difference(weights(whole), weights(run(broken, registry, resume=True))) == 0


def test_a_finished_run_can_be_resumed_to_the_same_adapter(recipe, registry):
    first = weights(run(recipe(), registry))
    assert largest_difference(first, weights(run(recipe(), registry, resume=True))) == 0


def test_resuming_keeps_the_threads_of_the_start(recipe, registry):
    with pytest.raises(Interrupted):
        run(recipe({"threads": 2}), registry, reporter=StopAt(2))
    run(recipe({"threads": 1}), registry, resume=True)
    assert torch.get_num_threads() == 2


def test_resuming_another_recipe_is_refused_by_name(recipe, registry):
    run(recipe(), registry)
    with pytest.raises(
        ResumeMismatch, match=r"with train\.learning_rate: 0\.01, and now it is 0\.02\n"
    ) as caught:
        run(recipe({"learning_rate": 0.02}), registry, resume=True)
    assert caught.value.fix == "go back to train.learning_rate: 0.01, or start again into another 'out'"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"adapter": {"rank": 2}}, "adapter.rank: 4, and now it is 2"),
        ({"adapter": {"rank": 4, "alpha": 8}}, "adapter.alpha: 16.0, and now it is 8.0"),
        ({"adapter": {"rank": 4, "rank_pattern": {"q_proj": 2}}}, "adapter.rank_pattern.q_proj: unset, and"),
        ({"derivative": "dora"}, "derivative: lora, and now it is dora"),
        ({"evaluators": ["exact-match"]}, "evaluators.0: loss, and now it is exact-match"),
        (
            {"train": {"packing": True, "seed": 1}},
            "train.packing: false, and now it is true; train.seed changed",
        ),
        ({"loss_combiner": "task-sum"}, "loss_combiner: sum, and now it is task-sum"),
    ],
)
def test_what_differs_is_told_as_a_recipe_has_it(plan, changes, told):
    stored = plan().as_document()
    with pytest.raises(ResumeMismatch) as caught:
        compare_plans(stored, plan(**changes).as_document())
    assert caught.value.problem.startswith(f"the run was started with {told}")


def test_another_version_of_a_plugin_is_told_by_the_part_it_has(plan):
    stored, current = plan().as_document(), plan().as_document()
    stored["parts"]["adapter"]["version"] = "0.0.9"
    with pytest.raises(ResumeMismatch, match=r"started with version of adapter: 0\.0\.9, and now it is 0\."):
        compare_plans(stored, current)


def test_settings_that_a_stored_plan_does_not_know_had_their_defaults(plan):
    current = plan().as_document()
    stored = plan().as_document()
    for name in ("fused", "packing", "streamed"):
        del stored["recipe"]["train"][name]
    del stored["recipe"]["memory_budget"], stored["recipe"]["past"]
    compare_plans(stored, current)
    with pytest.raises(ResumeMismatch, match="started with past: none, and now it is a"):
        compare_plans(stored, current | {"past": ["sha256:0"], "recipe": current["recipe"] | {"past": ["a"]}})
    with pytest.raises(ResumeMismatch, match=r"train\.packing: false, and now it is true"):
        compare_plans(stored, plan({"packing": True}).as_document())


def test_resuming_on_other_software_is_refused_by_name(recipe, registry, monkeypatch):
    run(recipe(), registry)
    monkeypatch.setattr("torch.__version__", "9.9.9")
    with pytest.raises(ResumeMismatch, match=r"started with torch .*, and now it is 9\.9\.9:"):
        run(recipe(), registry, resume=True)


def test_resuming_on_other_data_is_refused(recipe, registry, rows, tmp_path):
    data = tmp_path / "own.jsonl"
    data.write_bytes(rows.read_bytes())
    run(recipe(data=[{"path": str(data)}]), registry)
    data.write_bytes(b"\n".join(rows.read_bytes().splitlines()[:-1]))
    with pytest.raises(ResumeMismatch, match="the training rows are not those"):
        run(recipe(data=[{"path": str(data)}]), registry, resume=True)


def test_resuming_nothing_is_refused(recipe, registry):
    with pytest.raises(CheckpointNotFound, match="holds no checkpoint"):
        run(recipe(), registry, resume=True)


def test_a_damaged_checkpoint_is_named_with_the_one_before(recipe, registry, tmp_path):
    run(recipe({"save_every": 2}), registry)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=rf"{newest.name} is damaged") as caught:
        run(recipe({"save_every": 2}), registry, resume=True)
    assert "step-000004.pt" in caught.value.fix


def test_a_run_is_not_overwritten_unless_asked(recipe, registry):
    run(recipe(), registry)
    with pytest.raises(RunExists, match="already holds a run") as caught:
        run(recipe(), registry)
    assert "--resume" in caught.value.fix
    run(recipe(), registry, overwrite=True)


def test_two_runs_into_one_folder_are_refused(recipe, registry, tmp_path):
    with (
        run_folder.RunFolder(tmp_path / "run").lock(),
        pytest.raises(RunLocked, match="another process is training into"),
    ):
        run(recipe(), registry)


def test_a_full_disk_leaves_the_last_checkpoint(recipe, registry, tmp_path, monkeypatch):
    write = run_folder._write

    def full(path, state):
        if state["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, state)

    monkeypatch.setattr(run_folder, "_write", full)
    with pytest.raises(DiskFull, match="no space left while writing") as caught:
        run(recipe({"save_every": 2}), registry)
    assert caught.value.exit_code == 8
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002.pt"]
    monkeypatch.undo()
    run(recipe({"save_every": 2}), registry, resume=True)


def test_a_loss_that_is_not_finite_names_step_and_rows(recipe, registry):
    changes = {"learning_rate": 1e30, "max_gradient_norm": None, "warmup": 0.0}
    with pytest.raises(NonFiniteLoss, match=r"the loss at step \d is nan, on rows train\.jsonl:\d+"):
        run(recipe(changes), registry)


def test_a_gradient_that_is_not_finite_stops_before_the_adapter_is_touched(recipe, registry, monkeypatch):
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(NonFiniteLoss, match=r"the gradient at step 0 has norm inf, on rows train\.jsonl:\d+"):
        run(recipe(), registry)


def test_an_adapter_that_is_not_finite_is_not_packed(recipe, registry, tmp_path, monkeypatch):
    def ruin(model, layers, *rest):
        next(iter(layers.values())).lora_B.data[0, 0] = float("nan")
        return Outcome(1, 1, {})

    monkeypatch.setattr("edgelora.engine.train.train", ruin)
    with pytest.raises(NonFiniteLoss, match=r"lora_B.* holds numbers that are not finite"):
        run(recipe(evaluators=[]), registry)
    assert not (tmp_path / "run" / "adapter").exists()


def test_resuming_on_another_base_is_refused(recipe, registry, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    run(recipe(base=str(base)), registry)
    save_llama(base, seed=1)
    with pytest.raises(ResumeMismatch, match="is not the one the run was started on"):
        run(recipe(base=str(base)), registry, resume=True)


def test_eight_bit_states_are_eight_bits(recipe, registry, tmp_path):
    """bitsandbytes keeps small tensors in 32 bits: a difference shows at 4,096 elements."""
    changes = {"adapter": {"rank": 64, "target_modules": ["mlp.up_proj"]}, "derivative": "lora"}
    train = {"optimizer": "adamw-8bit"}
    whole = run(recipe(train, out=str(tmp_path / "a"), **changes), registry)
    broken = recipe(train, out=str(tmp_path / "b"), **changes)
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=StopAt(2))
    state = run_folder.RunFolder(tmp_path / "b").latest_checkpoint()["state"]["optimizer"]["state"]
    moments = [entry["__bnb_optimizer_quant_state__"]["state1"] for entry in state.values()]
    assert {moment.dtype for moment in moments} == {torch.uint8}
    assert largest_difference(weights(whole), weights(run(broken, registry, resume=True))) == 0


def test_tensorboard_that_is_not_installed_is_named(recipe, registry, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match="tensorboard is not installed"):
        run(recipe({"tensorboard": True}), registry)


def test_the_newest_checkpoint_is_the_largest_number(tmp_path):
    folder = run_folder.RunFolder(tmp_path)
    for step in (999_999, 1_000_000):
        folder.save_checkpoint(step, {"step": step}, keep=1)
    assert folder.latest_checkpoint()["step"] == 1_000_000


def test_a_calibrating_adapter_sees_data_once_and_keeps_what_it_learned(recipe, registry, monkeypatch):
    calls = []

    def calibrate(self, model, layers, batches):
        calls.append((self, [batch.input_ids.shape[1] for batch in batches]))

    monkeypatch.setattr("edgelora_plugins.lora.layer.LoraAdapter.calibrate", calibrate, raising=False)
    wrapped_by = []
    wrap = LoraAdapter.wrap
    monkeypatch.setattr(LoraAdapter, "wrap", lambda self, *a: wrapped_by.append(self) or wrap(self, *a))
    with pytest.raises(Interrupted):
        run(recipe(), registry, reporter=StopAt(2))
    assert {adapter for adapter, _ in calls} == set(wrapped_by)
    run(recipe(), registry, resume=True)
    ((_, widths),) = calls
    assert widths != sorted(widths), "as training takes them, not the shortest first"


def test_a_recipe_without_data_is_refused(recipe, registry):
    with pytest.raises(PlanError, match="names no data to train on"):
        run(recipe(data=[]), registry)


def test_data_without_a_row_is_refused(recipe, registry, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError):
        run(recipe(data=[{"path": str(empty)}]), registry)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_warms_up_and_follows_its_schedule(recipe, registry, tmp_path, schedule):
    run(recipe({"max_steps": 10, "warmup": 0.2, "schedule": schedule}), registry)
    rates = [line["learning_rate"] / 1e-2 for line in records(tmp_path / "run")]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    expected = {"constant": 1.0, "linear": 1 / 8, "cosine": 0.0381}
    assert rates[-1] == pytest.approx(expected[schedule], abs=1e-3)


def test_epochs_count_every_row(recipe, registry, rows, tmp_path):
    run(recipe({"max_steps": None, "epochs": 0.5}, data=[{"path": str(rows)}]), registry)
    assert len(records(tmp_path / "run")) == 200 // 4 // 2


def test_a_paged_optimizer_on_a_cpu_says_it_is_not_paged(recipe, registry, capsys):
    run(recipe({"optimizer": "paged-adamw"}), registry, reporter=PlainReporter())
    assert "paged-adamw is not paged on a CPU" in capsys.readouterr().err


def test_tensorboard_files_are_written_when_asked(recipe, registry, tmp_path):
    run(recipe({"tensorboard": True}), registry)
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_a_run_that_cannot_start_leaves_the_one_it_would_replace(recipe, registry):
    result = run(recipe(), registry)
    refused = recipe(adapter={"name": "iec", "rank": 5})
    with pytest.raises(PlanError, match="rank 5 does not divide"):
        run(refused, registry, overwrite=True)
    assert verify(result.folder) == []


@pytest.mark.parametrize(("learning_rate", "is_told"), [(1e-2, False), (1e-45, True)])
def test_an_adapter_that_learned_nothing_is_told(recipe, registry, learning_rate, is_told):
    said = []

    class Listening(QuietReporter):
        def message(self, text):
            said.append(text)

    settings = {"learning_rate": learning_rate, "max_steps": 2}
    run(recipe(train=settings), registry, reporter=Listening())
    assert any("changes no output of the base" in text for text in said) == is_told
