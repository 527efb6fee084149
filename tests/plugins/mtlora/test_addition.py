"""The mode in which all tasks' changes are normalized and added."""

import pytest
import torch
from torch import nn

from edgelora.capabilities import LowRank, Mergeable, TaskAware
from edgelora.errors import ExportUnsupported
from edgelora.layers import FrozenLinear, merge_into
from edgelora.protocols import Site
from edgelora_plugins.mtlora.addition import TaskSumAdapter
from edgelora_plugins.mtlora.options import TaskSumOptions

IN, OUT = 12, 10


def make(tasks, trained=True, **options):
    torch.manual_seed(0)
    adapter = TaskSumAdapter(TaskSumOptions(rank=3, alpha=6.0, **options))
    site = Site(name="lin", depth=0, kind="lin", rank=3, alpha=6.0, task_names=tasks)
    layer = adapter.wrap(FrozenLinear.of(nn.Linear(IN, OUT)), site)
    if trained:
        for parameter in (p for p in layer.parameters() if p.requires_grad):
            nn.init.normal_(parameter)
    return layer


def change(layer, task, x):
    A, B = (layer.get_parameter(f"task_{side}_{task}") for side in "AB")
    return 2.0 * x @ A.T @ B.T


def inputs():
    return torch.randn(4, 5, IN, generator=torch.Generator().manual_seed(1))


def test_the_output_is_the_base_and_the_normalized_sum_of_all_tasks():
    layer, x = make(("a", "b", "c")), inputs()
    plain = layer.base(x)
    total = sum(plain + change(layer, task, x) for task in ("a", "b", "c"))
    centred = total - total.mean(dim=-1, keepdim=True)
    normal = centred / (total.var(dim=-1, unbiased=False, keepdim=True) + layer.norm.eps).sqrt()
    expected = plain + normal * layer.norm.weight + layer.norm.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_the_order_of_the_tasks_does_not_matter():
    first, second = make(("a", "b", "c")), make(("c", "a", "b"), trained=False)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(inputs()), second(inputs()), rtol=1e-5, atol=1e-5)


def test_it_does_not_start_at_the_base():
    layer = make(("a", "b"), trained=False)
    plain = layer.base(inputs())
    expected = plain + nn.functional.layer_norm(2 * plain, (OUT,))
    torch.testing.assert_close(layer(inputs()), expected)


def test_every_row_trains_every_task_and_the_norm_learns_too():
    layer = make(("a", "b"))
    layer(inputs()).square().sum().backward()
    trained = {name: p.grad for name, p in layer.named_parameters() if p.requires_grad}
    factors = {f"task_{side}_{task}" for side in "AB" for task in "ab"}
    assert trained.keys() == factors | {"norm.weight", "norm.bias"}
    assert all(gradient.any() for gradient in trained.values())
    assert layer.base.weight.grad is None


def test_trainable_parameters_are_the_closed_form():
    count = sum(p.numel() for p in make(("a", "b")).parameters() if p.requires_grad)
    assert count == 2 * 3 * (IN + OUT) + 2 * OUT


def test_it_is_not_one_product_and_merging_it_is_refused():
    layer = make(("a", "b"))
    assert not any(isinstance(layer, ability) for ability in (LowRank, Mergeable, TaskAware))
    with pytest.raises(ExportUnsupported, match="what lin computes cannot be folded"):
        merge_into(layer, layer.base.weight, "lin")


def test_all_tasks_see_the_same_dropped_elements():
    layer, x = make(("a", "b"), dropout=0.5), inputs()
    torch.manual_seed(4)
    y = layer(x)
    torch.manual_seed(4)
    dropped = nn.functional.dropout(x, 0.5)
    plain = layer.base(x)
    total = 2 * plain + sum(change(layer, task, dropped) for task in "ab")
    torch.testing.assert_close(y, plain + layer.norm(total), rtol=1e-4, atol=1e-4)


def test_it_computes_in_bfloat16():
    layer, x = make(("a", "b")), inputs()
    exact = layer(x)
    layer.base.bfloat16()
    y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).abs().max() < 0.1 * exact.abs().max()
