"""Run every measurement, print the table, and put it into docs/performance.md.

python -m benchmarks [--quick]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks import generate, scoring, startup, table, training
from benchmarks.timing import Row
from benchmarks.workload import FULL, QUICK, Workload


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="A few documents and one round: shows that it works; the figures mean little and are not written.",
    )
    quick = parser.parse_args().quick
    started = time.monotonic()
    sizes = QUICK if quick else FULL
    works = {scale: Workload.load(size, scale) for scale, size in sizes.items()}
    work = works["S"]
    rows: list[Row] = []
    for scale in works:
        rows += training.measure(works[scale])
    rows += training.measure(work, dropout=0.05)
    for scale in ("S", "M"):
        rows += scoring.measure(works[scale])
    rows += generate.measure(work)
    rows += startup.measure(work)
    text = table.markdown(rows, work, time.monotonic() - started)
    print(text)
    if not quick:
        table.write(text)


if __name__ == "__main__":
    main()
