"""Several adapters asked in one batch: their names, the rows of a file, and the answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edgelora.errors import DataError, MissingFile
from edgelora_cli.console import emit

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter of the command line."""

    reference: str
    task: str | None


def by_name(adapters: Sequence[str], tasks: Sequence[str]) -> dict[str, NamedAdapter]:
    """What ``--adapter NAME=REF`` and ``--task NAME=TASK`` say; empty where one adapter at most has no name.

    Raises:
        click.UsageError: Several adapters are not told apart by names, or a task is of none of them.
    """
    # A folder may be called a=b, as sweeps call them.
    named = [None if Path(text).is_dir() else _NAMED.fullmatch(text) for text in adapters]
    if not any(named):
        if len(adapters) > 1:
            raise click.UsageError("several adapters need names: --adapter a=REF --adapter b=REF")
        if len(tasks) > 1:
            raise click.UsageError("several tasks need named adapters: --adapter a=REF --task a=TASK")
        return {}
    references: dict[str, str] = {}
    for text, match in zip(adapters, named, strict=True):
        if match is None:
            raise click.UsageError(f"--adapter {text} has no name, and another one has: write NAME={text}")
        if match["name"] in references:
            raise click.UsageError(
                f"two adapters are named {match['name']}: write --adapter OTHER-NAME={match['rest']}"
            )
        references[match["name"]] = match["rest"]
    chosen: dict[str, str] = {}
    for text in tasks:
        match = _NAMED.fullmatch(text)
        if match is None or match["name"] not in references:
            raise click.UsageError(
                f"--task {text} names no adapter: write NAME=TASK, with one of {', '.join(references)}"
            )
        chosen[match["name"]] = match["rest"]
    return {name: NamedAdapter(reference, chosen.get(name)) for name, reference in references.items()}


def read_rows(path: Path, named: Mapping[str, NamedAdapter]) -> list[tuple[str, str | None]]:
    """Prompts with the adapter each is for, None for the base alone, from a file of JSON Lines.

    Raises:
        MissingFile: There is no such file.
        DataError: A line is no such row, or names an adapter that is not there.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFile(f"there is no file {path}", fix="pass a file of JSON Lines") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8: {error.reason}", fix="save it in UTF-8") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no row", fix='write lines such as {"prompt": "...", "adapter": "a"}')
    return [_row(line, f"{path}:{number}", named) for number, line in lines]


def _row(line: str, where: str, named: Mapping[str, NamedAdapter]) -> tuple[str, str | None]:
    form = f'write {{"prompt": "...", "adapter": NAME}}, with null or one of: {", ".join(named)}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}", fix=form) from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or "adapter" not in row:
        raise DataError(f"{where} is no object with a prompt and an adapter", fix=form)
    prompt, name = row["prompt"], row["adapter"]
    if name is not None and (not isinstance(name, str) or name not in named):
        raise DataError(f"{where} is for the adapter {name!r}, which is not loaded", fix=form)
    return prompt, name


def generate_rows(
    named: Mapping[str, NamedAdapter],
    asked: Sequence[tuple[str, str | None]],
    *,
    base: str | None,
    max_new_tokens: int,
    raw: bool,
) -> None:
    """Load the adapters over one base, answer all rows together and print the answers."""
    from edgelora.engine.data import render_prompt
    from edgelora.engine.serving import load_adapters

    adapters = load_adapters(
        {name: each.reference for name, each in named.items()},
        base=base,
        tasks={name: each.task for name, each in named.items()},
    )
    prompts = [prompt for prompt, _ in asked]
    rendered = prompts if raw else [render_prompt(adapters.tokenizer, prompt) for prompt in prompts]
    answers = adapters.generate(rendered, [name for _, name in asked], max_new_tokens=max_new_tokens)
    rows = [
        {"prompt": prompt, "adapter": name, "answer": given}
        for (prompt, name), given in zip(asked, answers, strict=True)
    ]
    document = {
        "base": adapters.base.plan.recipe.base,
        "adapters": {name: each.reference for name, each in named.items()},
        "answers": rows,
    }
    emit(document, "\n".join(f"{row['adapter'] or 'base'}: {row['answer']}" for row in rows))
