"""The click classes and flags all commands share."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from edgelora_cli.console import Settings

_QUIET = {
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
}
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command with the flags every command takes, and its examples in the help."""

    def __init__(self, *arguments: Any, examples: str = "", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.extend(_common_flags())
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, without wrapping."""
        lines = [line.strip() for line in self.examples.strip().splitlines()]
        if lines:
            with formatter.section("Examples"):
                for line in lines:
                    formatter.write(f"  {line}\n")


class Group(click.Group):
    """A noun: its verbs take the shared flags."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named first, or say which there are."""
        check_named(ctx, args, self.commands)
        return super().resolve_command(ctx, args)


def check_named(ctx: click.Context, args: list[str], commands: Collection[str]) -> None:
    """Refuse a first argument that names no command, with the one that was probably meant, or all there are.

    Raises:
        click.UsageError: There is no such command.
    """
    if not args or args[0] in commands or args[0].startswith("-") or ctx.resilient_parsing:
        return
    import difflib

    near = difflib.get_close_matches(args[0], commands, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(commands)}"
    raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)


@dataclass(frozen=True, slots=True)
class LazyEntry:
    """A command that is imported when it is run.

    Attributes:
        target: ``"module:attribute"``, the module being one of this package.
        summary: One line for the list of commands, the same as in the command itself.
        section: Heading it stands under in the help.
    """

    target: str
    summary: str
    section: str


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def __init__(self, *arguments: Any, entries: dict[str, LazyEntry], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the job, not of the alphabet."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(f"edgelora_cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named first, or say which there are."""
        check_named(ctx, args, self.entries)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their sections, without importing them."""
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            rows = [(name, entry.summary) for name, entry in self.entries.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


def _set_flag(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    settings = ctx.ensure_object(Settings)
    if value and param.name:
        setattr(settings, param.name, True)
        if param.name == "offline":
            go_offline()
        if param.name == "quiet":
            ctx.with_resource(quiet_libraries())


def go_offline() -> None:
    """Forbid this process, and those it starts, to look anything up on a network."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[variable] = "1"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, libraries tell errors alone and show no progress, in this process and in those it starts.

    What edgelora itself warns of in this process is told all the same.
    """
    import logging
    import warnings

    from edgelora.errors import EdgeloraWarning

    before = {name: os.environ.get(name) for name in _QUIET}
    disabled = logging.root.manager.disable
    os.environ.update(_QUIET)
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", EdgeloraWarning)
            yield
    finally:
        logging.disable(disabled)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _flag(*names: str, help: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, is_eager=True, callback=_set_flag, help=help)


def _common_flags() -> list[click.Parameter]:
    return [
        _flag("--json", help="Print the result as one JSON document on stdout."),
        _flag("--quiet", "-q", help="Print results, warnings and errors only."),
        _flag("--verbose", "-v", help="Say more; show the traceback of an unexpected error."),
        _flag("--offline", help="Never look anything up on a network."),
    ]


def common_flags(function: Decorated) -> Decorated:
    """Give the root group the flags its commands take, so that they may also stand first."""
    for flag in reversed(_common_flags()):
        name = flag.opts
        click.option(
            *name,
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_flag,
            help=flag.help,  # type: ignore[attr-defined]
        )(function)
    return function


yes_flag = click.option(
    "--yes", "-y", is_flag=True, expose_value=False, callback=_set_flag, help="Do not ask."
)
set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe for this run: --set train.seed=1 (repeatable).",
)
rank_option = click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="Of an adapter that works at several ranks: which one to compute with.  [default: its largest]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads for torch; left out, the recipe's, or the cores free at this moment.",
)
