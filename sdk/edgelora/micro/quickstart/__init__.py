"""The quickstart's fine-tuning rows: decimals put right, Fibonacci memorised, the rest rehearsed."""

from edgelora.micro.quickstart.rows import FILE, SEED, quickstart_rows, write_rows

__all__ = ["FILE", "SEED", "quickstart_rows", "write_rows"]
