"""A step on shapes alone takes what the same step takes on numbers."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from edgelora.engine.base import load_base
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.estimating.placement import with_settings
from edgelora.engine.estimating.shape_model import make_shape_model, read_config
from edgelora.engine.estimating.step import Rows, optimizer_bytes, step_cost
from edgelora.engine.inject import inject, trainable_parameters
from edgelora.engine.quantized_shapes import state_shapes
from edgelora.errors import ModelError
from edgelora.layers.scratch import release_scratch

ROWS = Rows(count=2, length=24, padded=False)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
GROUPED = SMALL | {"intermediate_size": 96, "num_key_value_heads": 2}
ARCHITECTURES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "mistral": GROUPED,
    "phi3": GROUPED | {"pad_token_id": 0},
    "gemma2": GROUPED | {"head_dim": 16},
    "gemma3_text": GROUPED | {"head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96},
    "gpt_neox": SMALL | {"intermediate_size": 96},
    "falcon": SMALL,
}


def rehearsed(plan, config, rows=ROWS):
    release_scratch()
    shapes = make_shape_model(plan, config, torch.float32)
    with torch.device("meta"):
        layers = inject(shapes.model, plan)
    return step_cost(shapes.model, layers, plan, rows)


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw", "paged-adamw-8bit"])
def test_small_optimizers_are_counted_too(plan, optimizer):
    assert rehearsed(plan({"optimizer": optimizer}), read_config(plan().recipe.base)).parts["optimizer"] > 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("derivative", ["lora", "qlora", "dora", "irqlora", "full", "reslora-ms"])
def test_shapes_take_what_numbers_take(plan, derivative, checkpointing):
    options = {} if derivative == "full" else {"rank": 4}
    train = {"gradient_checkpointing": checkpointing, "loss_rows": 16}
    made = plan(train, derivative=derivative, adapter=options)
    expected = rehearsed(made, read_config(made.recipe.base))

    release_scratch()
    model = load_base(made, torch.device("cpu"))
    layers = inject(model, made)
    if checkpointing:
        enable_checkpointing(model)
    taken = step_cost(model, layers, made, ROWS)

    assert expected.trainable == taken.trainable
    assert expected.flops == taken.flops
    for part, size in taken.parts.items():
        assert expected.parts[part] == pytest.approx(size, rel=0.02, abs=2048), part


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padded", [False, True])
def test_any_architecture_runs_from_its_configuration_alone(plan, tmp_path, architecture, padded):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": architecture, **ARCHITECTURES[architecture]}))
    made = plan({"gradient_checkpointing": True}, base=str(path))
    cost = rehearsed(made, read_config(str(path)), replace(ROWS, padded=padded))
    assert cost.flops > 0
    assert all(cost.parts[part] > 0 for part in ("weights", "adapter", "gradients", "optimizer"))


def test_checkpointing_keeps_less_and_computes_more(plan):
    rows = Rows(4, 128, padded=False)
    resident, checkpointed = (
        rehearsed(made, read_config(made.recipe.base), rows)
        for made in (plan(), plan({"gradient_checkpointing": True}))
    )
    assert checkpointed.parts["activations"] < resident.parts["activations"]
    assert checkpointed.flops > resident.flops


def test_what_a_rank_scheduler_keeps_is_counted(plan):
    alone = rehearsed(plan(), read_config(plan().recipe.base))
    pruned = plan(
        {"max_steps": 100}, derivative="adalora", adapter={"rank": 4}, rank_scheduler={"target_rank": 2}
    )
    scored = rehearsed(pruned, read_config(pruned.recipe.base))
    # Two moments for AdamW, two averages for AdaLoRA.
    assert scored.parts["optimizer"] > 15 * scored.trainable
    assert alone.parts["optimizer"] < 9 * alone.trainable


def test_fewer_loss_rows_take_fewer_logits(plan):
    few, many = (
        rehearsed(made, read_config(made.recipe.base), Rows(4, 128, padded=False))
        for made in (plan({"loss_rows": 16}), plan({"loss_rows": 512}))
    )
    assert few.total < many.total
    assert few.parts["logits"] < many.parts["logits"]


def test_llama_8b_learns_as_many_numbers_as_the_paper_prints(plan, tmp_path):
    """41,943,040: Yugopuspito et al. 2024, figure 3, rank 16 on all linears."""
    path = tmp_path / "config.json"
    config = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    path.write_text(json.dumps(config))
    made = plan(derivative="qlora", base=str(path), adapter={"rank": 16})
    shapes = make_shape_model(made, read_config(str(path)), torch.bfloat16)
    with torch.device("meta"):
        layers = inject(shapes.model, made)
    assert shapes.parameters == 8_030_261_248
    assert sum(each.numel() for each in trainable_parameters(layers).values()) == 41_943_040


@pytest.mark.parametrize(("optimizer", "small", "large"), [("adamw", 8, 8), ("adamw-8bit", 8, 2)])
def test_states_of_small_tensors_stay_in_32_bit(plan, optimizer, small, large):
    settings = plan({"optimizer": optimizer}).recipe.train
    for shape, each in (((16, 64), small), ((16, 4096), large)):
        numbers = [torch.nn.Parameter(torch.empty(shape, device="meta"))] * 3
        taken = optimizer_bytes(numbers, settings)
        # Codebooks, and scales of each 256 numbers.
        assert taken == pytest.approx(each * 3 * shape[0] * shape[1], rel=0.06)


def test_the_states_of_a_large_parameter_are_told_from_some_of_its_numbers(plan):
    for optimizer, each in (("adamw", 8), ("adamw-8bit", 2)):
        numbers = [torch.nn.Parameter(torch.empty(128_256, 4096, device="meta"))]
        taken = optimizer_bytes(numbers, plan({"optimizer": optimizer}).recipe.train)
        assert taken == pytest.approx(each * 128_256 * 4096, rel=0.02)


def test_the_state_of_a_large_weight_is_told_from_samples(plan):
    quantizer = plan(derivative="qlora").build("quantizer")
    shape = 8192, 1024
    told = state_shapes(quantizer, shape, torch.bfloat16)
    linear = torch.nn.Linear(1024, 8192, bias=False, dtype=torch.bfloat16)
    real = quantizer.quantize(linear, "linear").state_dict()
    assert told == {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in real.items()}


def test_an_architecture_that_needs_values_is_told_to_be_measured(plan, monkeypatch):
    made = plan()
    shapes = make_shape_model(made, read_config(made.recipe.base), torch.float32)
    with torch.device("meta"):
        layers = inject(shapes.model, made)

    def forward(*arguments, **options):
        return torch.linalg.eigvals(torch.empty(0, 3)).numpy()

    monkeypatch.setattr(shapes.model.base_model, "forward", forward)
    with pytest.raises(ModelError, match=r"cannot be taken on shapes alone.*\n.*--measure"):
        step_cost(shapes.model, layers, made, ROWS)


@pytest.mark.parametrize("error", [NotImplementedError, TypeError, AttributeError, ValueError])
def test_whatever_an_architecture_raises_is_told_in_one_way(plan, monkeypatch, error):
    made = plan(memory_budget="1GiB")
    shapes = make_shape_model(made, read_config(made.recipe.base), torch.float32)
    with torch.device("meta"):
        layers = inject(shapes.model, made)

    def forward(*arguments, **options):
        raise error  # without a message

    monkeypatch.setattr(shapes.model.base_model, "forward", forward)
    with pytest.raises(ModelError, match=f"shapes alone: {error.__name__}\n") as caught:
        step_cost(shapes.model, layers, made, ROWS)
    assert "leave memory_budget out and set train.streamed" in caught.value.fix


def test_other_threads_see_nothing_of_an_estimate(plan, monkeypatch):
    made = plan({"gradient_checkpointing": True})
    shapes = make_shape_model(made, read_config(made.recipe.base), torch.float32)
    with torch.device("meta"):
        layers = inject(shapes.model, made)
    before, forward, seen = functional.scaled_dot_product_attention, shapes.model.base_model.forward, []

    def look(*arguments, **options):
        seen.append(functional.scaled_dot_product_attention)
        return forward(*arguments, **options)

    monkeypatch.setattr(shapes.model.base_model, "forward", look)
    step_cost(shapes.model, layers, made, ROWS)
    assert set(seen) == {before}


def test_settings_are_changed_in_a_copy(plan):
    made = plan()
    assert with_settings(made, {"batch_size": 7}).recipe.train.batch_size == 7
    assert made.recipe.train.batch_size == 2
