"""The class of the kit for each kind of part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelora.parts import Kind
from edgelora.registry.status import FoundPart
from edgelora.testing.adapter import AdapterConformance
from edgelora.testing.evaluator import EvaluatorConformance
from edgelora.testing.loss_combiner import LossCombinerConformance
from edgelora.testing.part import PartConformance
from edgelora.testing.quantizer import QuantizerConformance
from edgelora.testing.rank_scheduler import RankSchedulerConformance

CONFORMANCE: dict[Kind, type[PartConformance]] = {
    "quantizer": QuantizerConformance,
    "adapter": AdapterConformance,
    "rank_scheduler": RankSchedulerConformance,
    "loss_combiner": LossCombinerConformance,
    "evaluator": EvaluatorConformance,
}


def conformance_of(found: FoundPart, **attributes: Any) -> type[PartConformance]:
    """The kit's class for an installed part, with other class attributes such as ``options``.

    Options are added to those that the part's descriptor gives the kit.
    """
    options = {**found.part.kit.get("options", {}), **attributes.get("options", {})}
    members: Mapping[str, Any] = {"part": found.qualified_name, **attributes, "options": options}
    kind: type[PartConformance] = type(f"Check{found.part.name}", (CONFORMANCE[found.kind],), dict(members))
    return kind
