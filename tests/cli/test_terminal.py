"""What strangers wrote reaches a terminal as text, and as nothing else."""

import json
from pathlib import Path

import click
import pytest
from adapter_folders import write_adapter

from edgelora_cli.console import Settings, emit, note, print_error, style, table, warn
from edgelora_cli.terminal import coloured, one_line, plain

ATTACKS = {
    "escape": "\x1b]0;title\x07",
    "C1 introducer": "\x9b2K",
    "C1 command": "\x9d0;title\x9c",
    "carriage return": "\rsound",
    "backspace": "\b\b\b",
    "delete": "\x7f",
    "right to left": "\u202eevil",
    "isolate": "\u2066evil\u2069",
    "mark": "\u200fevil",
    "line separator": "\u2028evil",
    "lone surrogate": "\udc9b",
    "tags": "\U000e0041\U000e007f",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_nothing_but_text_is_left(text):
    for make in (plain, coloured, one_line):
        made = make(f"a {text} b")
        assert made.startswith("a ") and made.endswith(" b") and made.isprintable() and "\\" in made
        assert json.loads(f'"{made}"') == f"a {text} b", "and nothing is lost"


def test_text_of_any_language_and_lines_stay():
    for text in ("温度\n\tдо 40 °C", "می‌خواهم 👩‍🔧"):
        assert plain(text) == coloured(text) == text
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_own_colours_stay_and_no_others(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    title = style("title", bold=True) + style("red", fg="red")
    assert coloured(title) == title and "\x1b" in title
    assert "\x1b" not in plain(title)
    assert "\x1b" not in coloured("\x1b[8mhidden\x1b[2J")


def test_all_output_passes_through_here(capsys):
    bad = "".join(ATTACKS.values())
    with click.Context(click.Command("test"), obj=Settings()) as context:
        for say in (note, warn, lambda text: emit({}, text)):
            say(bad)
        emit({}, table(("name",), [(f"{bad}\nforged",)]))
        context.obj.json = True
        emit({bad: bad}, "")
        print_error(context.obj, "bug", bad, bad, exit_code=1)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).split("\n"))
    assert "\nforged" not in out
    assert json.loads(out[out.index("{") : out.index("}") + 1]) == {bad: bad}


def test_a_manifest_writes_nothing_but_text_to_the_terminal(edgelora):
    folder = write_adapter(Path("adapter"))
    manifest = json.loads((folder / "edgelora.json").read_text())
    manifest["publisher"] = "ACME\u009b2K\u202eevil\nsigned by alice (trusted)"
    manifest["use"] = {"intended": "x\ny: \u009d0;title\u009c"}
    (folder / "edgelora.json").write_text(json.dumps(manifest, ensure_ascii=False))
    shown, document, verified = (
        edgelora("show", "adapter"),
        edgelora("show", "adapter", "--json"),
        edgelora("verify", "adapter"),
    )
    for ran in (shown, document, verified):
        assert all(line.isprintable() for line in (ran.out + ran.err).split("\n"))
    assert shown.exit_code == 0 and "publisher ACME\\u009b2K\\u202eevil\\nsigned by" in shown.out
    assert document.document["publisher"] == manifest["publisher"]


def test_names_of_files_write_nothing_but_text_to_the_terminal(edgelora):
    folder = write_adapter(Path("adapter"))
    (folder / "a\x1b]0;title\x07\u202eb").write_text("")
    ran = edgelora("verify", "adapter")
    assert ran.exit_code != 0 and all(line.isprintable() for line in ran.err.split("\n"))
