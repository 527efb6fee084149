"""Shared and task-specific factors in one batch, against the equations, PEFT, and batches of single tasks."""

import copy

import peft
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from edgelora.capabilities import Additive, LowRank, TaskAware
from edgelora.errors import PlanError, PluginBug
from edgelora.layers import FrozenLinear, factors_are_exact, merge_into
from edgelora.protocols import Site
from edgelora_plugins.mtlora.layer import TaskLoraAdapter
from edgelora_plugins.mtlora.options import TaskLoraOptions

TASKS = ("sum", "name", "sort")
IN, OUT = 12, 10
RANKS = {"rank": 4, "alpha": 6.0, "task_rank": 2, "task_alpha": 5.0, "task_rank_pattern": {"sort": 3}}
MIXED = torch.tensor([1, 0, 2, 0])


def site(tasks=TASKS, rank=4, alpha=6.0):
    return Site(name="lin", depth=0, kind="lin", rank=rank, alpha=alpha, task_names=tasks)


def layers_of(count=1, *, tasks=TASKS, trained=True, **options):
    """Layers of one adapter, deterministic; with factors that are not at their start."""
    torch.manual_seed(0)
    adapter = TaskLoraAdapter(TaskLoraOptions(**RANKS | options))
    layers = [adapter.wrap(FrozenLinear.of(nn.Linear(IN, OUT)), site(tasks)) for _ in range(count)]
    if trained:
        for parameter in (p for layer in layers for p in layer.parameters() if p.requires_grad):
            nn.init.normal_(parameter, std=0.5)
    return layers


@pytest.fixture
def layer():
    (layer,) = layers_of()
    return layer


def inputs(*shape):
    return torch.randn(*shape, IN, generator=torch.Generator().manual_seed(1))


def pair(layer, task):
    return layer.get_parameter(f"task_A_{task}"), layer.get_parameter(f"task_B_{task}")


def own_change(layer, task, x):
    """s_t B_t A_t x, as the paper writes it."""
    A, B = pair(layer, task)
    return RANKS["task_alpha"] / len(A) * (x @ A.T @ B.T)


def shared_change(layer, x):
    return RANKS["alpha"] / RANKS["rank"] * (x @ layer.lora_A.T @ layer.lora_B.T)


def rows_of(task):
    return MIXED.eq(task)


def gradients(layer):
    return {name: p.grad for name, p in layer.named_parameters() if p.requires_grad}


def backward(layer, x, task_ids, weights):
    """Gradients of a fixed linear function of the outputs."""
    layer.zero_grad(set_to_none=True)
    layer.route(task_ids)
    (layer(x) * weights).sum().backward()
    return {name: None if g is None else g.clone() for name, g in gradients(layer).items()}


