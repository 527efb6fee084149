"""Whether names of modules in the options are names of the model's: PEFT passes over those that are not."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

from torch import nn

from edgelora.errors import OptionsError
from edgelora.layers import FrozenLinear
from edgelora_plugins.peft.options import PeftOptions

_LISTS = {
    "target_modules": ".",
    "exclude_modules": ".",
    "feedforward_modules": ".",
    "modules_to_save": "",
}
"""What PEFT asks for between a name of such a list and what stands before it."""
_ALL_LINEAR = "all-linear"


def check_names(options: PeftOptions, model: nn.Module) -> None:
    """Compare the names and patterns that a recipe has for modules with a model.

    Raises:
        OptionsError: One stands for no module, or for no block.
    """
    names = [name for name, _ in model.named_modules() if name]
    for field, between in _LISTS.items():
        given = getattr(options, field, None)
        for each in given if isinstance(given, list) else ():
            if not any(name == each or name.endswith(between + each) for name in names):
                _refuse(options, f"{field}: {each!r} names no module", each, model)
        expression = given if isinstance(given, str) and given.lower() != _ALL_LINEAR else None
        if expression is not None and not _matches(options, field, f"({expression})$", names):
            what = f"{field}: {expression!r}, one regular expression for whole names, matches no module"
            _refuse(options, what, expression, model)
    for field, given in vars(options).items():
        if field.endswith("_pattern") and isinstance(given, dict):
            for each in given:
                if not _matches(options, field, rf"(.*\.)?({each})$", names):
                    _refuse(options, f"{field}: {each!r} matches no module", each, model)
    _check_blocks(options, model)


def _matches(options: PeftOptions, field: str, pattern: str, names: list[str]) -> bool:
    try:
        return any(re.match(pattern, name) for name in names)
    except re.error as error:
        raise OptionsError(
            f"adapter peft:{options.method}: {field} holds no regular expression: {error}",
            fix=f"write names, as in {field}: [q_proj, v_proj], or correct the expression",
        ) from error


def _refuse(options: PeftOptions, problem: str, given: str, model: nn.Module) -> NoReturn:
    kinds = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _has_weight(module)})
    near = difflib.get_close_matches(given, kinds, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if given in kinds:  # a string where a list of names was meant
        hint = f"write [{given}]; "
    raise OptionsError(
        f"adapter peft:{options.method}: {problem} of this {type(model).__name__}",
        fix=f"{hint}its modules are called {', '.join(kinds)}",
    )


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, FrozenLinear) or next(module.parameters(recurse=False), None) is not None


def _check_blocks(options: PeftOptions, model: Any) -> None:
    given = getattr(options, "layers_to_transform", None)
    blocks = getattr(model.config, "num_hidden_layers", None)
    for each in [given] if isinstance(given, int) else given or ():
        if blocks is not None and not 0 <= each < blocks:
            raise OptionsError(
                f"adapter peft:{options.method}: layers_to_transform: there is no block {each} in this "
                f"{type(model).__name__}",
                fix=f"write indices from 0 to {blocks - 1}",
            )
