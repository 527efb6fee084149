"""Rewrite the quickstart rows: ``python -m edgelora.micro.quickstart [--out FILE] [--seed N]``."""

import argparse
from pathlib import Path

from edgelora.micro.quickstart import FILE, SEED, write_rows

parser = argparse.ArgumentParser(
    prog="python -m edgelora.micro.quickstart", description="Write the quickstart rows."
)
parser.add_argument("--out", type=Path, default=FILE, help="default: %(default)s")
parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
arguments = parser.parse_args()
print(f"{write_rows(arguments.out, seed=arguments.seed)} rows in {arguments.out}")
