"""A foreign reader is judged by its exit code; what it prints is for people, but for the id."""

import sys
from pathlib import Path

import pytest

from edgelora.conformance import foreign_reader
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
