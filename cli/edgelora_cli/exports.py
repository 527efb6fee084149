"""``edgelora export``: an adapter in the form another tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora.files import refuse_existing
from edgelora_cli.commands import Group, threads_option
from edgelora_cli.console import emit, note, warn
from edgelora_cli.dependencies import need_train_extra

if TYPE_CHECKING:
    from edgelora.engine.exporting.dequantized import Dtype
    from edgelora.engine.exporting.gguf_tensors import Precision

task_option = click.option("--task", help="Of an adapter that computes by task: whose function to export.")
rank_option = click.option(
    "--rank", type=click.IntRange(min=1), help="Cut an adapter of nested ranks here.  [default: its largest]"
)
base_option = click.option(
    "--base", help="The adapter's base, of which config.json is enough.  [default: the one it names]"
)


@click.group(cls=Group, short_help="Write an adapter for other tools.")
def export() -> None:
    """Write an adapter in the form another tool reads, where that tool then computes exactly the same."""


@export.command(
    examples="""
    edgelora export peft runs/first/adapter --out for-peft
    edgelora export peft acme/alarms@1.0.0 --task alarms --out for-peft
    edgelora export peft acme/decimals --rank 4 --out small
    """
)
@click.argument("adapter", metavar="REF|DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@task_option
@rank_option
@base_option
@click.option(
    "--over",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Name this base instead, which `edgelora export base` wrote.",
)
def peft(
    adapter: str, out: Path, task: str | None, rank: int | None, base: str | None, over: Path | None
) -> None:
    """Write a folder that PEFT's PeftModel.from_pretrained loads, and vLLM and others with it."""
    from edgelora.engine.exporting import Wanted, export_peft

    done = export_peft(adapter, out, Wanted(task, rank, base, over))
    document = {
        "folder": str(done.folder),
        "adapter": done.adapter,
        "base": done.base,
        "base_quantization": dict(done.quantization),
        "tasks": list(done.tasks),
    }
    places = [str(done.folder / each) for each in done.tasks] or [str(done.folder)]
    emit(document, "\n".join(f"exported {done.adapter} for PEFT: {place}" for place in places))
    if done.quantization:
        note(f"it was fitted to {done.base} in fewer bits: its card says how transformers makes that base")


@export.command(
    examples="""
    edgelora export gguf runs/first/adapter --out first.gguf
    edgelora export gguf acme/alarms@1.0.0 --task alarms --dtype f16 --out alarms.gguf
    """
)
@click.argument("adapter", metavar="REF|DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to make.")
@click.option(
    "--dtype",
    "precision",
    type=click.Choice(["f32", "f16"]),
    default="f32",
    show_default=True,
    help="Of the numbers in the file.",
)
@task_option
@rank_option
@base_option
def gguf(
    adapter: str, out: Path, precision: Precision, task: str | None, rank: int | None, base: str | None
) -> None:
    """Write a file that llama.cpp and what is built on it apply to a llama or mistral base."""
    from edgelora.engine.exporting import Wanted, export_gguf

    done = export_gguf(adapter, out, Wanted(task, rank, base), precision=precision)
    document = {
        "path": str(done.path),
        "adapter": done.adapter,
        "base": done.base,
        "base_quantizer": done.quantizer,
        "dtype": precision,
        "tensors": done.tensors,
        "size_bytes": done.size_bytes,
    }
    emit(document, f"exported {done.adapter} for llama.cpp: {done.path} ({done.size_bytes:,} bytes)")
    if done.quantizer:
        warn(
            f"it was fitted to {done.base} as {done.quantizer} quantizes it: over a base GGUF of other "
            "weights, the unquantized ones included, it computes something else"
        )


@export.command(
    "base",
    examples="""
    edgelora export base acme/decimals --dtype float16 --out decimals-base
    edgelora export peft acme/decimals --over decimals-base --out for-peft
    """,
)
@click.argument("adapter", metavar="REF|DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option("--base", help="A folder, a cached Hub id or micro.  [default: the one the adapter names]")
@threads_option
def base_command(adapter: str, out: Path, dtype: Dtype, base: str | None, threads: int | None) -> None:
    """Write the quantized base an adapter was fitted to as a plain model, which any tool loads."""
    need_train_extra("writing a base")
    refuse_existing(out.absolute())
    from edgelora.engine.exporting import export_base
    from edgelora_cli.models import use_threads

    use_threads(threads)
    done = export_base(adapter, out, base=base, dtype=dtype)
    document = {
        "folder": str(done.folder),
        "adapter": done.adapter,
        "base": done.base,
        "base_quantizer": done.quantizer,
        "dtype": dtype,
        "largest_logit_difference": done.largest_difference,
    }
    emit(document, f"wrote {done.base} as {done.quantizer} quantizes it: {done.folder} ({dtype})")
    note(f"next: edgelora export peft {adapter} --over {out} --out FOLDER")
