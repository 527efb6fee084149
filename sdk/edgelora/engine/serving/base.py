"""A base that adapters are put beside, and whether one fits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgelora.engine.adapter_base import plan_over
from edgelora.engine.base import resolve_dtype
from edgelora.errors import WrongBase
from edgelora.layers import FrozenLinear
from edgelora.manifest import Base, Manifest
from edgelora.manifest.base_match import check_base
from edgelora.plan import Plan
from edgelora.plan.prepared import base_form, base_in_words
from edgelora.prepared import PreparedBase
from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class ServedBase:
    """A loaded base.

    Attributes:
        model: A transformers causal language model, frozen, in evaluation mode.
        tokenizer: Its tokenizer.
        plan: Names the base, its quantizer and the modules left unquantized.
        place: The folder it was loaded from.
        identity: What that folder holds.
        record: Of a prepared base.
        linears: By name, frozen: what adapters may be put beside.
    """

    model: Any
    tokenizer: Any
    plan: Plan
    place: Path
    identity: Base
    record: PreparedBase | None
    linears: dict[str, FrozenLinear]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return resolve_dtype(self.plan.recipe.train.dtype, self.device)

    def plan_for(self, manifest: Manifest, registry: Registry) -> Plan:
        """The plan that rebuilds an adapter over this base.

        Raises:
            WrongBase: The adapter was trained on another base, or over another quantizer.
            PluginMissing: A part of the adapter is not installed.
        """
        check_base(manifest.base, self.identity, str(self.place))
        plan = plan_over(manifest, self.place, self.record, registry, self.plan.recipe.train.dtype)
        if base_form(plan) != base_form(self.plan):
            raise WrongBase(
                f"adapter {manifest.identity.name} was trained over {manifest.base.repo} in "
                f"{base_in_words(plan)}, and here it is loaded in {base_in_words(self.plan)}",
                fix="serve it from a base of its own, loaded with the quantizer it was trained over",
            )
        return plan
