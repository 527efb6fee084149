"""Every installed quantizer over the layers of real models: bits, error, information, time, in one table.

Weights of published shapes (the query, key, gate and down projections of Llama-3.1-8B and of Qwen2.5-0.5B,
a phone's model) are drawn at random, in bfloat16, with a fixed seed: normal, as NormalFloat takes weights to
be, and by Student's t with 5 degrees of freedom, whose outliers are like those of trained layers. Beside them
stand the built-in base's own trained weights. Blocks are quantized one by one and k-means looks at a sample,
so the first rows of a large layer stand for all of it (``--weights 0`` takes all).

- bits a weight: 8 × all bytes that are stored / weights, scales and tables included;
- error: ‖W − Ŵ‖ / ‖W‖ (Frobenius), in float64;
- entropy: of 64 consecutive codes, the mean over a layer (IR-QLoRA's measure, at most log₂ 64), and of all
  codes of a layer together; what the width of a code is not used for is lost;
- seconds for a million weights: to quantize once, and to dequantize into a buffer, the median of several.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgelora.layers import FrozenLinear
from edgelora.layers.bit_stream import unpack
from edgelora.layers.blockwise import BlockwiseLinear
from edgelora.micro.location import path as micro_folder
from edgelora.plan.part import plan_part
from edgelora.registry import Registry
from harness import Goal, Report
from harness.shapes import LLAMA_8B, QWEN_05B, Shape

DEVIATION, DEGREES = 0.02, 5
"""Of a drawn weight's elements, and of Student's t."""
MEASURED = 64
"""Codes whose entropy is one measurement."""
WITH_AND_WITHOUT = (("nf4", "nf4-icq"), ("nf3", "nf3-icq"), ("nf2", "nf2-icq"))


def projections(shape: Shape) -> dict[str, tuple[int, int]]:
    """(out, in) of one layer of each kind."""
    config = shape.config
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    return {"q": (width, width), "k": (keys, width), "gate": (inner, width), "down": (width, inner)}


def draw(rows: int, columns: int, distribution: str, seed: int) -> Tensor:
    """A weight (rows, columns), bfloat16, of deviation `DEVIATION`."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    if distribution == "t":
        # Student's t is a normal over the root of a chi-square by its degrees of freedom.
        squares = sum(torch.randn(rows, columns, generator=generator).square() for _ in range(DEGREES))
        weight /= (squares / (DEGREES - 2)).sqrt()
    return (DEVIATION * weight).bfloat16()


