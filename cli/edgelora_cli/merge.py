"""``edgelora merge``: a model folder with an adapter folded into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora.files import refuse_existing
from edgelora_cli.commands import Command, rank_option, threads_option
from edgelora_cli.console import emit, note, warn

if TYPE_CHECKING:
    from edgelora.manifest import Manifest
    from edgelora.manifest.record import EvaluationEntry


@click.command(
    cls=Command,
    short_help="Fold an adapter into its base model.",
    examples="""
    edgelora merge --adapter runs/first/adapter --out merged
    edgelora merge --adapter acme/decimals@1.0.0 --base ./models/llama --out merged
    """,
)
@click.option("--adapter", required=True, metavar="REF", help="A folder or a reference.")
@click.option("--base", help="A folder, a cached Hub id or micro.  [default: the one the adapter names]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option("--task", help="Of an adapter that computes by task: whose answers to fold in.")
@rank_option
@click.option(
    "--approximate",
    metavar="WAY",
    help="How to fold an adapter that no weight computes exactly, such as by_input_norm; tells the error.",
)
@threads_option
def merge(
    adapter: str,
    base: str | None,
    out: Path,
    dtype: str,
    task: str | None,
    rank: int | None,
    approximate: str | None,
    threads: int | None,
) -> None:
    """Write a model folder that answers as the base with the adapter does, for runtimes without adapters."""
    from edgelora_cli.dependencies import need_train_extra

    need_train_extra("merging")
    # Loading a base can take minutes.
    refuse_existing(out.absolute())

    import torch

    from edgelora.engine.approximating import approximate as put_products
    from edgelora.engine.merge import load_to_merge
    from edgelora.engine.merge import merge as fold
    from edgelora_cli.models import use_threads

    use_threads(threads)
    adapted = load_to_merge(adapter, base=base)
    adapted.route(task)
    if rank is not None:
        adapted.set_rank(rank)
    probed = None if approximate is None else put_products(adapted, approximate)
    trained = None if approximate is None else _measured_in_training(adapted.manifest, approximate)
    merged = fold(adapted, out.absolute(), getattr(torch, dtype))
    document = {
        "folder": str(merged.folder),
        "adapter": adapter,
        "dtype": dtype,
        "base_quantizer": merged.quantizer,
        "approximate": approximate,
        "merge_error": None if trained is None else float(trained.value),
        "probe_error": probed,
        "largest_logit_difference": merged.largest_difference,
    }
    emit(document, f"merged model: {out} ({dtype}, logits differ by at most {merged.largest_difference:.1e})")
    if trained is not None:
        warn(
            f"folded {approximate}: off by {float(trained.value):.1%} of what the adapter changes, on "
            f"{trained.n} tokens held out from its training (merge-error, from its manifest)"
        )
    elif probed is not None:
        warn(
            f"folded {approximate}: how far off that is on text, its training did not measure; on eight "
            f"tokens of the vocabulary in a row, which are none, it is {probed:.1%} of what the adapter "
            "changes. On your held-out rows: "
            f"edgelora evaluate RECIPE --adapter {adapter} --set evaluators=[merge-error]"
        )
    if probed is not None:
        note(f"what the merged model is worth: edgelora evaluate RECIPE --set base={out}")
    if merged.quantizer:
        note(
            f"the adapter was fitted to the base as {merged.quantizer} quantizes it, and written are those "
            f"weights, dequantized, in {dtype}"
        )


def _measured_in_training(manifest: Manifest, way: str) -> EvaluationEntry | None:
    """What the evaluator ``merge-error`` measured of a way on held-out rows, of the worst task."""
    found = [
        entry
        for entry in manifest.evaluation or ()
        if entry.metric.endswith(f".merge_error_{way}") and entry.phase == "adapter"
    ]
    return max(found, key=lambda entry: float(entry.value), default=None)
