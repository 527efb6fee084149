"""Semantic Versioning 2.0.0."""

from __future__ import annotations

import random

import pytest

from edgelora.errors import ReferenceFormError
from edgelora.store import is_version, latest_version, parse_version, sort_versions


def test_the_order_is_the_one_of_semver_org() -> None:
    ordered = ["0.9.9", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta"]
    ordered += ["1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0"]
    ordered += ["1.10.0", "2.0.0-rc.1", "2.0.0", "10.0.0"]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sort_versions(shuffled) == ordered


@pytest.mark.parametrize(
    "text", ["0.0.0", "1.2.3-rc.1+build.5", "1.0.0+0001", "1.0.0-0a", "1.0.0--", "1.0.0-x-y"]
)
def test_a_version_reads_back_as_written(text: str) -> None:
    assert is_version(text)
    assert str(parse_version(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-01",
        "1.0.0-",
        "1.0.0+",
        "1.0.0-a..b",
        "1.0.0 ",
        "1.0.0\n",
        "١.0.0",
        "1.0.0-ä",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(ReferenceFormError, match="is not a semantic version") as caught:
        parse_version(text)
    assert "1.2.0-rc.1" in caught.value.fix


def test_a_version_of_thousands_of_digits_is_refused() -> None:
    assert not is_version("9" * 5000 + ".0.0")


def test_build_metadata_does_not_make_a_version_higher() -> None:
    assert parse_version("1.0.0+b").precedence == parse_version("1.0.0+a").precedence
    assert sort_versions(["1.0.0+b", "1.0.0+a"]) == ["1.0.0+a", "1.0.0+b"]


def test_the_latest_is_a_release_unless_nothing_was_released() -> None:
    assert latest_version(["1.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]) == "1.10.0"
    assert latest_version(["2.0.0-rc.2", "2.0.0-rc.10"]) == "2.0.0-rc.10"
    assert latest_version([]) is None


def test_the_version_after_a_prerelease_is_its_release() -> None:
    assert str(parse_version("1.2.3").after) == "1.2.4"
    assert str(parse_version("2.0.0-rc.1").after) == "2.0.0"
