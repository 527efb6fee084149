"""What holds for every loss combiner, tried on made-up losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgelora.errors import PlanError
from edgelora.parts import Kind
from edgelora.protocols import LossCombiner, Measurement, TrainingRun
from edgelora.testing.check import require
from edgelora.testing.compare import impurity, same_bits, same_state
from edgelora.testing.part import WHERE_OPTIONS_ARE_SET, PartConformance
from edgelora.testing.random_state import random_state_left_as_found
from edgelora.testing.setting import setting

AUX = "aux.model.layers.0.self_attn.q_proj.orthogonality"
STEPS = 4


class LossCombinerConformance(PartConformance):
    """A loss combiner of an installed plugin.

    Attributes:
        tasks: Names of the run's tasks, at least two.
    """

    kind: ClassVar[Kind] = "loss_combiner"
    tasks: ClassVar[tuple[str, ...]] = setting(("first", "second"))

    def combiner(self) -> LossCombiner:
        """A fresh one, attached."""
        made: LossCombiner = self.planned().build()
        try:
            made.attach(TrainingRun(total_steps=STEPS, seed=0, tasks=tuple(self.tasks)))
        except PlanError as error:
            raise AssertionError(
                f"it refuses a run with the tasks {', '.join(self.tasks)}: {error.problem}; "
                f"{WHERE_OPTIONS_ARE_SET}; or set tasks alike (--kit)"
            ) from error
        return made

    def losses(self, step: int = 0) -> dict[str, Tensor]:
        """A loss for each task, ever smaller, and an auxiliary one; all want gradients.

        Which task is the worst changes from step to step, so that each is at some step.
        """
        count = len(self.tasks)
        values = {
            f"task.{task}": (2.0 + (n + step) % count) / (1 + step) for n, task in enumerate(self.tasks)
        }
        return leaves({**values, AUX: 0.5})

    def test_the_loss_is_a_finite_scalar(self) -> None:
        """At each of some steps."""
        combiner = self.combiner()
        for step in range(STEPS):
            require_finite(combiner(self.losses(step), step), f"at step {step}")

    def test_every_loss_has_a_gradient(self) -> None:
        """Each task's loss moves the total at some step: none is detached or left out."""
        combiner, moved = self.combiner(), set()
        for step in range(STEPS):
            losses = self.losses(step)
            moved |= {name for name, slope in slopes(combiner(losses, step), losses).items() if slope}
        still = [name for name in self.losses() if name.startswith("task.") and name not in moved]
        require(
            not still,
            f"the total does not depend on {', '.join(still)} at any of {STEPS} steps; add every loss, "
            "undetached",
        )

    def test_auxiliary_losses_are_counted(self) -> None:
        """Keys ``aux.<site>.<name>`` belong to the adapter's method and must not be dropped."""
        combiner, losses = self.combiner(), self.losses()
        slope = slopes(combiner(losses, 0), losses)[AUX]
        require(
            slope > 0,
            f"the total does not grow with {AUX} (slope {slope}); add losses that begin with 'aux.'",
        )

    def test_losses_of_zero_are_safe(self) -> None:
        """A perfect task makes neither the total nor a gradient infinite."""
        for zero in (*self.losses(), None):
            combiner = self.combiner()
            for step in range(STEPS):
                losses = leaves({name: 0.0 if zero in (name, None) else 1.0 for name in self.losses()})
                total = combiner(losses, step)
                where = f"where {zero or 'every loss'} is 0"
                require_finite(total, where)
                wrong = [
                    name for name, slope in slopes(total, losses).items() if not abs(slope) < float("inf")
                ]
                require(not wrong, f"the gradient of {', '.join(wrong)} is not finite {where}; add a floor")

    def test_a_missing_task_is_safe(self) -> None:
        """A micro-batch without a task has no key for it, at the first step or later."""
        combiner = self.combiner()
        for step, task in enumerate((*self.tasks, None, *self.tasks)):
            losses = {name: loss for name, loss in self.losses(step).items() if name != f"task.{task}"}
            where = f"where task {task!r} is missing"
            try:
                total = combiner(losses, step)
            except (KeyError, IndexError) as error:
                raise AssertionError(
                    f"{type(error).__name__} {error} {where}; go through the losses given"
                ) from error
            require_finite(total, where)
            slopes(total, losses)

    def test_its_parameters_are_the_same_objects(self) -> None:
        """At each call, leaves on the CPU: the engine optimizes them in place."""
        combiner = self.combiner()
        first, second = list(combiner.parameters()), list(combiner.parameters())
        require(
            [id(each) for each in first] == [id(each) for each in second],
            "parameters() returns new objects at each call; make them once, in attach or __init__",
        )
        odd = [each for each in first if not isinstance(each, nn.Parameter) or not each.is_leaf]
        require(not odd, f"parameters() returns {odd}; each must be an nn.Parameter")
        far = [each.device for each in first if each.device.type != "cpu"]
        require(not far, f"a parameter is made on {far}; make it on the CPU, the engine moves it")
        losses = self.losses()
        combiner(losses, 0).backward()
        still = [number for number, each in enumerate(first) if each.requires_grad and each.grad is None]
        require(not still, f"parameters number {still} get no gradient; use them in the total")

    def test_the_state_round_trips(self) -> None:
        """After some steps and an evaluation, a fresh one with the state goes on bitwise equal."""
        combiner = self.combiner()
        learn(combiner, range(STEPS), self.losses)
        combiner.after_evaluation(self.measurements())
        learn(combiner, range(STEPS, 2 * STEPS), self.losses)
        state = copy.deepcopy(combiner.state_dict())
        defect = impurity(state)
        require(not defect, defect)
        again = self.combiner()
        held = [id(each) for each in again.parameters()]
        again.load_state_dict(copy.deepcopy(state))
        require(
            held == [id(each) for each in again.parameters()],
            "load_state_dict replaced the parameters the optimizer holds; copy into them: "
            "parameter.copy_(...)",
        )
        require(same_state(again.state_dict(), state), "state_dict() after load_state_dict is another one")
        for step in range(2 * STEPS, 3 * STEPS):
            before, after = combiner(self.losses(step), step), again(self.losses(step), step)
            require(
                same_bits(before, after),
                f"{STEPS} steps after loading, the total is {after.item()!r} instead of "
                f"{before.item()!r}; put all that changes into state_dict()",
            )

    def test_unknown_measurements_are_ignored(self) -> None:
        """Evaluators of other plugins measure under names nobody listed."""
        combiner = self.combiner()
        combiner(self.losses(), 0)
        strange = {
            "litmus.versions": Measurement(0.5, 10, 0.2, 0.8),
            "nobody.heard_of": Measurement(1.0, 1, 0, 2),
        }
        for found in ({}, strange, self.measurements(), {**self.measurements(), **strange}):
            try:
                combiner.after_evaluation(found)
            except (KeyError, IndexError, ValueError) as error:
                raise AssertionError(
                    f"after_evaluation raised {type(error).__name__} {error} on "
                    f"{', '.join(found) or 'nothing'}; take the keys you know and leave the rest"
                ) from error
            require_finite(combiner(self.losses(1), 1), "after an evaluation")

    def test_the_random_state_is_left_as_found(self) -> None:
        """Batches and dropout of the training around must not depend on it."""
        with random_state_left_as_found("attach"):
            combiner = self.combiner()
        for step in range(STEPS):
            losses = self.losses(step)
            with random_state_left_as_found(f"at step {step} the total"):
                combiner(losses, step)
        with random_state_left_as_found("after_evaluation"):
            combiner.after_evaluation(self.measurements())

    def measurements(self) -> dict[str, Measurement]:
        """What an evaluation would find."""
        return {
            f"{task}.{metric}": Measurement(0.25 * (n + 1), 8, 0.1, 0.9)
            for n, task in enumerate(self.tasks)
            for metric in ("loss", "accuracy", "exact_match")
        }


