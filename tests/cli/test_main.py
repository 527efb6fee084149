import logging
import os
import signal
import subprocess
import sys

import click
import pytest

import edgelora_cli
from edgelora.errors import EdgeloraError, UnusableFile, every_error
from edgelora_cli.commands import quiet_libraries
from edgelora_cli.root import COMMANDS, root

COMMAND = [sys.executable, "-m", "edgelora_cli"]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("edgelora.registry.Registry.discover", broken)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.id)
def test_every_error_prints_id_problem_and_fix_and_exits_with_its_class(edgelora, monkeypatch, kind):
    fail_with(monkeypatch, kind("the problem", fix="the fix"))
    ran = edgelora("plugins", "list")
    assert ran.err == f"error[{kind.id}]: the problem\n  fix: the fix\n"
    assert (ran.exit_code, ran.out) == (kind.exit_code, "")


@pytest.mark.parametrize("place", ["before", "after"])
def test_with_json_an_error_is_the_one_document_on_stdout(edgelora, monkeypatch, place):
    fail_with(monkeypatch, EdgeloraError("the problem", fix="the fix"))
    words = ["plugins", "list"]
    ran = edgelora(*(["--json", *words] if place == "before" else [*words, "--json"]))
    assert ran.document == {
        "error": {"id": "error", "exit_code": 1, "problem": "the problem", "fix": "the fix"}
    }


def test_an_unexpected_exception_is_called_a_bug_and_hides_its_traceback(edgelora, monkeypatch):
    fail_with(monkeypatch, ZeroDivisionError("division by zero"))
    ran = edgelora("plugins", "list")
    assert ran.exit_code == 1
    assert ran.err.startswith("error[bug]: unexpected ZeroDivisionError: division by zero\n")
    assert "--verbose" in ran.err and "Traceback" not in ran.err


def test_verbose_shows_the_traceback(edgelora, monkeypatch):
    fail_with(monkeypatch, ZeroDivisionError("division by zero"))
    assert "Traceback" in edgelora("plugins", "list", "--verbose").err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_the_keyboard_ends_with_130(edgelora, monkeypatch, error):
    fail_with(monkeypatch, error)
    ran = edgelora("plugins", "list", "--json")
    assert ran.exit_code == 130
    assert ran.document["error"]["id"] == "interrupted"


def test_an_unknown_command_names_the_nearest(edgelora):
    ran = edgelora("plugin", "list")
    assert ran.exit_code == 2
    assert ran.err == (
        "error[usage]: there is no command 'plugin'; did you mean 'plugins'?\n  fix: see edgelora --help\n"
    )


def test_wrong_options_are_usage_errors_with_a_place_to_look(edgelora):
    ran = edgelora("plugins", "list", "--colour", "--json")
    assert ran.exit_code == 2
    assert ran.document["error"]["id"] == "usage"
    assert ran.document["error"]["fix"] == "see edgelora plugins list --help"


@pytest.mark.parametrize("words", [("merge", "--approximate"), ("bases", "prepare", "micro", "--quantizer")])
def test_an_option_without_its_value_leads_to_the_help_of_its_command(edgelora, words):
    command = " ".join(word for word in words if word != "micro" and not word.startswith("-"))
    assert edgelora(*words).err.endswith(f"  fix: see edgelora {command} --help\n")


def test_a_reader_that_goes_away_is_no_error():
    piped = " ".join([*COMMAND, "plugins", "list", "--json"])
    script = f"set -o pipefail; {piped} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 when everything fitted into the pipe before it closed


NOISY = """
import logging, subprocess, sys, warnings
from edgelora.errors import EdgeloraWarning
warnings.warn("a library speaks", FutureWarning)
logging.getLogger("library").warning("a library speaks")
subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('a library speaks')"])
logging.getLogger("library").error("a library fails")
warnings.warn("edgelora speaks", EdgeloraWarning)
@hookimpl
def edgelora_adapters(): return []
"""