def layers(most: int, seed: int) -> Iterator[tuple[str, str, Tensor]]:
    """Model, kind of projection and weight."""
    for shape, distribution, told in (
        (LLAMA_8B, "normal", "Llama-3.1-8B, normal"),
        (LLAMA_8B, "t", "Llama-3.1-8B, Student's t"),
        (QWEN_05B, "normal", "Qwen2.5-0.5B, normal"),
    ):
        for number, (kind, (rows, columns)) in enumerate(projections(shape).items()):
            kept = min(rows, most // columns) if most else rows
            yield told, kind, draw(kept, columns, distribution, seed + number)
    for name, tensor in sorted(load_file(micro_folder() / "model.safetensors").items()):
        if name.endswith("_proj.weight"):
            yield "built-in, trained", name.removesuffix(".weight"), tensor


def codes_of(layer: FrozenLinear) -> Tensor | None:
    """The codes of a layer, int64 from 0; None where they are of a form that is not known here."""
    if isinstance(layer, BlockwiseLinear):
        return torch.cat([blocks.view(-1) for blocks in layer.whole_blocks()])
    codes, codebook = (dict(layer.named_buffers()).get(name) for name in ("codes", "codebook"))
    if codes is not None and codes.dtype == torch.int8:
        return codes.view(-1).long() + 128
    if codes is not None and codebook is not None:
        bits, count = len(codebook).bit_length() - 1, layer.in_features * layer.out_features
        return unpack(codes, bits)[: count // codebook.shape[1]]
    return None


def entropy(codes: Tensor) -> float:
    """Of each row of codes (rows, n), the mean, in bits."""
    rows = torch.arange(len(codes))[:, None] * 256
    counts = torch.bincount((codes + rows).view(-1), minlength=256 * len(codes)).view(-1, 256)
    share = counts.double() / codes.shape[1]
    return float(-torch.xlogy(share, share).sum(dim=1).mean() / math.log(2))


def block_entropy(codes: Tensor) -> float:
    """Of `MEASURED` consecutive codes, the mean, in bits; some rows at a time."""
    rows = codes[: len(codes) // MEASURED * MEASURED].view(-1, MEASURED)
    parts = rows.split(1 << 14)
    return sum(entropy(part) * len(part) for part in parts) / len(rows)


def relative_error(layer: FrozenLinear, weight: Tensor) -> float:
    lost = whole = 0.0
    for rows, piece in layer.pieces(torch.float32):
        lost += float((piece.double() - weight[rows].double()).square().sum())
        whole += float(weight[rows].double().square().sum())
    return math.sqrt(lost / whole)


def measure(quantizer: Any, weight: Tensor, rounds: int) -> dict[str, float]:
    """All figures of one layer."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    start = time.perf_counter()
    layer = quantizer.quantize(linear, "layer")
    found = {"weights": weight.numel(), "quantize_s": time.perf_counter() - start}
    stored = sum(tensor.nbytes for tensor in layer.state_dict().values())
    out, taken = torch.empty(weight.shape, dtype=torch.bfloat16), []
    for _ in range(rounds):
        start = time.perf_counter()
        layer.dequantize(out=out)
        taken.append(time.perf_counter() - start)
    found |= {
        "bits": 8 * stored / weight.numel(),
        "error": relative_error(layer, weight),
        "dequantize_s": statistics.median(taken),
    }
    codes = codes_of(layer)
    if codes is not None:
        found |= {"block_entropy": block_entropy(codes), "layer_entropy": entropy(codes[None])}
    return found


def mean(runs: list[dict[str, float]], name: str) -> float | None:
    """Over the weights of the layers; None where one was not measured."""
    if not all(name in run for run in runs):
        return None
    return sum(run[name] * run["weights"] for run in runs) / sum(run["weights"] for run in runs)


def rounded(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def row(name: str, model: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """One line of the table."""
    millions = sum(run["weights"] for run in runs) / 1e6
    return {
        "quantizer": name,
        "weights of": model,
        "bits a weight": rounded(mean(runs, "bits"), 3),
        "error": f"{mean(runs, 'error'):.2%}",
        "entropy of 64 codes": rounded(mean(runs, "block_entropy"), 3),
        "of all codes": rounded(mean(runs, "layer_entropy"), 3),
        "quantize, s a million": rounded(sum(run["quantize_s"] for run in runs) / millions, 3),
        "dequantize, ms a million": rounded(1e3 * sum(run["dequantize_s"] for run in runs) / millions, 2),
    }


def goals(found: dict[str, dict[str, list[dict[str, float]]]]) -> list[Goal]:
    """That offsets bring information at each width, on every kind of weight."""
    made = []
    for plain, moved in WITH_AND_WITHOUT:
        if plain in found and moved in found:
            gains = [
                (mean(found[moved][model], "block_entropy") or 0) - (mean(runs, "block_entropy") or 0)
                for model, runs in found[plain].items()
            ]
            told = f"{min(gains):+.3f} to {max(gains):+.3f} bits"
            made.append(Goal(f"{moved}: more entropy than {plain} on all weights", told, min(gains) > 0))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quantizers", nargs="+", metavar="NAME", help="all that are installed when left out"
    )
    parser.add_argument("--weights", type=int, default=1 << 19, help="of each layer, whole rows; 0 for all")
    parser.add_argument("--rounds", type=int, default=5, help="of dequantizing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the results here as JSON too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report(
        "quantizers",
        "Quantizers: bits, error, information",
        {
            "weights of a layer": arguments.weights or "all",
            "dtype": "bfloat16 (built-in: float32)",
            "block": "64",
            "options": "each quantizer's own defaults",
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "seed": arguments.seed,
        },
    )
    registry = Registry.discover()
    names = arguments.quantizers or [each.qualified_name for each in registry.parts("quantizer")]
    parts = [registry.part("quantizer", name) for name in names]
    found: dict[str, dict[str, list[dict[str, float]]]] = {part.part.name: {} for part in parts}
    # Layers outermost: what else the machine does slows all quantizers alike.
    for model, kind, weight in layers(arguments.weights, arguments.seed):
        for part in parts:
            run = measure(plan_part(part, {}).build(), weight, arguments.rounds)
            found[part.part.name].setdefault(model, []).append(run)
            report.measured.setdefault(part.part.name, []).append({"of": model, "layer": kind, **run})
    report.rows = [row(name, model, runs) for name, models in found.items() for model, runs in models.items()]
    report.rows.sort(key=lambda each: (-float(each["bits a weight"]), each["quantizer"]))
    report.goals = goals(found)
    report.notes = [
        f"Drawn weights have a deviation of {DEVIATION}; Student's t has {DEGREES} degrees of freedom.",
        "The built-in base's linears are small: the table that each layer of a quantizer keeps weighs more.",
        "codebook replaces vectors of 4 weights, so that its entropy is that of a vector.",
    ]
    report.finish(arguments.out)


if __name__ == "__main__":
    main()
