"""A foreign reader is judged by its exit code; what it prints is for people, but for the id."""

import os
import select
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from edgelora.conformance import Vector, Verdict, compare_all, foreign_reader
from edgelora.errors import OptionsError

PYTHON = f"'{sys.executable}' -S -c"


def ask(program: str, timeout_s: float = 30.0):
    return foreign_reader(f'{PYTHON} "{program}" {{kind}} {{path}}', timeout_s=timeout_s)(
        "paths", Path("x y")
    )


def test_exit_code_is_the_verdict_and_the_words_are_kept() -> None:
    accepted = ask("import sys; print(sys.argv[1:])")
    assert (accepted.is_accepted, accepted.words) == (True, "['paths', 'x y']")
    assert ask("raise SystemExit(3)").is_accepted is False


def test_id_is_read_from_the_last_line() -> None:
    said = ask("print('note'); print('{\\'id\\': 1}'); print(chr(123) + chr(34) + 'id' + chr(34) + ':' + "
               "chr(34) + 'path-invalid' + chr(34) + chr(125)); raise SystemExit(1)")  # fmt: skip
    assert (said.is_accepted, said.id) == (False, "path-invalid")
    assert ask("print('[1]'); raise SystemExit(1)").id is None


def test_reader_that_does_not_answer_has_no_verdict() -> None:
    said = ask("import threading; threading.Event().wait()", timeout_s=0.3)
    assert (said.is_accepted, said.words) == (None, "no answer within 0.3 s")


def test_reader_that_is_killed_has_no_verdict() -> None:
    said = ask("import os; os.kill(os.getpid(), 11)")
    assert (said.is_accepted, said.words) == (None, "killed by SIGSEGV")


@pytest.mark.parametrize("command", ["reader", "reader path", "reader {kind}"])
def test_command_without_a_place_for_the_path_is_refused(command: str) -> None:
    with pytest.raises(OptionsError, match="does not say where the path") as caught:
        foreign_reader(command, timeout_s=1)
    assert "{path}" in caught.value.fix


def test_command_with_an_open_quote_is_refused() -> None:
    with pytest.raises(OptionsError, match="is malformed: No closing quotation"):
        foreign_reader("reader '{path}", timeout_s=1)


def test_what_a_reader_left_running_ends_with_its_answer(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    reader = foreign_reader(f"sh -c 'sleep 600 & echo $! > {pid}; exit 0' {{path}}", timeout_s=30)
    assert reader("paths", Path("x")).is_accepted
    try:
        left = os.pidfd_open(int(pid.read_text()))
    except ProcessLookupError:
        return
    # Killed it is, and the kernel may still be about to end it.
    assert select.select([left], [], [], 30)[0] == [left]
    os.close(left)


def test_output_without_end_costs_no_memory() -> None:
    tracemalloc.start()
    said = foreign_reader("yes {path}", timeout_s=0.5)("paths", Path("x" * 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.is_accepted is None and peak < 8 * 2**20


def test_a_comparison_that_is_stopped_does_not_wait_for_its_readers() -> None:
    reader = foreign_reader("sleep 600 {path}", timeout_s=600)
    is_asked = threading.Event()

    def ask(kind: str, path: Path) -> Verdict:
        if path.name == "first":
            is_asked.wait(30)
            raise KeyboardInterrupt
        is_asked.set()
        return reader(kind, path)

    vectors = [
        Vector("paths", name, Path(name), rule="r", is_accepted=True) for name in ("first", "second", "third")
    ]
    with pytest.raises(KeyboardInterrupt):
        compare_all(vectors, ask, frozenset(), jobs=2)
    reader.stop()


def test_a_kind_that_a_reader_does_not_read_is_skipped() -> None:
    reader = foreign_reader(f'{PYTHON} "raise SystemExit(77)" {{path}}', timeout_s=30)
    vector = Vector("bundles", "x", Path("x"), rule="r", is_accepted=False)
    (found,) = compare_all([vector], reader, frozenset())
    assert (found.outcome, found.verdict.words) == ("skipped", "the reader does not read bundles")
