"""What PEFT says against the options of a method, and what it makes of them unasked, as refusals."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from peft import PeftModel

from edgelora.errors import DependencyMissing, EdgeloraError, OptionsError
from edgelora.raised import described_exception
from edgelora_plugins.peft.options import PeftOptions

_UNHEEDED = re.compile(r"\b(Adjusted|Setting|ignored)\b")
"""What PEFT warns with where it does otherwise than it was told."""


@contextmanager
def told_as_refusal(options: PeftOptions, refused: str) -> Iterator[None]:
    """Tell whatever PEFT raises inside by one error, which names the method and the options to change.

    PEFT looks at few options before it computes with them: what one method refuses in words is a TypeError or
    a division by zero in another.

    Args:
        options: Of the method.
        refused: What PEFT does not do with them, in words.

    Raises:
        OptionsError: PEFT raised something.
        DependencyMissing: PEFT needs a package that is not installed.
    """
    try:
        yield
    except (EdgeloraError, MemoryError, torch.OutOfMemoryError):
        raise
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            f"PEFT needs {error.name} for adapter peft:{options.method}, which is not installed",
            fix=f"install {error.name}, or choose another adapter",
        ) from error
    except Exception as error:  # of any kind: see above
        told = described_exception(error)
        raise OptionsError(
            f"adapter peft:{options.method} {refused}: PEFT {version('peft')} raised {told}",
            fix=_fix(options, told),
        ) from error


@contextmanager
def told_on_shapes(options: PeftOptions, refused: str) -> Iterator[None]:
    """`told_as_refusal` for a model without values, for want of which PEFT fails too, whatever the options.

    Raises:
        OptionsError: PEFT raised something that speaks of an option that was chosen.
        NotImplementedError: It raised something else.
    """
    try:
        with told_as_refusal(options, refused):
            yield
    except OptionsError as refusal:
        cause = refusal.__cause__
        if cause is not None and not _spoken_of(str(cause), options.chosen()):
            raise NotImplementedError(str(cause)) from cause
        raise


@contextmanager
def heard(options: PeftOptions) -> Iterator[None]:
    """Refuse where PEFT merely warns inside that it does not do what an option asks for.

    Its other warnings pass, each once.

    Raises:
        OptionsError: PEFT adjusted or ignored an option that was chosen.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for told, warning in {str(each.message): each for each in said}.items():
        if _UNHEEDED.search(told) and _spoken_of(told, options.chosen()):
            raise OptionsError(
                f"adapter peft:{options.method}: PEFT {version('peft')} says: {' '.join(told.split())}",
                fix=_fix(options, told),
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _fix(options: PeftOptions, told: str = "") -> str:
    """The options that are spoken of; where none is, those that were chosen."""
    names = _spoken_of(told, type(options).model_fields) or [*options.chosen()]
    change = f"set {' or '.join(names)} to something else" if names else "set an option"
    return f"{change}; all of them: edgelora plugins show peft:{options.method}"


def _spoken_of(told: str, names: Iterable[str]) -> list[str]:
    # PEFT writes some as words: "The block size should be a factor of the input size".
    told = f" {' '.join(re.findall(r'[a-z0-9]+', told.lower().replace('_', ' ')))} "
    return [name for name in names if f" {name.lower().replace('_', ' ')} " in told]


def check_it_learns(options: PeftOptions, tuned: PeftModel) -> None:
    """Refuse a model in which nothing is left to learn.

    Raises:
        OptionsError: Nothing is.
    """
    if not any(each.requires_grad and each.numel() for each in tuned.parameters()):
        raise OptionsError(
            f"with these options adapter peft:{options.method} has nothing that learns",
            fix=_fix(options),
        )


def check_kept(options: PeftOptions, tuned: PeftModel, name: str) -> None:
    """Refuse numbers that PEFT replaced by others, as it does where a size does not divide a width.

    Args:
        options: Those that differ from PEFT's defaults are compared; the others, or 0, are PEFT's to choose.
        tuned: What PEFT made.
        name: Of the adapter in it.

    Raises:
        OptionsError: PEFT replaced one.
    """
    given = {field: value for field, value in options.chosen().items() if _is_number(value) and value}
    elsewhere = [
        value for each in vars(options).values() if isinstance(each, dict) for value in each.values()
    ]
    for field, value in given.items():
        for place, taken in _taken(tuned, name, field):
            if taken not in (value, *elsewhere):
                raise OptionsError(
                    f"adapter peft:{options.method}: {field} is {value}, and PEFT {version('peft')} would "
                    f"take {taken} instead{place}",
                    fix=f"choose another {field}, which PEFT keeps, such as {taken}",
                )


def _taken(tuned: PeftModel, name: str, field: str) -> Iterator[tuple[str, Any]]:
    """What PEFT has as a number option, and in which module."""
    configured = getattr(tuned.peft_config[name], field, None)
    if _is_number(configured):
        yield "", configured
    for place, module in tuned.get_base_model().named_modules():
        held = vars(module).get(field)
        if isinstance(held, Mapping) and _is_number(held.get(name)):
            yield f" at {place}", held[name]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
