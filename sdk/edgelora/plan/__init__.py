"""A recipe resolved against the installed plugins. Light: torch is imported when a part is built."""

from edgelora.plan.part import PlannedPart
from edgelora.plan.plan import SINGLE_KINDS, Plan, make_plan, plan_from_document
from edgelora.plan.stated import part_from_document

__all__ = ["SINGLE_KINDS", "Plan", "PlannedPart", "make_plan", "part_from_document", "plan_from_document"]
