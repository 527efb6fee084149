"""The options of each method: the fields of its configuration in PEFT, known without importing PEFT."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model

from edgelora import Options
from edgelora.errors import CombinationError
from edgelora.plan import Plan
from edgelora_plugins.peft.methods import METHODS

FIELDS = Path(__file__).with_name("fields.json")
"""Per type the fields of its configuration, with type and default; ``tools/peft_fields.py`` writes it."""

_TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "list": list[Any],
    "list[int]": list[int],
    "list[str]": list[str],
    "dict": dict[str, Any],
    "null": None,
}
_COUNT = Annotated[int, Field(ge=1)]
_NO_SIZES = ("seed", "niter", "num_frozen_tokens", "oft_block_size", "boft_block_size")
"""Endings of numbers that may be 0: a block size of OFT and BOFT must be where blocks are counted instead."""
_MEANINGS = {
    "r": "Rank.",
    "target_modules": 'Modules to adapt: names, one regular expression, or "all-linear"; by default PEFT\'s '
    "choice for the architecture.",
    "exclude_modules": "Modules to leave out: names, or one regular expression.",
    "layers_to_transform": "Indices of the blocks to adapt; by default all.",
    "layers_pattern": "Name of the list of blocks, where it is not a common one.",
    "modules_to_save": "Modules that are trained and stored whole.",
    "bias": "Which biases of the base learn: none may.",
    "init_weights": "How the adapter starts.",
    "rank_pattern": "Other ranks for some modules, by name or regular expression.",
    "alpha_pattern": "Other alphas for some, by name or regular expression.",
    "fan_in_fan_out": "Whether the weight is stored as (in, out).",
    "num_virtual_tokens": "Learned tokens before each row.",
    "token_dim": "Width of a learned token; by default that of the model.",
}


_STARTS = (True, False, None, "gaussian", "orthogonal")
_WITH_A_LOSS = ("kasa_config", "monteclora_config")


class PeftOptions(Options):
    """What the options of all methods have in common: what does not suit any of them."""

    peft_type: ClassVar[str]
    """As PEFT spells it: ``"PROMPT_TUNING"``."""

    @property
    def method(self) -> str:
        """As recipes spell it, without ``peft:``: ``"prompt-tuning"``."""
        return _method_of(self.peft_type)

    def chosen(self) -> dict[str, Any]:
        """Those that differ from PEFT's defaults, by name."""
        fields = type(self).model_fields
        return {name: value for name, value in self if value != fields[name].default}

    def check(self, plan: Plan) -> None:
        """Refuse what the method cannot work with.

        Raises:
            CombinationError: The base is quantized and the method reads weights, blocks are computed again
                and the method is part of their cache, rows are packed and the method puts tokens before each,
                an option lets the base learn or needs a loss of its own, or what learns is to be kept in
                bfloat16.
        """
        method = METHODS[self.method]
        where = f"adapter peft:{plan.parts['adapter'].name}"
        quantizer = plan.parts["quantizer"]
        if method.reads_weights and not quantizer.part.keeps_weights:
            raise CombinationError(
                f"{where} cannot work with quantizer {quantizer.name!r}: for this method PEFT reads "
                "the weights of linears, and quantized ones have codes instead",
                fix="set quantizer: none, or choose another adapter",
            )
        if method.in_cache and plan.recipe.train.is_checkpointed:
            raise CombinationError(
                f"{where} cannot work with train.gradient_checkpointing: what it learns is in the cache of "
                "keys and values, which checkpointed blocks do not read",
                fix="set train.gradient_checkpointing: false, or choose another adapter",
            )
        options = self.model_dump()
        if "num_virtual_tokens" in options and plan.recipe.train.packing:
            raise CombinationError(
                f"{where} cannot work with train.packing: it puts learned tokens before each row, and packed "
                "rows follow one another in one sequence",
                fix="set train.packing: false, or choose another adapter",
            )
        if options.get("init_lora_weights", True) not in _STARTS:
            raise CombinationError(
                f"{where} cannot work with init_lora_weights {options['init_lora_weights']!r}: PEFT then "
                "changes the base, which nothing may, or looks at data of its own",
                fix="leave init_lora_weights out, or use derivative olora",
            )
        if options.get("bias", "none") != "none":
            raise CombinationError(
                f"{where} cannot work with bias {options['bias']!r}: the biases of the base would learn, "
                "which are no part of the adapter",
                fix="leave bias out",
            )
        if wanted := [name for name in _WITH_A_LOSS if options.get(name)]:
            raise CombinationError(
                f"{where} cannot work with option {wanted[0]!r}: the loss that belongs to it is left to the "
                "training loop by PEFT, and no loss here adds it",
                fix=f"leave {wanted[0]} out",
            )
        if plan.recipe.train.adapter_dtype != "float32":
            raise CombinationError(
                f"{where} cannot work with train.adapter_dtype: PEFT keeps what learns in float32",
                fix="leave train.adapter_dtype out",
            )


def options_of(name: str, fields: dict[str, dict[str, Any]]) -> type[PeftOptions]:
    """The model of one method's options.

    Args:
        name: Of the type in PEFT.
        fields: From ``fields.json``.
    """
    required = METHODS[_method_of(name)].usual
    made: dict[str, Any] = {
        field: (
            _annotation(field, given, required=field in required),
            Field(... if field in required else given["default"], description=_meaning(name, field)),
        )
        for field, given in fields.items()
    }
    model = create_model(f"{name.title().replace('_', '')}Options", __base__=PeftOptions, **made)
    model.peft_type = name
    return model


def _method_of(peft_type: str) -> str:
    return peft_type.lower().replace("_", "-")


def _annotation(field: str, given: dict[str, Any], *, required: bool) -> Any:
    types = [each for each in given.get("types", []) if each != "null" or not required]
    # PEFT divides by a size, or trains nothing. What is 0 by default, such as OFT's r, may be 0.
    is_size = required or (type(given["default"]) is int and given["default"] > 0)
    counted = is_size and not field.endswith(_NO_SIZES)
    alternatives = [_COUNT if each == "int" and counted else _TYPES[each] for each in types]
    if "values" in given:
        alternatives.insert(0, Literal[tuple(given["values"])])
    return functools.reduce(operator.or_, alternatives)


def _meaning(name: str, field: str) -> str:
    return _MEANINGS.get(field, f"`{field}` of PEFT's {name} configuration.")


OF = SimpleNamespace(
    **{
        name.lower(): options_of(name, fields)
        for name, fields in json.loads(FIELDS.read_text(encoding="utf-8")).items()
    }
)
"""The options model of each method, by its name with ``_``."""
