"""The paper's unweighted sum of task losses."""

import torch

from edgelora import Options, Registry
from edgelora.plan import make_plan
from edgelora.protocols import TrainingRun
from edgelora.recipe import make_recipe
from edgelora_plugins.yugopuspito2024.loss import TaskSum


def test_every_task_weighs_the_same_and_auxiliary_losses_are_added():
    losses = {name: torch.tensor(v, requires_grad=True) for name, v in {"task.a": 2.5, "task.b": 1.5}.items()}
    losses["aux.site.orthogonality"] = torch.tensor(0.25, requires_grad=True)
    combiner = TaskSum(Options())
    combiner.attach(TrainingRun(total_steps=1, seed=0, tasks=("a", "b", "c")))
    total = combiner(losses, 0)
    total.backward()
    assert total == 4.25
    assert [float(loss.grad) for loss in losses.values()] == [1.0, 1.0, 1.0]
    assert list(combiner.parameters()) == [] and combiner.state_dict() == {}


def test_a_recipe_names_it():
    recipe = make_recipe({"derivative": "mtlora", "base": "micro", "loss_combiner": "task-sum"})
    plan = make_plan(recipe, Registry.discover())
    assert plan.parts["loss_combiner"].plugin == "yugopuspito2024"
    assert isinstance(plan.build("loss_combiner"), TaskSum)
