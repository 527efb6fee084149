"""Sizes as people write them."""

import pytest

from edgelora.errors import RecipeError
from edgelora.recipe import make_recipe
from edgelora.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("1500MiB", 1500 * 2**20), ("8GB", 8 * 10**9), ("1.5 KiB", 1536), ("512", 512), (7, 7)],
)
def test_a_size_has_a_unit_or_is_in_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2gib", "2 G", "-1GiB", "0", "1e9", "GiB", "", "2GiB please", True, 1.5e-3])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="a size is"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(2**31, "2.00 GiB"), (15 * 2**30, "15.0 GiB"), (123, "123 B"), (300 * 2**20, "300 MiB")],
)
def test_sizes_are_shown_with_three_digits(size, text):
    assert size_text(size) == text


def test_a_recipe_with_a_wrong_budget_is_refused():
    with pytest.raises(RecipeError, match=r"memory_budget: .*as in 2GiB, 1500MiB or 8GB"):
        make_recipe({"base": "micro", "memory_budget": "2 gigs"})
