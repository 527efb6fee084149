"""How fast this machine multiplies matrices."""

from __future__ import annotations

import time

import torch

MEASURED_S = 0.4
"""Long enough for clocks and caches to settle, short enough to be done before each estimate."""


def product_rate(dtype: torch.dtype, device: torch.device, *, rows: int, width: int) -> float:
    """Floating-point operations per second of (rows, width) × (width, width), measured now.

    Args:
        dtype: Of both.
        device: Where.
        rows: Tokens of a micro-batch.
        width: Of the model.
    """
    x = torch.ones(rows, width, dtype=dtype, device=device)
    weight = torch.ones(width, width, dtype=dtype, device=device)
    x @ weight
    _wait(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_S:
        x @ weight
        _wait(device)
        count += 1
    return 2 * rows * width * width * count / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
