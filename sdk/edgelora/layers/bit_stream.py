"""Codes of a few bits, packed into bytes without a gap."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TOGETHER = 8
"""Codes that fill whole bytes, whatever their width: as many bytes as a code has bits."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """One stream of bits, the first code in the high bits of the first byte.

    Args:
        codes: Of an integer dtype, (n,), each below 2^bits.
        bits: Of a code, 1 to 8.

    Returns:
        uint8 (⌈n · bits / 8⌉,), filled up with zero bits.

    >>> pack(torch.tensor([1, 2, 3, 0]), 2).tolist()
    [108]
    """
    groups = functional.pad(codes, (0, -len(codes) % TOGETHER)).view(-1, TOGETHER).long()
    words = (groups << _shifts(TOGETHER, bits, codes.device)).sum(dim=1)
    stream = (words[:, None] >> _shifts(bits, 8, codes.device)) & 255
    return stream.to(torch.uint8).view(-1)[: -(-len(codes) * bits // 8)]


def unpack(stream: Tensor, bits: int) -> Tensor:
    """Inverse of `pack`: int64, at least as many codes as were packed, those of the filling included.

    >>> unpack(torch.tensor([108], dtype=torch.uint8), 2)[:4].tolist()
    [1, 2, 3, 0]
    """
    groups = functional.pad(stream, (0, -len(stream) % bits)).view(-1, bits).long()
    words = (groups << _shifts(bits, 8, stream.device)).sum(dim=1)
    return ((words[:, None] >> _shifts(TOGETHER, bits, stream.device)) & (2**bits - 1)).view(-1)


def _shifts(count: int, width: int, device: torch.device) -> Tensor:
    """Of ``count`` numbers of ``width`` bits in one word, the first highest."""
    return width * torch.arange(count - 1, -1, -1, device=device)
