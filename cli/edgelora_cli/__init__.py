"""The command line of edgelora: ``main`` runs a command and turns every failure into an exit code.

Commands live one module per noun or verb and are imported when they are run. Results go to stdout, one JSON
document with ``--json``; progress, notes and errors go to stderr.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from edgelora.errors import DiskFull, EdgeloraError, UnusableFile
from edgelora_cli.console import Settings, print_error, silence_stdout, warnings_in_words
from edgelora_cli.root import root

__all__ = ["main", "run_command"]

USAGE, INTERRUPTED, READER_GONE = 2, 130, 141


def main() -> NoReturn:
    """Entry point of the ``edgelora`` script."""
    # Whoever supervises a command ends it with SIGTERM: it says so and cleans up as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "_EDGELORA_COMPLETE" in os.environ:
        root.main(prog_name="edgelora")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line, without ``edgelora`` itself, and return its exit code."""
    settings = Settings(json="--json" in arguments, verbose="--verbose" in arguments or "-v" in arguments)
    try:
        with root.make_context("edgelora", list(arguments), obj=settings) as context:
            _invoke(context)
        return 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        return _usage(error, settings, arguments)
    except EdgeloraError as error:
        print_error(settings, error.id, error.problem, error.fix, exit_code=error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_error(
            settings,
            "interrupted",
            "stopped by the keyboard or by SIGTERM",
            "run it again",
            exit_code=INTERRUPTED,
        )
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough (``edgelora list | head -1``): nobody is left to tell.
        silence_stdout()
        return READER_GONE
    # Whatever is left is a bug, and scripts get an exit code and a JSON document for it like for the rest.
    except Exception as error:
        return _unexpected(error, settings)


def _invoke(context: click.Context) -> None:
    """Run the command; what the operating system refuses is told by name, not as a bug of edgelora.

    Raises:
        DiskFull: No space is left where stdout goes.
        UnusableFile: A place cannot be read or written.
    """
    try:
        with warnings_in_words():
            root.invoke(context)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise UnusableFile(
                f"{error.filename} cannot be used: {error.strerror}",
                fix="name another place, or change its permissions",
            ) from error
        if error.errno != errno.ENOSPC:
            raise
        silence_stdout()
        raise DiskFull(
            "no space left where the output goes", fix="free space there, or write elsewhere"
        ) from error


def _usage(error: click.ClickException, settings: Settings, arguments: Sequence[str]) -> int:
    # An option that lacks its value is refused before click notes of which command.
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else _named_in(arguments)
    print_error(settings, "usage", error.format_message(), f"see {command} --help", exit_code=error.exit_code)
    return error.exit_code


def _named_in(arguments: Sequence[str]) -> str:
    """The command that a command line names first, as ``"edgelora bases list"``."""
    group: click.Command = root
    path = "edgelora"
    for word in arguments:
        if isinstance(group, click.Group) and (found := group.get_command(click.Context(group), word)):
            group, path = found, f"{path} {word}"
    return path


def _unexpected(error: Exception, settings: Settings) -> int:
    # The traceback is for whoever reports it.
    if settings.verbose:
        import traceback

        traceback.print_exception(error)
        fix = "report it with the traceback above and the output of: edgelora doctor"
    else:
        fix = "run it again with --verbose for the traceback, and report it with: edgelora doctor"
    problem = f"unexpected {type(error).__name__}: {error}"
    print_error(settings, "bug", problem, fix, exit_code=1)
    return 1
