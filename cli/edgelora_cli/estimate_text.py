"""An estimate for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora.arithmetic import (
    CLASSIC_STEPS,
    SLIDES,
    bits_per_parameter,
    quantization_constant_bits,
    weights_gb,
)
from edgelora.sizes import size_text
from edgelora_cli.console import style, table

if TYPE_CHECKING:
    from edgelora.engine.estimating.estimate import Estimate
    from edgelora.engine.estimating.measure import Measured


def estimate_text(found: Estimate, measured: Measured | None) -> str:
    """Memory by part and placement, disk, hours, and the arithmetic of the talks."""
    sections = [
        f"{found.parameters:,} parameters, and {found.trainable:,} that learn; micro-batches of "
        f"{found.rows.count} × {found.rows.length} tokens ({found.assumed}), all labelled",
        _memory(found),
        *([_compared(found, measured)] if measured else []),
        _disk(found),
        _hours(found, measured),
        _arithmetic(found),
    ]
    return "\n\n".join(sections)


def measured_text(measured: Measured) -> str:
    """What a real step took, where there is no estimate to hold it to."""
    rows = [
        ["while loading", size_text(measured.loading)],
        ["a step", size_text(measured.stepping)],
        ["own, highest", size_text(measured.anonymous)],
        ["time of a step", _time(measured.step_s)],
    ]
    return table([f"measured, {measured.placement}", ""], rows)


def _memory(found: Estimate) -> str:
    on_cpu = found.device == "cpu"
    header = [f"memory, {'CPU' if on_cpu else 'GPU'}", *(each.placement.name for each in found.memory)]
    rows = [
        [part.replace("_", " "), *(size_text(each.parts[part]) for each in found.memory)]
        for part in found.memory[0].parts
    ]
    if on_cpu:
        rows.append(["runtime", *(size_text(each.runtime) for each in found.memory)])
        rows.append(["allocator", *(size_text(each.slack) for each in found.memory)])
    rows.append(["a step", *(size_text(each.stepping) for each in found.memory)])
    rows.append(["while loading", *(size_text(each.loading) for each in found.memory)])
    rows.append(["peak", *(size_text(each.peak) for each in found.memory)])
    if on_cpu:
        rows.append(["of a step, own", *(size_text(each.anonymous) for each in found.memory)])
        rows.append(["of a step, files", *(size_text(each.files) for each in found.memory)])
    text = table(header, rows)
    return "\n".join([text, *filter(None, (found.why_not_streamed, found.budget))])


def _compared(found: Estimate, measured: Measured) -> str:
    # What a budget chose has loss rows of its own.
    chosen = getattr(found.choice, "memory", None)
    memory = found.memory if chosen is None else [chosen]
    (predicted,) = [each for each in memory if each.placement.name == measured.placement]
    pairs = {
        "while loading": (predicted.loading, measured.loading),
        "a step": (predicted.stepping, measured.stepping),
        "peak": (predicted.peak, measured.peak),
    }
    if measured.anonymous:
        pairs["own, highest"] = (predicted.anonymous, measured.anonymous)
    rows = [
        [name, size_text(first), size_text(second), f"{first / second:.2f}"]
        for name, (first, second) in pairs.items()
    ]
    return table([f"measured, {measured.placement}", "predicted", "measured", "ratio"], rows)


def _disk(found: Estimate) -> str:
    disk = found.disk
    rows = [
        ["base", size_text(disk.base)],
        ["prepared base", size_text(disk.prepared_base)],
        ["checkpoints", size_text(disk.checkpoints)],
        ["adapter", size_text(disk.adapter)],
    ]
    return table(["disk", "size"], rows)


def _hours(found: Estimate, measured: Measured | None) -> str:
    steps = {duration.steps for duration in found.durations.values()} - {None}
    counts = [*sorted(int(each) for each in steps if each), *CLASSIC_STEPS]
    header = ["time", "a step", *(f"{count:,} steps" for count in counts)]
    rows = [
        [name, _time(each.step_s), *(_time(each.step_s * count) for count in counts)]
        for name, each in found.durations.items()
    ]
    if measured:
        own = [_time(measured.step_s), *(_time(measured.step_s * count) for count in counts)]
        rows.append([f"{measured.placement}, measured", *own])
    some = next(iter(found.durations.values()))
    lines = [
        table(header, rows),
        f"at {some.rate / 1e9:,.0f} GFLOP/s, the rate of bare matrix products here, now; attention, "
        "optimizer and reading are not in it",
    ]
    if read := next((each.read_bytes for each in found.durations.values() if each.read_bytes), 0):
        lines.append(
            f"streamed, a step reads at least {size_text(read)} of files that are not in the page cache"
        )
    return "\n".join(lines)


def _arithmetic(found: Estimate) -> str:
    bits = bits_per_parameter(found.parameters, found.trainable)
    rows = [
        [name, *(f"{value:.2f}" for value in (each.weight, each.adapter, each.gradient, each.optimizer)),
         f"{each.total:.2f}", f"{SLIDES[name]:g}", f"{each.total * found.parameters / 8e9:,.1f} GB"]
        for name, each in bits.items()
    ]  # fmt: skip
    header = [
        "bits per parameter",
        "weight",
        "adapter",
        "gradient",
        "optimizer",
        "sum",
        "talks say",
        "in all",
    ]
    widths = ", ".join(f"{name} {size:,.2f} GB" for name, size in weights_gb(found.parameters).items())
    constants = quantization_constant_bits(double=False), quantization_constant_bits(double=True)
    return "\n".join(
        [
            table(header, rows),
            f"{style('weights', bold=True)}: {widths}",
            f"constants of 4-bit weights: {constants[0]:g} bit each, {constants[1]:.3f} with double "
            "quantization",
        ]
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