def leaves(values: Mapping[str, float]) -> dict[str, Tensor]:
    """Losses that want gradients."""
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def slopes(total: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
    """∂total/∂loss for each loss; 0 where it takes no part."""
    require(
        isinstance(total, Tensor) and total.requires_grad,
        "the total has no gradient; compute it from the losses given, undetached",
    )
    gradients = torch.autograd.grad(total, list(losses.values()), allow_unused=True)
    return {
        name: 0.0 if gradient is None else float(gradient)
        for name, gradient in zip(losses, gradients, strict=True)
    }


def require_finite(total: object, where: str) -> None:
    """The total is one finite floating-point number."""
    require(isinstance(total, Tensor), f"the total is a {type(total).__name__} {where}; return a tensor")
    assert isinstance(total, Tensor)
    require(
        total.dim() == 0 and total.is_floating_point(),
        f"the total has shape {tuple(total.shape)} and dtype {total.dtype} {where}; return one scalar",
    )
    require(bool(total.isfinite()), f"the total is {total.item()} {where}; add a floor to what you divide by")


def learn(combiner: LossCombiner, steps: range, losses: object) -> None:
    """Optimizer steps on the combiner's own weights."""
    parameters = list(combiner.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters else None
    for step in steps:
        combiner(losses(step), step).backward()  # type: ignore[operator]
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
