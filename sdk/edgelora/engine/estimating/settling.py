"""A run's placement: chosen within its memory budget, taken over when it is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from edgelora.engine.allocator import return_freed_memory
from edgelora.engine.data import Dataset
from edgelora.engine.estimating.budget import choose_placement
from edgelora.engine.estimating.estimate import rows_of, surroundings
from edgelora.engine.estimating.placement import Placement
from edgelora.engine.estimating.shape_model import read_config
from edgelora.engine.report import Reporter
from edgelora.errors import EdgeloraError
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
    budget = plan.recipe.memory_budget
    if budget is not None and device.type == "cpu":
        return_freed_memory()
    if budget is not None and not resumed:
        conditions["placement"], reason = _agreed(plan, dataset, device)
        reporter.message(reason)
    placed = Placement(**conditions["placement"]).apply(plan) if "placement" in conditions else plan
    if budget is not None and resumed:
        reporter.message(
            f"the base stays {Placement.of(placed).name}, as the run began; its peak is compared with "
            f"memory_budget {size_text(budget)}, and nothing is chosen by it"
        )
    return placed


def _agreed(plan: Plan, dataset: Dataset, device: torch.device) -> tuple[dict[str, Any], str]:
    """The placement and why, as the main process sees it; or its refusal, in every process.

    Processes that share a run may see different amounts of memory in use. One that refused by itself would
    leave the others waiting for it.
    """
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            config = read_config(plan.recipe.base, plan.recipe.revision)
            rows, _ = rows_of(plan, dataset)
            choice = choose_placement(plan, surroundings(plan, config, rows, device))
            outcome = [(dataclasses.asdict(choice.placement), choice.reason)]
        except EdgeloraError as error:
            outcome = [error]
    (agreed,) = broadcast_object_list(outcome)
    if isinstance(agreed, EdgeloraError):
        raise agreed
    placement, reason = agreed
    return placement, reason


def tell_peak(plan: Plan, peak_bytes: Mapping[str, int], reporter: Reporter) -> None:
    """Say how much of the memory budget a run took, if it has one."""
    budget = plan.recipe.memory_budget
    if budget is None:
        return
    peak = peak_bytes.get("cuda_allocated", peak_bytes["rss"])
    verdict = "within" if peak <= budget else "over"
    reporter.message(f"peak memory {size_text(peak)}, {verdict} memory_budget {size_text(budget)}")
