import math

import torch
from edgelora_dwa.combiner import DynamicWeightAverage
from edgelora_dwa.options import DwaOptions

from edgelora.protocols import TrainingRun
from edgelora.testing import LossCombinerConformance


class TestDwa(LossCombinerConformance):
    part = "dwa"


def test_the_weights_are_those_of_equation_7():
    combiner = DynamicWeightAverage(DwaOptions(every=1, temperature=2.0))
    combiner.attach(TrainingRun(total_steps=3, seed=0, tasks=("fast", "slow")))
    for step, (fast, slow) in enumerate([(4.0, 4.0), (1.0, 3.0), (1.0, 1.0)]):
        loss = combiner({"task.fast": torch.tensor(fast), "task.slow": torch.tensor(slow)}, step)
    fast, slow = math.exp(0.25 / 2), math.exp(0.75 / 2)
    assert math.isclose(combiner.weights["task.slow"], 2 * slow / (fast + slow), rel_tol=1e-6)
    assert math.isclose(float(loss), 2.0, rel_tol=1e-6)
