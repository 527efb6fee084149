"""``edgelora generate``: ask a model, with or without an adapter, or with several at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Command, rank_option, threads_option
from edgelora_cli.console import emit

if TYPE_CHECKING:
    from edgelora_cli.models import OpenModel


@click.command(
    cls=Command,
    short_help="Ask a model, with or without an adapter.",
    examples="""
    edgelora generate "Which one is larger? 9.11 or 9.9?"
    edgelora generate --adapter runs/first/adapter "Which one is larger? 9.11 or 9.9?"
    edgelora generate --adapter acme/decimals@1.0.0 --json < questions.txt
    edgelora generate --adapter old=acme/pumps@1.0.0 --adapter new=./pumps "Pump 1 runs at 81 C. Alarm?"
    edgelora generate --adapter pumps=acme/pumps --adapter valves=acme/valves --rows questions.jsonl
    """,
)
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]REF",
    help="A folder, one called a=b too, or a reference such as ns/name@1.0.0. With names, several share the "
    "base (repeatable).",
)
@click.option("--base", help="A folder, a cached Hub id or micro.  [default: the adapter's, or micro]")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="[NAME=]TASK",
    help="Of an adapter that computes by task: which task the prompts are of.",
)
@rank_option
@click.option(
    "--rows",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help='JSON Lines instead of PROMPTs, {"prompt": ..., "adapter": NAME or null}; - is stdin.',
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--raw", is_flag=True, help="Take prompts as they are, without the chat template.")
@threads_option
def generate(
    prompts: tuple[str, ...],
    adapters: tuple[str, ...],
    base: str | None,
    tasks: tuple[str, ...],
    rank: int | None,
    rows: Path | None,
    max_new_tokens: int,
    raw: bool,
    threads: int | None,
) -> None:
    """Answer each PROMPT with the likeliest continuation; without PROMPT, each line of stdin is one.

    Named adapters are loaded beside each other over one base. Each of them answers each PROMPT; with --rows,
    each row is answered by the adapter that it names, all in one batch.
    """
    from edgelora_cli.dependencies import need_train_extra
    from edgelora_cli.generate_rows import by_name, generate_rows, read_rows

    named = by_name(adapters, tasks)
    if named and rank is not None:
        raise click.UsageError("--rank is for one adapter, given without a name")
    if rows is not None:
        if prompts or not named:
            raise click.UsageError("--rows is instead of PROMPTs, and wants adapters with names: NAME=REF")
        asked = read_rows(rows, named)
    else:
        questions = list(prompts) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        if not questions:
            raise click.UsageError("there is no prompt, neither as an argument nor on stdin")
        asked = [(question, name) for question in questions for name in named or (None,)]
    need_train_extra("generating")

    from edgelora_cli.models import use_threads

    use_threads(threads)
    if named:
        generate_rows(named, asked, base=base, max_new_tokens=max_new_tokens, raw=raw)
        return
    adapter, task = next(iter(adapters), None), next(iter(tasks), None)
    opened = _open(adapter, base, task, rank)
    questions = [question for question, _ in asked]
    answers = answer(opened, questions, max_new_tokens=max_new_tokens, raw=raw)
    document = {
        "base": opened.base,
        "adapter": adapter,
        "answers": [
            {"prompt": prompt, "answer": given} for prompt, given in zip(questions, answers, strict=True)
        ],
    }
    emit(document, "\n".join(answers))


def _open(adapter: str | None, base: str | None, task: str | None, rank: int | None) -> OpenModel:
    from edgelora.registry import Registry
    from edgelora_cli.models import bare_plan, open_base, open_for_task

    if adapter is not None:
        return open_for_task(adapter, base=base, task=task, rank=rank)
    for option, value in (("--task", task), ("--rank", rank)):
        if value is not None:
            raise click.UsageError(f"{option} is of an adapter: name it with --adapter")
    return open_base(bare_plan(base or "micro", Registry.discover()))


def answer(opened: OpenModel, questions: list[str], *, max_new_tokens: int, raw: bool = False) -> list[str]:
    """Answer each question as one user turn in the form training data take, or continue it as it is."""
    from edgelora.engine.data import render_prompt
    from edgelora.layers.generate import greedy

    rendered = questions if raw else [render_prompt(opened.tokenizer, question) for question in questions]
    answers: list[str] = greedy(opened.model, opened.tokenizer, rendered, max_new_tokens=max_new_tokens)
    return answers
