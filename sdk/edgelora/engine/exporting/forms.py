"""An adapter as the two files of a PEFT directory, whichever form it is stored in."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelora.capabilities import AdaptsModel, Nested
from edgelora.engine.exporting.refusing import Reader, refusal
from edgelora.engine.exporting.source import Source, Wanted
from edgelora.engine.required_parts import required_part
from edgelora.errors import DependencyMissing, PlanError
from edgelora.manifest.lora_shapes import PEFT_CONFIG_FILE, PLAIN_LORA_FILE
from edgelora.plan.able import adapter_that_is
from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class PeftFiles:
    """What stock PEFT loads.

    Attributes:
        config: The bytes of ``adapter_config.json``.
        weights: The bytes of ``adapter_model.safetensors``.
        shape: Ranks, alphas and sites, as a manifest's ``config`` spells them.
    """

    config: bytes
    weights: bytes
    shape: Mapping[str, Any]


def forms_of(
    source: Source, registry: Registry, wanted: Wanted, reader: Reader
) -> dict[str | None, PeftFiles]:
    """The adapter in PEFT's form, by task; one whose function does not depend on the task is under None.

    Weights that are stored in that form are taken as they are. Others are rebuilt by their plugin, which
    needs torch, and the configuration of the base to know its shapes.

    Args:
        source: The adapter.
        registry: The installed plugins.
        wanted: Which of its functions, and where its base is.
        reader: Whom it is for, as refusals tell it.

    Raises:
        ExportUnsupported: Stock PEFT cannot compute what the adapter computes.
        PlanError: It has no such task, or does not work at several ranks.
        PluginMissing: Its plugin is needed and not installed.
        DependencyMissing: So is torch.
    """
    if wanted.rank is not None:
        _check_nested(source, registry)
    elif source.is_in_peft_form:
        if wanted.task is not None:
            raise PlanError(f"adapter {source.name} computes the same for every task", fix="leave --task out")
        files = (source.read(name) for name in (PEFT_CONFIG_FILE, PLAIN_LORA_FILE))
        return {None: PeftFiles(*files, source.component.config)}
    elif AdaptsModel.__name__ in required_part(source.component, "adapter", registry).part.abilities:
        raise refusal(source, registry, reader, f"adapter {source.name} changes the model as a whole")
    if importlib.util.find_spec("torch") is None:
        raise DependencyMissing(
            f"adapter {source.name} has to be rebuilt for that, which needs torch, which is not installed",
            fix="pip install 'edgelora[train]'",
        )
    from edgelora.engine.exporting.rebuilding import rebuilt_forms

    return rebuilt_forms(source, registry, wanted, reader)


def _check_nested(source: Source, registry: Registry) -> None:
    if source.component.config.get("nested"):
        return
    found = required_part(source.component, "adapter", registry)
    if Nested.__name__ not in found.part.abilities:
        raise PlanError(
            f"adapter {source.name} was trained by {found.part.name!r}, which works at the ranks it was "
            "trained with and at no other",
            fix=f"leave --rank out, or train again with {adapter_that_is(Nested.__name__, registry)}",
        )
