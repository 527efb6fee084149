"""Sizes as people write them."""

import pytest

from edgelora.errors import RecipeError
from edgelora.recipe import make_recipe
from edgelora.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2**31),
        ("1500MiB", 1500 * 2**20),
        ("8GB", 8 * 10**9),
        ("1.5 KiB", 1536),
        ("512", 512),
        (7, 7),
        ("2gb", 2 * 10**9),
        ("2 gib", 2**31),
        ("2 GiB", 2**31),
        ("3B", 3),
        ("1000000TiB", 10**6 * 2**40),
    ],
)
def test_a_size_has_a_unit_or_is_in_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["2 G", "-1GiB", "0", "0GiB", "0.1B", "9" * 5000, "1e9", "GiB", "", "2GiB please", True, 1.5e-3]
)
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


@pytest.mark.parametrize("size", [0, -1, "0 GiB", "-2GiB"])
def test_a_budget_of_nothing_is_refused_in_plain_words(size):
    with pytest.raises(RecipeError, match=r"the recipe: memory_budget: a size is .* \(got ") as refused:
        make_recipe({"base": "micro", "memory_budget": size})
    assert "Value error" not in refused.value.problem
