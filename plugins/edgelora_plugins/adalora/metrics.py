"""Ranks in use."""

from __future__ import annotations

from collections import defaultdict

import torch

from edgelora import Options
from edgelora.capabilities import LowRank
from edgelora.protocols import Evaluation, Measurement


class Ranks:
    """Components of each low-rank change that are not zero: the rank pattern, summed up."""

    def __init__(self, options: Options) -> None:
        pass

    @torch.no_grad()
    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"ranks.total"``, ``.mean``, ``.unused_sites`` and the mean by kind of site; n counts sites."""
        run.route(run.tasks[0])
        ranks = {site: _rank(layer) for site, layer in run.layers.items() if isinstance(layer, LowRank)}
        if not ranks:
            run.tell("no layer is a low-rank product, of which components could be counted")
            return {}
        by_kind: dict[str, list[int]] = defaultdict(list)
        for site, rank in ranks.items():
            by_kind[site.rpartition(".")[2]].append(rank)
        values = list(ranks.values())
        found = {
            "ranks.total": _exactly(sum(values), len(values)),
            "ranks.mean": _exactly(sum(values) / len(values), len(values)),
            "ranks.unused_sites": _exactly(values.count(0), len(values)),
        }
        for kind, each in by_kind.items():
            found[f"ranks.{kind}"] = _exactly(sum(each) / len(each), len(each))
        return found


def _rank(layer: LowRank) -> int:
    A, B, _ = layer.factors()
    return int((A.any(dim=1) & B.any(dim=0)).sum())


def _exactly(value: float, n: int) -> Measurement:
    return Measurement(value, n, value, value)
