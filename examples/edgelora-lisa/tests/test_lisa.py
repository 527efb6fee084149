import torch
from edgelora_lisa.options import LisaOptions
from edgelora_lisa.schedule import LayerSampling
from torch import nn

from edgelora.protocols import TrainingRun
from edgelora.testing import RankSchedulerConformance


class TestLisa(RankSchedulerConformance):
    part = "lisa"


def test_over_time_every_site_learns_and_never_more_than_the_active_ones():
    layers = {name: nn.Linear(2, 2) for name in "abcdef"}
    scheduler = LayerSampling(LisaOptions(active=2, every=3))
    optimizer = torch.optim.SGD(nn.ModuleList(layers.values()).parameters())
    scheduler.attach(layers, optimizer, TrainingRun(total_steps=60, seed=0, tasks=("main",)))
    learned = set()
    for step in range(60):
        for layer in layers.values():
            layer.weight.grad = torch.ones(2, 2)
        scheduler.before_update(step)
        now = {name for name, layer in layers.items() if layer.weight.grad is not None}
        assert len(now) == 2 and now == scheduler.learning(step // 3 * 3)
        learned |= now
    assert learned == set(layers)
