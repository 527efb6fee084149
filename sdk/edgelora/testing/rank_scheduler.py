"""What holds for every rank scheduler, tried over a short run of a tiny model."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from edgelora.engine.inject import adapter_tensors
from edgelora.engine.state import load_adapter_tensors
from edgelora.errors import PlanError
from edgelora.parts import Kind
from edgelora.plan import Plan
from edgelora.protocols import RankScheduler
from edgelora.testing import tiny
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ, impurity, same_state
from edgelora.testing.part import WHERE_OPTIONS_ARE_SET, PartConformance
from edgelora.testing.random_state import random_state_left_as_found
from edgelora.testing.scheduler_run import Run, hook_counts, ranks_in_use, through_a_file
from edgelora.testing.setting import setting
from edgelora.testing.subject import Subject, make_subject


class RankSchedulerConformance(PartConformance):
    """A rank scheduler of an installed plugin.

    It runs over an adapter of its own plugin that has the abilities it needs, else over plain LoRA.

    Attributes:
        steps: Of the run; give the scheduler ``options`` that let it act within them.
        budget: Rank components left at the end, over all sites, at most; None where there is no such promise.
    """

    kind: ClassVar[Kind] = "rank_scheduler"
    steps: ClassVar[int] = setting(12)
    budget: ClassVar[int | None] = setting(None)

    def plan(self) -> Plan:
        """The scheduler with an adapter it can work with."""
        return self.keep("plan", self._make_plan)

    def _make_plan(self) -> Plan:
        registry, found = self.registry(), self.found()
        adapter = tiny.companion(registry, found)
        scheduler = {"name": found.qualified_name, **self.options}
        try:
            return tiny.plan_with(registry, adapter, {"rank_scheduler": scheduler})
        except PlanError as error:
            rank = tiny.SMALL["rank"]
            raise AssertionError(
                f"it refuses a plan whose adapter has rank {rank}: {error.problem}; {WHERE_OPTIONS_ARE_SET}"
            ) from error

    def most(self) -> dict[str, int]:
        """The rank training starts with, by site."""
        rank = self.plan().parts["adapter"].options.model_dump().get("rank", 0)
        return dict.fromkeys(self.whole_run().subject.layers, rank)

    def start(self) -> Run:
        """A run before its first step."""
        subject = make_subject(self.plan())
        optimizer = subject.optimizer()
        scheduler: RankScheduler = self.plan().build("rank_scheduler")
        self.attach(scheduler, subject, optimizer)
        return Run(subject, scheduler, optimizer)

    def attach(self, scheduler: RankScheduler, subject: Subject, optimizer: Optimizer) -> None:
        """As the engine does."""
        try:
            scheduler.attach(subject.layers, optimizer, subject.training_run(self.steps))
        except PlanError as error:
            rank = self.plan().parts["adapter"].options.model_dump().get("rank")
            raise AssertionError(
                f"it refuses a run of {self.steps} steps over {len(subject.layers)} sites of rank {rank}: "
                f"{error.problem}; {WHERE_OPTIONS_ARE_SET}; or set steps alike (--kit)"
            ) from error

    def whole_run(self) -> Run:
        """A run to its end, made once."""
        return self.keep("run", self._run)

    def _run(self) -> Run:
        run = self.start()
        for step in range(self.steps):
            run.take(step)
        return run

    def test_it_runs_through_all_steps(self) -> None:
        """Losses and parameters stay finite."""
        run = self.whole_run()
        lost = [
            name for name, each in adapter_tensors(run.subject.layers).items() if not each.isfinite().all()
        ]
        odd = [loss for loss in run.subject.losses if not abs(loss) < float("inf")]
        require(
            not lost and not odd, f"after {self.steps} steps {lost[:3]} or losses {odd[:3]} are not finite"
        )

    def test_its_rank_pattern_fits_the_sites(self) -> None:
        """Known sites, whole numbers from 0 to the rank of the site, at every step."""
        run, most = self.whole_run(), self.most()
        for step, pattern in enumerate(run.patterns):
            unknown = [name for name in pattern if name not in most]
            require(
                not unknown, f"at step {step} rank_pattern names {unknown[:3]}, no site; use attach's names"
            )
            wrong = {
                name: rank
                for name, rank in pattern.items()
                if type(rank) is not int or not 0 <= rank <= most[name]
            }
            require(
                not wrong,
                f"at step {step} rank_pattern says {wrong}; give whole numbers from 0 to the rank, which "
                f"is {max(most.values())}",
            )

    def test_its_rank_pattern_is_what_the_layers_have(self) -> None:
        """At the end no layer has more components in use than the pattern says.

        Before that they may grow again between two prunings. Counted are components of Prunable layers, and
        those in the factors of layers that are Nested and LowRank.
        """
        run = self.whole_run()
        said, used = run.patterns[-1], ranks_in_use(run.subject)
        if not said:
            skip("its rank_pattern is empty: it says that no rank was changed")
        if not said.keys() & used.keys():
            skip(
                "ranks can be counted in layers that are Prunable, or Nested and LowRank; its layers are not"
            )
        wrong = {name: (used[name], said[name]) for name in said if used.get(name, 0) > said[name]}
        require(
            not wrong,
            f"at the end sites use more components than rank_pattern says, as (used, said): {wrong}; call "
            "zero_ranks or set_rank after the last updates too",
        )
        self.note(
            "its_rank_pattern_is_what_the_layers_have",
            f"{sum(used[name] for name in said.keys() & used.keys())} components in use",
        )

    def test_it_ends_within_its_budget(self) -> None:
        """The ranks at the end, over all sites, are at most ``budget``."""
        if self.budget is None:
            skip("it promises no budget; one that does sets budget, in Part.kit or in its test")
        start = self.most()
        total = sum((start | self.whole_run().patterns[-1]).values())
        self.note("it_ends_within_its_budget", f"{total} of {sum(start.values())} rank components left")
        require(
            total <= self.budget,
            f"{total} components are left at the end, above the budget of {self.budget}; prune on",
        )

    def test_its_state_is_plain(self) -> None:
        """Tensors, numbers, strings, lists and dicts: what a checkpoint can hold without pickles."""
        defect = impurity(self.whole_run().scheduler.state_dict())
        require(not defect, defect)

    def test_a_resumed_run_goes_on_bitwise(self) -> None:
        """Stopped at any third of the run and resumed, it ends with the same bits."""
        whole = self.whole_run()
        for stop in (self.steps // 3, 2 * self.steps // 3):
            first = self.start()
            for step in range(stop):
                first.take(step)
            state = through_a_file(
                {
                    "adapter": adapter_tensors(first.subject.layers),
                    "optimizer": first.optimizer.state_dict(),
                    "scheduler": first.scheduler.state_dict(),
                }
            )
            second = self.start()
            load_adapter_tensors(second.subject.layers, state["adapter"])
            second.optimizer.load_state_dict(state["optimizer"])
            second.scheduler.load_state_dict(state["scheduler"])
            for step in range(stop, self.steps):
                second.take(step)
            different = bits_differ(
                adapter_tensors(whole.subject.layers), adapter_tensors(second.subject.layers)
            )
            require(
                not different and second.patterns[-1] == whole.patterns[-1],
                f"resumed at step {stop}, the run ends with other bits in {different or 'rank_pattern'}; "
                "put all that later steps depend on into state_dict(), and let draws follow from the step",
            )

    def test_it_acts_in_its_hooks_only(self) -> None:
        """Attaching and asking change nothing, and no other library's hook is left behind."""
        subject = make_subject(self.plan())
        optimizer = subject.optimizer()
        scheduler: Any = self.plan().build("rank_scheduler")
        before, logits = _copies(subject), subject.logits()
        hooks = hook_counts(subject.model, optimizer)
        self.attach(scheduler, subject, optimizer)
        require(
            hooks == hook_counts(subject.model, optimizer),
            "attach registers hooks on modules or on the optimizer; act in before_forward, before_update "
            "and after_update",
        )
        for asked in ("state_dict", "rank_pattern"):
            first, second = copy.deepcopy(getattr(scheduler, asked)()), getattr(scheduler, asked)()
            require(same_state(first, second), f"{asked}() answers differently when asked again; only report")
        different = bits_differ(before, _copies(subject))
        require(not different, f"attach or asking changed {different}; change nothing before the first step")
        after = subject.logits()
        require(
            all(torch.equal(logits[task], after[task]) for task in logits),
            "attach or asking changed what the model computes; wait for before_forward",
        )

    def test_the_random_state_is_left_as_found(self) -> None:
        """A draw follows from the step, or from a generator of its own: training must not depend on it."""
        subject = make_subject(self.plan())
        run = Run(subject, self.plan().build("rank_scheduler"), subject.optimizer())
        with random_state_left_as_found("attach"):
            self.attach(run.scheduler, subject, run.optimizer)
        for step in range(self.steps):
            for hook in ("before_forward", "before_update", "after_update"):
                if hook == "before_update":
                    run.subject.model.train()
                    run.subject.loss(run.subject.batch()).backward()
                with random_state_left_as_found(f"at step {step} {hook}"):
                    getattr(run.scheduler, hook)(step)
                if hook == "before_update":
                    run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)

    def test_the_base_is_never_changed(self) -> None:
        """Not one bit of it, over a whole run."""
        subject = self.whole_run().subject
        different = bits_differ(subject.base_tensors, subject.tensors_of_base())
        require(not different, f"{different} of the base changed; touch the layers' own parameters only")


def _copies(subject: Subject) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
