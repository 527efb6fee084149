"""A run's placement: chosen within its memory budget, taken over when it is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.data import Dataset
from edgelora.engine.estimating.budget import choose_placement
from edgelora.engine.estimating.estimate import rows_of, surroundings
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.report import Reporter
from edgelora.plan import Plan
from edgelora.sizes import size_text


def settle(
    plan: Plan,
    dataset: Dataset,
    conditions: dict[str, Any],
    *,
    resumed: bool,
    device: torch.device,
    reporter: Reporter,
) -> Plan:
    """The plan as it is carried out.

    Args:
        plan: As it was asked for.
        dataset: Its rows.
        conditions: Of the run; a placement that is chosen is written there, one that is there is kept.
        resumed: The run began earlier: nothing is chosen anew, since that might change its bits.
        device: Where training runs.
        reporter: Told what was chosen and why.

    Raises:
        MemoryBudgetExceeded: No placement is predicted to fit.
    """
    if plan.recipe.memory_budget is not None:
        if device.type == "cpu":
            return_freed_memory()
        if not resumed:
            config = read_config(plan.recipe.base, plan.recipe.revision)
            rows, _ = rows_of(plan, dataset)
            choice = choose_placement(plan, surroundings(plan, config, rows, device))
            # Processes that share a run may see different amounts of memory in use.
            agreed = broadcast_object_list([dataclasses.asdict(choice.placement)])
            conditions["placement"] = agreed[0]
            reporter.message(choice.reason)
    if "placement" not in conditions:
        return plan
    return Placement(**conditions["placement"]).apply(plan)


def tell_peak(plan: Plan, peak_bytes: Mapping[str, int], reporter: Reporter) -> None:
    """Say how much of the memory budget a run took, if it has one."""
    budget = plan.recipe.memory_budget
    if budget is None:
        return
    peak = peak_bytes.get("cuda_allocated", peak_bytes["rss"])
    verdict = "within" if peak <= budget else "more than predicted, and over"
    reporter.message(f"peak memory {size_text(peak)}, {verdict} memory_budget {size_text(budget)}")
