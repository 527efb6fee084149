from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.data.content import Text
from edgelora.engine.data.split import choose_held_out, content_hash, split_digest

HASHES = st.lists(st.text(max_size=4).map(lambda text: content_hash(Text(text))), max_size=30)
FRACTIONS = st.floats(0, 1, exclude_max=True)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(HASHES, FRACTIONS)
def test_both_sides_have_a_row_where_two_are_distinct(hashes, fraction):
    held_out = choose_held_out(hashes, fraction)
    distinct = set(hashes)
    assert held_out <= distinct
    if fraction > 0 and len(distinct) >= 2:
        assert 0 < len(held_out) < len(distinct)
    else:
        assert not held_out


@settings(derandomize=True, deadline=None, max_examples=50)
@given(HASHES, FRACTIONS)
def test_order_and_repetition_do_not_move_a_row(hashes, fraction):
    assert choose_held_out([*reversed(hashes), *hashes], fraction) == choose_held_out(hashes, fraction)


def test_a_row_keeps_its_side_when_rows_are_added():
    hashes = [content_hash(Text(str(number))) for number in range(2000)]
    few, many = choose_held_out(hashes[:1000], 0.1), choose_held_out(hashes, 0.1)
    assert few == many & set(hashes[:1000])


def test_the_fraction_is_met():
    hashes = [content_hash(Text(str(number))) for number in range(10_000)]
    assert abs(len(choose_held_out(hashes, 0.05)) - 500) < 100


def test_the_digest_names_tasks_and_rows_in_order():
    first, second = ("a", content_hash(Text("1"))), ("b", content_hash(Text("2")))
    digests = {split_digest(rows) for rows in ([first, second], [second, first], [first], [("b", first[1])])}
    assert len(digests) == 4
    assert all(digest.startswith("sha256:") for digest in digests)