def test_quiet_leaves_out_what_libraries_warn_of_but_not_what_they_fail_with(environment):
    environment.install_module("noisy", NOISY)
    path = os.pathsep.join([str(environment.folder), *filter(None, sys.path)])

    def told(*flags):
        command = [*COMMAND, "plugins", "list", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        assert done.returncode == 0
        return done.stderr

    assert told("--verbose").count("a library speaks") >= 3
    assert told("--quiet") == told("-q") == "a library fails\nwarning: edgelora speaks\n"


def test_quiet_gives_logging_and_the_environment_back_as_they_were(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr(logging.root.manager, "disable", logging.ERROR)
    with quiet_libraries():
        assert not logging.getLogger("library").isEnabledFor(logging.ERROR)
        assert os.environ["PYTHONWARNINGS"] == "ignore"
    assert logging.root.manager.disable == logging.ERROR
    assert os.environ["PYTHONWARNINGS"] == "error"


def test_closed_output_ends_with_141(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "plugins", "list"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_a_real_process_with_130(stop):
    code = """
import signal, sys, edgelora_cli
from edgelora.registry import Registry

def wait():
    print("waiting", flush=True)
    signal.pause()

Registry.discover = wait
sys.argv = ["edgelora", "plugins", "list"]
edgelora_cli.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        130,
        "error[interrupted]: stopped by the keyboard or by SIGTERM\n  fix: run it again\n",
    )


def test_the_bare_command_shows_a_first_screen_that_fits_a_terminal(edgelora):
    ran = edgelora()
    lines = ran.out.splitlines()
    assert ran.exit_code == 0
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for word in ("quickstart", "recipe new", "train", "push", "pull", "generate", "--help", "doctor"):
        assert f"edgelora {word}" in ran.out or word == "--help"


def test_help_lists_every_command_once_without_importing_it():
    code = (
        "import sys, edgelora_cli; edgelora_cli.run_command(['--help']);"
        "print([m for m in sys.modules if m.startswith('edgelora_cli.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert "plugins" not in done.stderr and "quickstart" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_of_itself_what_the_list_says(name):
    with click.Context(root) as context:
        command = root.get_command(context, name)
    assert command is not None
    assert command.get_short_help_str(100) == COMMANDS[name].summary


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        return [(path, command)]
    with click.Context(command) as context:
        inner = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [leaf for name, child in inner if child for leaf in leaves(child, (*path, name))]


@pytest.mark.parametrize(
    ("path", "command"),
    leaves(root, ()),
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_every_command_has_examples_and_the_shared_flags(edgelora, path, command):
    ran = edgelora(*path, "--help")
    assert ran.exit_code == 0
    assert (
        f"  edgelora {' '.join(path)}" in ran.out.partition("Examples:")[2]
        or "edgelora completion" in ran.out
    )
    for flag in ("--json", "--quiet", "--verbose", "--offline"):
        assert flag in ran.out


def test_version_is_printed(edgelora):
    from edgelora import __version__

    assert edgelora("--version").out == f"edgelora {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(edgelora, shell):
    assert "_EDGELORA_COMPLETE" in edgelora("completion", shell).out


def test_completion_completes_commands():
    environment = {
        **os.environ,
        "_EDGELORA_COMPLETE": "bash_complete",
        "COMP_WORDS": "edgelora qu",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from edgelora_cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "quickstart" in done.stdout


def test_the_package_is_the_script():
    assert edgelora_cli.main.__module__ == "edgelora_cli"


def test_a_full_stdout_is_a_full_disk_and_never_a_traceback():
    for extra in ([], ["--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "edgelora_cli", "stores", "list", *extra],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.returncode == 8
        assert "error[disk-full]" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_named(edgelora, tmp_path):
    (tmp_path / "file").write_text("x")
    ran = edgelora("recipe", "new", str(tmp_path / "file" / "recipe.yaml"))
    assert ran.exit_code == UnusableFile.exit_code == 3
    assert "error[file-unusable]" in ran.err
    assert "cannot be used" in ran.err
