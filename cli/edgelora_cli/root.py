"""The command ``edgelora`` itself: its first screen and the list of its commands."""

from __future__ import annotations

import click

from edgelora.version import __version__
from edgelora_cli.commands import LazyEntry, LazyGroup, common_flags
from edgelora_cli.console import style

JOB, ADAPTERS, SETUP = "Make an adapter", "Ship and keep adapters", "Your setup"

COMMANDS = {
    "quickstart": LazyEntry("quickstart:quickstart", "Watch the whole job, offline, in minutes.", JOB),
    "recipe": LazyEntry("recipes:recipe", "Write a recipe, or print the schema of recipes.", JOB),
    "plan": LazyEntry("plans:plan", "Show what a recipe will do, without doing it.", JOB),
    "estimate": LazyEntry("estimates:estimate", "Tell what a recipe will cost: memory, disk, hours.", JOB),
    "train": LazyEntry("train:train", "Train, measure and pack the adapter of a recipe.", JOB),
    "evaluate": LazyEntry("evaluate:evaluate", "Measure a base, with or without an adapter.", JOB),
    "generate": LazyEntry("generate:generate", "Ask a model, with or without an adapter.", JOB),
    "merge": LazyEntry("merge:merge", "Fold an adapter into its base model.", JOB),
    "export": LazyEntry("exports:export", "Write an adapter for other tools.", JOB),
    "analyze": LazyEntry("analyze:analyze", "See what adapters learned, as numbers and pictures.", JOB),
    "adopt": LazyEntry("adopt:adopt", "Take in an adapter that PEFT saved.", JOB),
    "push": LazyEntry("transfers:push", "Publish an adapter to a store.", ADAPTERS),
    "pull": LazyEntry("transfers:pull", "Fetch an adapter from a store and verify it.", ADAPTERS),
    "list": LazyEntry("catalog:list_command", "List the adapters here or in a store.", ADAPTERS),
    "show": LazyEntry("catalog:show", "Show what an adapter says about itself.", ADAPTERS),
    "search": LazyEntry("catalog:search", "Find adapters in a store.", ADAPTERS),
    "verify": LazyEntry("verification:verify", "Check every byte of an adapter.", ADAPTERS),
    "yank": LazyEntry("yanks:yank", "Withdraw a published version, saying why.", ADAPTERS),
    "bundles": LazyEntry("bundles:bundles", "Carry adapters and bases in one file.", ADAPTERS),
    "sign": LazyEntry("signatures:sign", "Sign an adapter.", ADAPTERS),
    "remove": LazyEntry("catalog:remove", "Delete an adapter, here or in a store.", ADAPTERS),
    "cache": LazyEntry("caches:cache", "See and prune what was fetched from remote stores.", ADAPTERS),
    "bases": LazyEntry("bases:bases", "Quantize base models once, and see which are here.", SETUP),
    "plugins": LazyEntry("plugins:plugins", "See which derivatives and parts are installed.", SETUP),
    "stores": LazyEntry("stores:stores", "Name the places adapters live in.", SETUP),
    "conformance": LazyEntry("conformance:conformance", "Hold a reader to the specification.", SETUP),
    "keys": LazyEntry("keys:keys", "Make keys to sign with, and say whose to trust.", SETUP),
    "tuf": LazyEntry("tuf:tuf", "Prove that a mirror is current.", SETUP),
    "doctor": LazyEntry("doctor:doctor", "Check this machine and say what is missing.", SETUP),
    "completion": LazyEntry("completion:completion", "Print shell completion.", SETUP),
}  # fmt: skip

WELCOME = """\
{name} {version}: fine-tune language models offline, and ship the adapters.

  {new}
    edgelora quickstart           the whole job on a built-in model, in minutes, without a network

  {job}
    edgelora recipe new           write a recipe: which derivative, base and data
    edgelora train RECIPE         train, measure and pack an adapter
    edgelora push DIR NS/NAME     publish it to a store
    edgelora pull NS/NAME         fetch it elsewhere, every byte verified
    edgelora generate PROMPT      ask the model; --adapter NS/NAME applies it

  {more}
    edgelora COMMAND --help       one command, with examples
    edgelora --help               all commands
    edgelora doctor               what this machine can do, and what it lacks\
"""


def print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Print the version and stop."""
    if value and not ctx.resilient_parsing:
        click.echo(f"edgelora {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=print_version,
    help="Print the version.",
)
@common_flags
@click.pass_context
def root(ctx: click.Context) -> None:
    """Fine-tune language models offline with LoRA derivatives, and ship the adapters.

    Exit codes: 0 done, 1 bug, 2 usage, 3 bad recipe or data, 4 not found, 5 digest mismatch, 6 not trusted,
    7 incompatible, 8 over budget, 9 offline and not cached, or not reachable,
    10 gate failed, 11 export unsupported,
    130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(
            WELCOME.format(
                name=style("edgelora", bold=True),
                version=__version__,
                new=style("New here?", bold=True),
                job=style("The job", bold=True),
                more=style("Where next", bold=True),
            )
        )
