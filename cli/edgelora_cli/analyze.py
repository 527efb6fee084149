"""``edgelora analyze``: what published adapters learned, as numbers and as pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgelora_cli.commands import Command, Group
from edgelora_cli.console import emit, note, table, warn

sites_option = click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="NAME",
    help="Look at sites of this name or suffix (repeatable).",
)
picture_option = click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: a file in .png or .svg."
)


@click.group(cls=Group, short_help="See what adapters learned, as numbers and pictures.")
def analyze() -> None:
    """The two analyses of the LoRA paper (arXiv:2106.09685), of adapters published as plain LoRA."""


@analyze.command(
    cls=Command,
    examples="""
    edgelora analyze similarity runs/rank-8/adapter runs/rank-64/adapter
    edgelora analyze similarity runs/seed-1/adapter runs/seed-2/adapter --site q_proj --picture seeds.svg
    """,
)
@click.argument("first", metavar="REF")
@click.argument("second", metavar="REF")
@click.option(
    "--components", type=click.IntRange(min=1), default=8, show_default=True, help="Largest i and j."
)
@sites_option
@picture_option
def similarity(
    first: str, second: str, components: int, sites: tuple[str, ...], picture: Path | None
) -> None:
    """Tell how much of one adapter's subspaces lies in those of another.

    φ(i, j) compares the i strongest input directions of the first adapter with the j strongest of the second:
    1 where one subspace lies in the other, 0 where they are orthogonal.
    """
    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("analyzing")

    from edgelora.engine.analysis import (
        check_picture,
        different_bases,
        draw_similarities,
        published_factors,
        similarities,
    )

    if picture is not None:
        check_picture(picture)
    found = similarities(
        published_factors(first), published_factors(second), sites=sites, components=components
    )
    if bases := different_bases(first, second):
        warn(f"they are of different bases, {bases[0]} and {bases[1]}, whose inputs need not mean the same")
    if picture is not None:
        draw_similarities(found, (first, second), picture)
        note(f"picture: {picture}")
    document = {
        "first": first,
        "second": second,
        "sites": {each.site: {"ranks": each.ranks, "phi": each.phi.tolist()} for each in found},
        "picture": None if picture is None else str(picture),
    }
    rows = [
        (each.site, f"{each.ranks[0]}, {each.ranks[1]}", f"{each.phi[0, 0]:.3f}", f"{each.phi[-1, -1]:.3f}")
        for each in found
        if each.phi.numel()
    ]
    emit(document, table(("site", "ranks", "φ(1, 1)", "φ of all compared"), rows))


@analyze.command(
    cls=Command,
    examples="""
    edgelora analyze amplification runs/first/adapter
    edgelora analyze amplification acme/decimals@1.0.0 --base ./models/llama --picture factors.png
    """,
)
@click.argument("adapter", metavar="REF")
@click.option("--base", help="A folder, a cached Hub id or micro.  [default: the one the adapter names]")
@click.option(
    "--components",
    type=click.IntRange(min=1),
    help="Strongest directions of each change to look at; all when left out.",
)
@sites_option
@picture_option
def amplification(
    adapter: str, base: str | None, components: int | None, sites: tuple[str, ...], picture: Path | None
) -> None:
    """Tell how much stronger each change is than the weight in its own directions.

    A factor far above 1: the adapter strengthens what the base hardly has.
    """
    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("analyzing")

    from edgelora.engine.analysis import (
        amplifications,
        check_picture,
        draw_amplifications,
        published_factors,
        source_of,
    )

    if picture is not None:
        check_picture(picture)
    factors = published_factors(adapter)
    found = amplifications(factors, source_of(adapter, base), sites=sites, components=components)
    if picture is not None:
        draw_amplifications(found, adapter, picture)
        note(f"picture: {picture}")
    document = {
        "adapter": adapter,
        "sites": {each.site: asdict(each.found) for each in found},
        "picture": None if picture is None else str(picture),
    }
    rows = [
        (
            each.site,
            str(each.found.rank),
            *(f"{value:.4g}" for value in (each.found.change, each.found.along_change)),
            f"{each.found.along_random:.4g}",
            "" if each.found.factor is None else f"{each.found.factor:.3g}",
        )
        for each in found
    ]
    emit(document, table(("site", "rank", "‖ΔW‖", "‖Uᵀ W Vᵀ‖", "of random U, V", "factor"), rows))
