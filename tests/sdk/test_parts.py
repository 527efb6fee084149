"""Descriptors are immutable and light, and options refuse what they do not know."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from pydantic import ValidationError

import edgelora
from edgelora import Derivative, Options, Part
from edgelora.parts import KINDS, NO_OPTIONS


class RankOptions(Options):
    rank: int = 8
    alpha: float = 8.0


def test_a_part_needs_a_name_and_a_target_only() -> None:
    part = Part(name="nf4", target="module:Quantizer")
    assert part.options == NO_OPTIONS
    assert (part.summary, part.paper, part.abilities, dict(part.refuses)) == ("", "", (), {})


def test_a_derivative_needs_a_name_only_and_shares_no_parts_with_another() -> None:
    first, second = Derivative("first"), Derivative("second")
    assert first.parts == {} and first.parts is not second.parts


@pytest.mark.parametrize("descriptor", [Part("a", "b:c"), Derivative("a")])
def test_a_descriptor_cannot_be_changed(descriptor: Part | Derivative) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        descriptor.name = "other"  # type: ignore[misc]


def test_options_refuse_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RankOptions.model_validate({"rnk": 3})


def test_options_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RankOptions().rank = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_options_are_finite_so_that_json_can_hold_them(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        RankOptions(alpha=value)


def test_describing_parts_imports_no_pydantic() -> None:
    script = (
        "import sys; from edgelora import Derivative, Part, hookimpl; Part('a', 'b:c');"
        "assert 'pydantic' not in sys.modules; import edgelora; edgelora.Options, edgelora.Registry;"
        "assert 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'edgelora' has no attribute 'Optoins'"):
        edgelora.Optoins  # noqa: B018  the lookup itself is what fails


def test_there_are_five_kinds_of_parts() -> None:
    assert KINDS == ("quantizer", "adapter", "rank_scheduler", "loss_combiner", "evaluator")
