"""The wheel a distribution came from is known where its installer noted it, and never guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_distributions import FakeEnvironment

from edgelora.registry.wheel import wheel_digest

HEX = "a" * 64
WHEEL = "file:///tmp/acme_lora-1.0-py3-none-any.whl"


def noted(environment: FakeEnvironment, text: str) -> str | None:
    environment.install("acme-lora", {"acme": "acme"})
    (environment.folder / "acme_lora-1.0.dist-info" / "direct_url.json").write_text(text)
    return wheel_digest("acme-lora")


@pytest.mark.parametrize(
    "archive",
    [{"hashes": {"sha256": HEX}}, {"hash": f"sha256={HEX}"}, {"hash": "x", "hashes": {"sha256": HEX}}],
)
def test_a_wheel_that_was_given_by_file_or_address_is_known(
    environment: FakeEnvironment, archive: Any
) -> None:
    assert noted(environment, json.dumps({"url": WHEEL, "archive_info": archive})) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "[" * 10_000, "{}", json.dumps({"url": WHEEL}),
        json.dumps({"url": WHEEL, "archive_info": 5}),
        json.dumps({"url": WHEEL, "archive_info": {"hashes": [HEX]}}),
        json.dumps({"url": WHEEL, "archive_info": {"hashes": {"sha256": "A" * 64}}}),
        json.dumps({"url": WHEEL.replace(".whl", ".tar.gz"), "archive_info": {"hashes": {"sha256": HEX}}}),
        json.dumps({"url": "file:///src", "dir_info": {"editable": True}}),
        json.dumps({"url": "http://[", "archive_info": {"hashes": {"sha256": HEX}}}),
    ],
)  # fmt: skip
def test_anything_else_says_nothing(environment: FakeEnvironment, text: str) -> None:
    assert noted(environment, text) is None


def test_what_came_from_an_index_or_is_not_there_says_nothing(environment: FakeEnvironment) -> None:
    environment.install("acme-lora", {"acme": "acme"})
    assert wheel_digest("acme-lora") is None
    assert wheel_digest("nobody-installed-this") is None
