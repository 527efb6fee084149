"""Every error carries its problem, its fix, its id and its exit code wherever it goes."""

from __future__ import annotations

import copy
import pickle

import pytest

from edgelora import errors
from edgelora.errors import EdgeloraError, every_error

EVERY = pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)


@EVERY
def test_an_error_reads_as_problem_and_fix(kind: type[EdgeloraError]) -> None:
    error = kind("rank 0 is too small", fix="choose a rank from 1")
    assert str(error) == "rank 0 is too small\n  fix: choose a rank from 1"
    assert (error.problem, error.fix) == ("rank 0 is too small", "choose a rank from 1")


@EVERY
def test_an_error_without_a_fix_cannot_be_made(kind: type[EdgeloraError]) -> None:
    with pytest.raises(TypeError, match="fix"):
        kind("rank 0 is too small")  # type: ignore[call-arg]


@EVERY
def test_an_error_survives_being_sent_to_another_process(kind: type[EdgeloraError]) -> None:
    error = kind("a problem", fix="a fix")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.problem, again.fix, again.id, again.exit_code) == (
            "a problem",
            "a fix",
            kind.id,
            kind.exit_code,
        )


def test_every_exit_code_in_use_is_in_the_table() -> None:
    for kind in every_error():
        assert f"| {kind.exit_code} |" in (errors.__doc__ or "")


def test_errors_are_listed_by_exit_code_then_id() -> None:
    keys = [(kind.exit_code, kind.id) for kind in every_error()]
    assert keys == sorted(keys)
