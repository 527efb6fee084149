"""What a person wrote as YAML means what it looks like, or is refused."""

from __future__ import annotations

import pytest

from edgelora.strict_yaml import NotYaml, read_plain_yaml, read_yaml

MALFORMED = (
    "a: [",
    "a: 1\na: 2",
    "a: {b: 1, 'b': 2}",
    "a: 2024-13-45",
    "!!python/object:os.system {}",
    "? [a]\n: 1",
    "!!set {[a]: null}",
    "!!bool maybe",
    "!!timestamp today",
    "!!int ''",
    "[" * 3000,
    "a: 1\n---\nb: 2",
    "a: \x00",
)


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_malformed_or_said_twice_is_refused(text: str) -> None:
    for read in (read_yaml, read_plain_yaml):
        with pytest.raises(NotYaml):
            read(text)


def test_what_stands_elsewhere_is_read_where_it_is_allowed() -> None:
    for text in ("a: &x {c: 1}\nb: *x", "a: {<<: {c: 1}}\nb: {<<: [{c: 1}]}"):
        assert read_yaml(text)["a"] == read_yaml(text)["b"] == {"c": 1}
        with pytest.raises(NotYaml, match="not allowed here"):
            read_plain_yaml(text)


def test_a_text_that_aliases_blow_up_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    with pytest.raises(NotYaml, match="line 2"):
        read_plain_yaml("\n".join(lines))
