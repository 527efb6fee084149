"""A memory budget takes the fastest placement that fits, or says what would."""

import json
import re
from dataclasses import replace

import pytest
import torch

from edgelora.engine.estimating.budget import choose_placement
from edgelora.engine.estimating.memory import Surroundings, predict
from edgelora.engine.estimating.placement import Placement, alternatives, fewer_loss_rows
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.estimating.step import Rows
from edgelora.errors import MemoryBudgetExceeded

ROWS = Rows(4, 256, padded=False)


@pytest.fixture
def around(tiny_base):
    config = read_config(str(tiny_base))
    config.vocab_size = 4096  # so that logits are worth saving
    return Surroundings(
        config=config,
        rows=ROWS,
        dtype=torch.float32,
        prepared=False,
        on_cpu=True,
        runtime=0,
        program=0,
    )


@pytest.fixture
def peaks(plan, around):
    made = plan({"batch_size": 4}, memory_budget="1TiB")
    return {each.name: predict(made, around, each).peak for each in alternatives(made)}


def test_the_budget_is_read_with_its_unit(recipe):
    assert recipe(memory_budget="1.5GiB").memory_budget == 3 * 2**29
    assert recipe(memory_budget=5000).memory_budget == 5000
    assert recipe().memory_budget is None


def test_what_is_resident_is_fastest_and_taken_where_it_fits(plan, around, peaks):
    assert peaks["resident"] > peaks["checkpointed"]
    choice = choose_placement(plan(memory_budget=peaks["resident"]), around)
    assert choice.placement.name == "resident"
    assert choice.placement.loss_rows == 128


def test_all_weights_are_counted_where_all_learn(plan, around):
    made = plan({"batch_size": 4}, derivative="full", adapter={}, memory_budget="1TiB")
    assert [each.name for each in alternatives(made)] == ["resident", "checkpointed"], "never streamed"
    memory = predict(made, around, alternatives(made)[0])
    learned = 4 * memory.base.parameters
    assert memory.step.trainable == memory.base.parameters
    assert memory.parts["weights"] == 0, "what learns takes their place"
    assert memory.parts["adapter"] == learned
    assert memory.parts["optimizer"] == pytest.approx(2 * learned, rel=0.01)
    # While they are copied, the files' pages are there too.
    assert memory.loading == pytest.approx(2 * learned, rel=0.01)


