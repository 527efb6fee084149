import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import click
import pytest

from edgelora_cli.console import Settings, confirm, emit, note, table, warn, warnings_in_words


@pytest.fixture
def context():
    with click.Context(click.Command("test"), obj=Settings(json=True)) as context:
        yield context


def test_json_has_null_where_a_number_is_not_finite(context, capsys):
    emit({"values": (float("nan"), float("inf"), 1.5)}, "text")
    assert json.loads(capsys.readouterr().out) == {"values": [None, None, 1.5]}


def test_json_keeps_letters_of_other_languages(context, capsys):
    emit({"unit": "°C 温度"}, "text")
    assert "°C 温度" in capsys.readouterr().out


def test_quiet_leaves_out_notes_but_not_warnings(context, capsys):
    context.obj.quiet = True
    note("said")
    warn("said as well")
    assert capsys.readouterr().err == "warning: said as well\n"


def test_python_warnings_are_told_in_words_and_deprecations_to_whoever_asks(context, capsys):
    def told() -> str:
        with warnings_in_words():
            warnings.simplefilter("always")
            warnings.warn("numbers were\nlost", stacklevel=1)
            warnings.warn("is renamed", FutureWarning, stacklevel=1)
        return capsys.readouterr().err

    assert told() == "warning: numbers were lost\n"
    context.obj.verbose = True
    assert told() == "warning: numbers were lost\nwarning: is renamed\n"


def test_warnings_of_other_threads_are_told_too(context, capsys):
    with warnings_in_words(), ThreadPoolExecutor() as threads:
        warnings.simplefilter("always")
        threads.submit(warnings.warn, "numbers were lost", stacklevel=1).result()
    assert capsys.readouterr().err == "warning: numbers were lost\n"


def test_yes_answers_a_question(context):
    context.obj.yes = True
    confirm("Remove it?")


def test_columns_are_as_wide_as_their_widest_cell():
    text = click.unstyle(table(("a", "b"), [("long cell", "1"), ("x", "")]))
    assert text == "a          b\nlong cell  1\nx"


def test_no_color_is_obeyed(context, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    context.color = True
    warn("plain")
    assert "\x1b" not in capsys.readouterr().err
