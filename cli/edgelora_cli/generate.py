"""``edgelora generate``: ask a model, with or without an adapter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Command, threads_option
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
    """,
)
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--adapter", metavar="REF", help="A folder or a reference such as ns/name@1.0.0.")
@click.option("--base", help="A folder, a cached Hub id or micro.  [default: the adapter's, or micro]")
@click.option("--task", help="Of an adapter that computes by task: which task the prompts are of.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--raw", is_flag=True, help="Take prompts as they are, without the chat template.")
@threads_option
def generate(
    prompts: tuple[str, ...],
    adapter: str | None,
    base: str | None,
    task: str | None,
    max_new_tokens: int,
    raw: bool,
    threads: int | None,
) -> None:
    """Answer each PROMPT with the likeliest continuation; without PROMPT, each line of stdin is one."""
    from edgelora_cli.dependencies import need_train_extra

    asked = list(prompts) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not asked:
        raise click.UsageError("there is no prompt, neither as an argument nor on stdin")
    need_train_extra("generating")

    from edgelora.registry import Registry
    from edgelora_cli.models import bare_plan, open_base, open_for_task, use_threads

    use_threads(threads)
    if adapter is None:
        if task is not None:
            raise click.UsageError("--task is of an adapter: name it with --adapter")
        opened = open_base(bare_plan(base or "micro", Registry.discover()))
    else:
        opened = open_for_task(adapter, base=base, task=task)
    answers = answer(opened, asked, max_new_tokens=max_new_tokens, raw=raw)
    document = {
        "base": opened.base,
        "adapter": adapter,
        "answers": [
            {"prompt": prompt, "answer": given} for prompt, given in zip(asked, answers, strict=True)
        ],
    }
    emit(document, "\n".join(answers))


def answer(opened: OpenModel, questions: list[str], *, max_new_tokens: int, raw: bool = False) -> list[str]:
    """Answer each question as one user turn in the form training data take, or continue it as it is."""
    from edgelora.engine.data import render_prompt
    from edgelora.layers.generate import greedy

    rendered = questions if raw else [render_prompt(opened.tokenizer, question) for question in questions]
    answers: list[str] = greedy(opened.model, opened.tokenizer, rendered, max_new_tokens=max_new_tokens)
    return answers
