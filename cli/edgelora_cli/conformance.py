"""``edgelora conformance``: hold any reader to the vectors of the specification."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, print_problem, style, table

if TYPE_CHECKING:
    from edgelora.conformance import Comparison, Vector
    from edgelora.errors import GateFailed

LISTED = 40


@click.group(cls=Group, short_help="Hold a reader to the specification.")
def conformance() -> None:
    """Hold a reader of adapters, in whatever language, to the vectors of the specification."""


@conformance.command(
    examples="""
    edgelora conformance run --vectors spec/v1/vectors --command 'my-reader {kind} {path}'
    edgelora conformance run --vectors spec/v1/vectors --command 'my-reader {path}' --kind manifests
    edgelora conformance run --vectors DIR --command "edgelora conformance read --kind {kind} {path}"
    """
)
@click.option(
    "--command",
    "command_line",
    required=True,
    metavar="COMMAND",
    help="The reader; {path} becomes a vector's path, {kind} its kind. Exit code 0 accepts.",
)
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The vectors: spec/v1/vectors of edgelora's source.",
)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind (repeatable).")
@click.option(
    "--skip", "skipped", multiple=True, metavar="NAME", help="Not this KIND or KIND/VECTOR (repeatable)."
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="FEATURE",
    help="A feature of 'requires' the reader knows (repeatable).  [default: plugin]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For one vector.",
)
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes at a time; left out, one per core.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report too.")
@click.pass_context
def run(
    ctx: click.Context,
    command_line: str,
    vectors: Path,
    kinds: tuple[str, ...],
    skipped: tuple[str, ...],
    features: tuple[str, ...],
    timeout_s: float,
    jobs: int | None,
    junit: Path | None,
) -> None:
    """Run a reader on every vector and report where it differs from the specification.

    Its exit code says whether it accepts; if its last line is a JSON object with a member "id", ids that
    differ are reported, and are no failure. The exit code is 10 if an outcome is wrong.
    """
    from edgelora.conformance import OWN_FEATURES, compare_all, foreign_reader, load_vectors
    from edgelora.conformance.comparison import as_document, as_junit

    chosen = _choose(load_vectors(vectors), kinds, skipped)
    reader = foreign_reader(command_line, timeout_s=timeout_s)
    known = frozenset(features) or OWN_FEATURES
    try:
        found = compare_all(chosen, reader, known, jobs=jobs or min(os.cpu_count() or 1, 16))
    finally:
        reader.stop()
    if junit:
        junit.write_bytes(as_junit(found))
    wrong = [each for each in found if each.outcome == "wrong"]
    document = as_document(found)
    if not wrong:
        emit(document, _text(found))
        return
    failure = _failure(wrong, len(found))
    error = {"id": failure.id, "exit_code": failure.exit_code, "problem": failure.problem, "fix": failure.fix}
    emit({**document, "error": error}, _text(found))
    print_problem(failure.id, failure.problem, failure.fix)
    ctx.exit(failure.exit_code)


@conformance.command(
    examples="""
    edgelora conformance read --kind manifests adapter/edgelora.json
    edgelora conformance read --kind directories adapter
    """
)
@click.option("--kind", required=True, metavar="KIND", help="manifests, weights, directories, paths, …")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.pass_context
def read(ctx: click.Context, kind: str, path: Path) -> None:
    """Read one vector as edgelora does: exit code 0 accepts, 10 refuses; the last line names the error."""
    from edgelora.conformance import READERS, own_reader

    if kind not in READERS:
        raise click.UsageError(f"--kind: {kind!r} is none of {', '.join(READERS)}")
    verdict = own_reader(kind, path)
    said = {"accepted": verdict.is_accepted, "id": verdict.id, "problem": verdict.words}
    emit(said, json.dumps(said))
    if not verdict.is_accepted:
        ctx.exit(10)


def _choose(vectors: list[Vector], kinds: tuple[str, ...], skipped: tuple[str, ...]) -> list[Vector]:
    known = sorted({vector.kind for vector in vectors})
    names = {f"{vector.kind}/{vector.name}" for vector in vectors}
    if strange := [kind for kind in kinds if kind not in known]:
        raise click.UsageError(f"--kind: there are no vectors of the kind {strange[0]!r}: {', '.join(known)}")
    if strange := [name for name in skipped if name not in known and name not in names]:
        raise click.UsageError(f"--skip: there is no kind and no vector {strange[0]!r}")
    return [
        vector
        for vector in vectors
        if vector.kind in (kinds or known) and not {vector.kind, f"{vector.kind}/{vector.name}"} & {*skipped}
    ]


def _text(found: list[Comparison]) -> str:
    from edgelora.conformance.comparison import OUTCOMES, counts_of

    rows = []
    for kind in sorted({each.vector.kind for each in found}):
        counts = counts_of(each for each in found if each.vector.kind == kind)
        rows.append((kind, *(str(counts[outcome]) for outcome in OUTCOMES)))
    lines = [table(("kind", *OUTCOMES), rows)] if rows else ["no vectors"]
    for each in found:
        if each.outcome == "wrong":
            lines.append(f"{style('WRONG', fg='red')}  {each.sentence}")
        elif each.has_other_id:
            name = f"{each.vector.kind}/{each.vector.name}"
            lines.append(f"other id  {name}: {each.verdict.id}, and edgelora says {each.vector.id}")
    totals = ", ".join(f"{count} {outcome}" for outcome, count in counts_of(found).items())
    return "\n".join([*lines, f"{len(found)} vectors: {totals}"])


def _failure(wrong: list[Comparison], count: int) -> GateFailed:
    from edgelora.errors import GateFailed

    named = ", ".join(f"{each.vector.kind}/{each.vector.name}" for each in wrong[:LISTED])
    rest = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
    return GateFailed(
        f"the reader has the wrong outcome for {len(wrong)} of {count} vectors: {named}{rest}",
        fix="correct the reader as the WRONG lines say; spec/v1 gives each rule",
    )