def test_each_row_gets_the_shared_change_and_that_of_its_task(layer):
    x = inputs(4, 5)
    layer.route(MIXED)
    y = layer(x)
    for row, task in enumerate(MIXED):
        expected = layer.base(x[row]) + shared_change(layer, x[row]) + own_change(layer, TASKS[task], x[row])
        torch.testing.assert_close(y[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["matrixv2", "matrix"])
def test_training_starts_at_the_base(mode):
    (layer,) = layers_of(trained=False, mode=mode)
    x = inputs(4, 5)
    layer.route(MIXED)
    assert torch.equal(layer(x), layer.base(x))
    assert all(pair(layer, task)[0].any() for task in TASKS)


def test_a_mode_that_shares_nothing_is_noted():
    assert [*TaskLoraOptions(mode="matrixv2").notes(None)] == []
    (note,) = TaskLoraOptions(mode="matrix").notes(None)
    assert "shares nothing between tasks, and its rank and alpha do nothing" in note


def test_matrix_and_matrixv2_differ_by_exactly_the_shared_change():
    (full,) = layers_of()
    (alone,) = layers_of(mode="matrix")
    assert {name for name, _ in full.named_parameters()} - {name for name, _ in alone.named_parameters()} == {
        "lora_A",
        "lora_B",
    }
    alone.load_state_dict(full.state_dict(), strict=False)
    x = inputs(4, 5)
    for each in (full, alone):
        each.route(MIXED)
    torch.testing.assert_close(full(x) - alone(x), shared_change(full, x), rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_equals_batches_of_single_tasks(layer):
    x = inputs(4, 5)
    layer.route(MIXED)
    mixed = layer(x)
    for task in range(len(TASKS)):
        layer.route(torch.tensor(task))
        torch.testing.assert_close(mixed[rows_of(task)], layer(x[rows_of(task)]), rtol=1e-5, atol=1e-5)


def test_gradients_of_a_mixed_batch_are_the_sum_of_those_of_its_tasks(layer):
    x, weights = inputs(4, 5), torch.randn(4, 5, OUT, generator=torch.Generator().manual_seed(2))
    mixed = backward(layer, x, MIXED, weights)
    single = [
        backward(layer, x[rows_of(task)], torch.tensor(task), weights[rows_of(task)])
        for task in range(len(TASKS))
    ]
    for name, gradient in mixed.items():
        parts = [each[name] for each in single if each[name] is not None]
        assert len(parts) == (3 if name.startswith("lora_") else 1)
        torch.testing.assert_close(gradient, sum(parts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("route", [torch.tensor([1, 1]), torch.tensor(1)], ids=["rows", "single"])
def test_tasks_that_are_absent_get_no_gradient(layer, route):
    found = backward(layer, inputs(2, 5), route, torch.ones(OUT))
    absent = {f"task_{side}_{task}" for side in "AB" for task in ("sum", "sort")}
    assert {name for name, gradient in found.items() if gradient is None} == absent
    assert all(found[name].any() for name in found.keys() - absent)


def test_weight_decay_leaves_the_factors_of_absent_tasks(layer):
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for task in (0, 1):  # by the second step the optimizer has moments of the first task
        backward(layer, inputs(2, 5), torch.tensor([task, task]), torch.ones(OUT))
        optimizer.step()
        moved = {name for name, tensor in layer.state_dict().items() if not torch.equal(tensor, before[name])}
        assert moved == {"lora_A", "lora_B", f"task_A_{TASKS[task]}", f"task_B_{TASKS[task]}"}
        before = copy.deepcopy(layer.state_dict())


@pytest.mark.parametrize("task", TASKS)
def test_it_is_two_active_adapters_of_peft(layer, task):
    plain = nn.ModuleDict({"lin": nn.Linear(IN, OUT)})
    plain["lin"].load_state_dict({"weight": layer.base.weight, "bias": layer.base.bias})
    plain.forward = lambda x: plain["lin"](x)

    def config(rank, scale):
        return peft.LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=["lin"])

    own = TASKS.index(task)
    rank = len(pair(layer, task)[0])
    both = peft.get_peft_model(plain, config(4, 6.0 / 4), adapter_name="shared")
    both.add_adapter("task", config(rank, 5.0 / rank))
    both.base_model.set_adapter(["shared", "task"])
    adapted = both.base_model.model["lin"]
    for name, A, B in (
        ("shared", layer.lora_A, layer.lora_B),
        ("task", *pair(layer, task)),
    ):
        adapted.lora_A[name].weight.data = A.detach()
        adapted.lora_B[name].weight.data = B.detach()
    x = inputs(4, 5)
    layer.route(torch.full((4,), own))
    difference = (layer(x) - adapted(x)).abs().max() / adapted(x).abs().max()
    assert difference < 1e-5
    assert (layer(x) - layer.base(x)).abs().max() > 1


@pytest.mark.parametrize("mode", ["matrixv2", "matrix"])
def test_each_task_merges_into_one_weight(mode):
    (layer,) = layers_of(mode=mode)
    x, weights = inputs(7), []
    for task in range(len(TASKS)):
        layer.route(torch.tensor(task))
        assert factors_are_exact(layer)
        weights.append(merge_into(layer, layer.base.weight))
        merged = nn.functional.linear(x, weights[-1], layer.base.bias)
        torch.testing.assert_close(merged, layer(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weights[0], weights[1])


def test_a_layer_routed_by_rows_has_no_factors_and_says_which_route_to_set(layer):
    layer.route(MIXED)
    with pytest.raises(PluginBug, match="routed row by row has no factors") as caught:
        merge_into(layer, layer.base.weight)
    assert "layer.route(torch.tensor(0))" in caught.value.fix


def test_before_any_route_every_row_is_of_the_first_task(layer):
    x = inputs(5)
    expected = layer.base(x) + shared_change(layer, x) + own_change(layer, "sum", x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (4,), (4, 5), (4, 5, 2)])
def test_a_route_for_all_takes_inputs_of_any_shape_and_one_by_rows_any_with_rows_first(layer, shape):
    x = inputs(*shape)
    layer.route(torch.tensor(2))
    alike = layer(x)
    assert alike.shape == (*shape, OUT)
    if shape:
        layer.route(torch.full((4,), 2))
        torch.testing.assert_close(layer(x), alike, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (1, 4, 5)])
def test_another_number_of_rows_than_routed_is_refused(layer, shape):
    layer.route(MIXED)
    with pytest.raises(PlanError, match=r"routed for 4 rows got an input of shape .* without their rows"):
        layer(inputs(*shape))


@pytest.mark.parametrize("ids", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor(3)])
def test_a_number_of_no_task_is_refused_and_leaves_the_route(layer, ids):
    x = inputs(4, 5)
    layer.route(MIXED)
    before = layer(x)
    with pytest.raises(PluginBug, match=r"routed to task number (3|-1) and know 3"):
        layer.route(ids)
    assert torch.equal(layer(x), before)


class Reads(TorchDispatchMode):
    """Counts operations whose result the host waits for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ("unique", "_local_scalar_dense", "nonzero", "repeat_interleave")
        self.count += any(name in str(function) for name in names)
        return function(*args, **kwargs or {})


def test_a_route_is_read_once_for_all_layers_and_never_in_a_forward():
    layers = layers_of(6)
    ids, x = MIXED.clone(), inputs(4, 5)
    with Reads() as first:
        layers[0].route(ids)
    with Reads() as others:
        for layer in layers[1:]:
            layer.route(ids)
        for layer in layers:
            layer(x)
    assert first.count > 0
    assert others.count == 0


@pytest.mark.parametrize("ids", [torch.tensor(1), torch.tensor([2, 2, 1, 0])], ids=["single", "rows"])
def test_a_new_route_of_one_layer_is_that_of_all(ids):
    first, second = layers_of(2)
    x = inputs(4, 5)
    first.route(MIXED)
    second(x)
    first.route(ids)
    for row, task in enumerate(ids.expand(4)):
        own = own_change(second, TASKS[task], x[row])
        expected = second.base(x[row]) + shared_change(second, x[row]) + own
        torch.testing.assert_close(second(x)[row], expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_equal_with_and_without_checkpointing():
    found = []
    for through in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        layers = layers_of(2, dropout=0.3)
        for layer in layers:
            layer.route(MIXED)
        torch.manual_seed(3)
        x = inputs(4, 5).requires_grad_()
        sum(through(layer, x).square().sum() for layer in layers).backward()
        found.append([x.grad, *(g for layer in layers for g in gradients(layer).values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_all_branches_see_the_same_dropped_elements():
    (layer,) = layers_of(dropout=0.5)
    x = inputs(4, 5)
    layer.route(MIXED)
    torch.manual_seed(4)
    change = layer.delta(x)
    torch.manual_seed(4)
    dropped = nn.functional.dropout(x, 0.5)
    assert (dropped == 0).any()
    layer.eval()
    torch.testing.assert_close(change, layer.delta(dropped), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_bfloat16_as_in_float32_to_rounding(layer, adapter_dtype):
    x = inputs(4, 5)
    layer.route(MIXED)
    exact = layer(x)
    rounded = copy.deepcopy(layer)
    rounded.base.bfloat16()
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(adapter_dtype if parameter.requires_grad else torch.bfloat16)
    y = rounded(x.bfloat16())
    assert y.dtype == torch.bfloat16
    # Three roundings to 8 bits, of a sum of products as large as the largest output.
    assert (y.float() - exact).abs().max() < 3 * 2**-8 * exact.abs().max()
    y.float().sum().backward()
    assert {p.grad.dtype for p in rounded.parameters() if p.requires_grad} == {adapter_dtype}


def test_trainable_parameters_are_the_closed_form(layer):
    count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert count == (4 + 2 + 2 + 3) * (IN + OUT)


def test_its_state_is_the_shared_factors_and_those_of_each_task(layer):
    state = {name for name in layer.state_dict() if not name.startswith("base.")}
    own = {f"task_{side}_{task}" for side in "AB" for task in TASKS}
    assert state == {"lora_A", "lora_B"} | own
    (other,) = layers_of(trained=False)
    other.load_state_dict(layer.state_dict())
    other.route(MIXED)
    layer.route(MIXED)
    assert torch.equal(other(inputs(4, 5)), layer(inputs(4, 5)))


def test_a_task_may_be_called_what_a_module_calls_its_own():
    tasks = ("train", "training", "values", "type", "_parameters")
    (layer,) = layers_of(tasks=tasks, task_rank_pattern={"train": 3})
    state = copy.deepcopy(layer.train().eval()).state_dict()
    assert {f"task_A_{task}" for task in tasks} <= state.keys()
    (other,) = layers_of(tasks=tasks, task_rank_pattern={"train": 3}, trained=False)
    other.load_state_dict(state)
    layer.route(torch.tensor([0, 2, 4]))
    found = backward(other.train(), inputs(3, 5), torch.tensor([0, 2, 4]), torch.ones(OUT))
    assert {name for name, g in found.items() if g is None} == {
        f"task_{side}_{task}" for side in "AB" for task in ("training", "type")
    }


def test_it_has_the_abilities_it_declares(layer):
    assert all(isinstance(layer, ability) for ability in (Additive, LowRank, TaskAware))