def test_a_budget_for_all_weights_computes_blocks_again_before_it_refuses(plan, around):
    full = {"derivative": "full", "adapter": {}}
    made = plan({"batch_size": 4}, **full, memory_budget="1TiB")
    budget = predict(made, around, replace(alternatives(made)[1], loss_rows=16)).peak
    choice = choose_placement(plan({"batch_size": 4}, **full, memory_budget=budget), around)
    assert choice.placement.name == "checkpointed"
    with pytest.raises(MemoryBudgetExceeded, match="the least this run takes"):
        choose_placement(plan({"batch_size": 4}, **full, memory_budget=budget // 4), around)


def test_loss_rows_are_lowered_before_blocks_are_computed_again(plan, around, peaks):
    choice = choose_placement(plan({"batch_size": 4}, memory_budget=peaks["resident"] - 1_000_000), around)
    assert choice.placement.name == "resident"
    assert 16 <= choice.placement.loss_rows < 128
    assert fewer_loss_rows(100) == [100, 50, 25, 16]
    assert fewer_loss_rows(8) == [8]


def test_blocks_are_computed_again_where_all_is_too_much(plan, around):
    made = plan({"batch_size": 4}, memory_budget="1TiB")
    checkpointed = replace(alternatives(made)[1], loss_rows=16)
    budget = predict(made, around, checkpointed).peak
    choice = choose_placement(plan({"batch_size": 4}, memory_budget=budget), around)
    assert choice.placement.name == "checkpointed"
    assert "resident would take" in choice.reason


def test_an_explicit_setting_is_a_lower_bound(plan, around):
    choice = choose_placement(plan({"gradient_checkpointing": True}, memory_budget="1TiB"), around)
    assert choice.placement.name == "checkpointed"
    choice = choose_placement(plan({"streamed": True}, memory_budget="1TiB"), around)
    assert choice.placement.name == "streamed"


def test_a_run_that_cannot_fit_is_told_what_would(plan, around, peaks):
    # Two rows instead of four would do, and so would shorter ones; the fewest changes are named.
    least = predict(plan(memory_budget="1TiB"), around, replace(alternatives(plan())[-1], loss_rows=16)).peak
    made = plan({"batch_size": 4}, memory_budget=least - 1_000_000)
    with pytest.raises(MemoryBudgetExceeded, match="the least this run takes") as raised:
        choose_placement(made, around)
    assert "train.batch_size=1" in raised.value.fix
    assert raised.value.exit_code == 8
    fewer = replace(around, rows=Rows(1, 256, padded=False))
    assert choose_placement(plan({"batch_size": 1}, memory_budget=least - 1_000_000), fewer)


def test_a_quantized_base_is_told_to_be_prepared(plan, around):
    made = plan({"batch_size": 4}, derivative="qlora", memory_budget="1TiB")
    prepared = replace(around, prepared=True)
    streamed = replace(alternatives(made)[-1], loss_rows=16)
    budget = predict(made, prepared, streamed).peak
    made = plan({"batch_size": 4}, derivative="qlora", memory_budget=budget)
    with pytest.raises(MemoryBudgetExceeded) as raised:
        choose_placement(made, around)
    assert "edgelora bases prepare" in raised.value.fix
    assert choose_placement(made, prepared).placement.name == "streamed"


def test_one_possible_change_is_tried(plan, around):
    small = {"batch_size": 1, "optimizer": "adamw-8bit", "adapter_dtype": "bfloat16", "max_length": 32}
    made = plan(small, derivative="qlora", memory_budget="1TiB")
    around = replace(around, rows=Rows(1, 32, padded=False))
    streamed = replace(alternatives(made)[-1], loss_rows=16)
    budget = predict(made, replace(around, prepared=True), streamed).peak
    with pytest.raises(MemoryBudgetExceeded) as raised:
        choose_placement(plan(small, derivative="qlora", memory_budget=budget), around)
    assert raised.value.fix.startswith("prepare the base")


def test_any_two_changes_are_tried_together(plan, around):
    # Of batch size, optimizer, dtype and length, the first and the last are what is needed.
    made = plan({"batch_size": 4}, memory_budget="1TiB")
    fewer = replace(around, rows=Rows(1, 32, padded=False))
    budget = predict(made, fewer, replace(alternatives(made)[-1], loss_rows=16)).peak + 50_000
    with pytest.raises(MemoryBudgetExceeded) as raised:
        choose_placement(plan({"batch_size": 4}, memory_budget=budget), around)
    assert "train.batch_size=1" in raised.value.fix
    assert "train.max_length=" in raised.value.fix
    assert "optimizer" not in raised.value.fix


def test_a_change_that_a_part_refuses_is_not_named(plan, around):
    # AdaLoRA prunes to 8 per site, so it cannot start with 4.
    made = plan(
        {"max_steps": 1000, "batch_size": 4},
        derivative="adalora",
        adapter={"rank": 16},
        rank_scheduler={"target_rank": 8},
        memory_budget="1KiB",
    )
    with pytest.raises(MemoryBudgetExceeded, match="the least this run takes"):
        choose_placement(made, around)


def test_what_nothing_helps_is_said(plan, around):
    with pytest.raises(MemoryBudgetExceeded) as raised:
        choose_placement(plan(memory_budget=1000), around)
    assert "raise memory_budget" in raised.value.fix


def test_what_python_alone_takes_is_not_for_a_smaller_base_to_save(plan, around):
    with pytest.raises(MemoryBudgetExceeded) as raised:
        choose_placement(plan(memory_budget="100MiB"), replace(around, runtime=400 * 2**20))
    advice = (
        r"raise memory_budget to more than (\d+) MiB: of these, Python and the libraries alone take \d+ MiB"
    )
    enough = re.fullmatch(advice, raised.value.fix).group(1)
    assert f"the least this run takes is {enough} MiB" in raised.value.problem


def test_on_a_gpu_the_process_does_not_count(plan, around, peaks):
    made = plan(memory_budget="1TiB")
    on_gpu = predict(made, replace(around, on_cpu=False, runtime=10**9), alternatives(made)[0])
    assert on_gpu.peak < peaks["resident"]
    assert on_gpu.runtime == on_gpu.slack == 0


def test_streamed_to_a_gpu_the_embedding_stays_there(plan, around):
    made = plan({"streamed": True})
    on_cpu, on_gpu = (
        predict(made, replace(around, on_cpu=where), Placement.of(made)).parts["weights"]
        for where in (True, False)
    )
    embedding = 4096 * around.config.hidden_size * 4
    vectors = 5 * around.config.hidden_size * 4 + 100
    assert on_gpu - on_cpu == pytest.approx(embedding, abs=vectors)


def test_experts_in_one_tensor_are_counted_where_a_block_is_streamed(plan, around, tmp_path):
    path = tmp_path / "config.json"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "dtype": "bfloat16"}
    path.write_text(json.dumps({"model_type": "gpt_oss", **sizes, **heads, **experts}))
    made = plan({"streamed": True, "dtype": "bfloat16"}, base=str(path))
    streaming = replace(around, config=read_config(str(path)), dtype=torch.bfloat16)
    of_experts = 2 * 8 * (64 * 256 + 128 * 64) * 2
    assert predict(made, streaming, Placement.of(made)).parts["weights"] > of_experts
