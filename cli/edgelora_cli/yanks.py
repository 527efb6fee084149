"""``edgelora yank``: withdrawing a version that was published."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit


@click.command(
    cls=Command,
    short_help="Withdraw a published version, saying why.",
    examples="""
    edgelora yank acme/decimals@1.0.0 --reason "answers 9.11 again; use 1.0.1"
    edgelora yank acme/decimals@1.0.0 --from /media/usb/mirror --undo
    """,
)
@click.argument("reference")
@click.option("--reason", metavar="TEXT", help="One line, shown to whoever asks for the version.")
@click.option("--from", "source", metavar="STORE", help="A store's name, a directory or an address.")
@click.option("--undo", is_flag=True, help="Let the version stand again.")
def yank(reference: str, reason: str | None, source: str | None, undo: bool) -> None:
    """Withdraw REFERENCE: it stays in the store, is no longer the latest, and pulling it is refused."""
    from edgelora.transfer import unyank
    from edgelora.transfer import yank as withdraw

    if undo == (reason is not None):
        raise click.UsageError("say why with --reason TEXT, or take a withdrawal back with --undo")
    done = unyank(reference, source) if reason is None else withdraw(reference, reason, source)
    state = "stands" if done.yanked is None else f"is yanked: {done.yanked}"
    emit(asdict(done), f"{done.reference} {state}\n  {done.store}")
