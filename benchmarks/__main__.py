"""Run every measurement, print the table, and put it into docs/performance.md.

python -m benchmarks [--quick]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks import scoring, startup, table, training
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
    work = Workload.load(QUICK if quick else FULL)
    rows: list[Row] = []
    for measure in (training.measure, scoring.measure, startup.measure):
        rows += measure(work)
    text = table.markdown(rows, work, time.monotonic() - started)
    print(text)
    if not quick:
        table.write(text)


if __name__ == "__main__":
    main()
