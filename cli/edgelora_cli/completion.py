"""``edgelora completion``: what a shell needs to complete edgelora's commands."""

from __future__ import annotations

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit


@click.command(
    cls=Command,
    short_help="Print shell completion.",
    examples="""
    eval "$(edgelora completion bash)"                       # in ~/.bashrc
    eval "$(edgelora completion zsh)"                        # in ~/.zshrc
    edgelora completion fish > ~/.config/fish/completions/edgelora.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, to be evaluated by it."""
    from click.shell_completion import get_completion_class

    from edgelora_cli.root import root

    complete = get_completion_class(shell)
    assert complete is not None, "the choices above are click's own"
    script = complete(root, {}, "edgelora", "_EDGELORA_COMPLETE").source()
    emit({"shell": shell, "script": script}, script)
