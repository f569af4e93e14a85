"""Run every measurement, print the table, and put it into docs/performance.md.

python -m benchmarks [--quick] [--only training scoring job writing start scale]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks import generate, job, scale, scoring, startup, table, training
from benchmarks.timing import Row
from benchmarks.workload import FULL, QUICK, Workload

Works = dict[str, Workload]


def _training(works: Works) -> Iterator[Row]:
    for dropout in (0.0, 0.05):
        for work in works.values():
            yield from training.measure(work, dropout)


def _scoring(works: Works) -> Iterator[Row]:
    for name in ("S", "M"):
        yield from scoring.measure(works[name])


PARTS: dict[str, Callable[[Works], Iterator[Row] | list[Row]]] = {
    "training": _training,
    "scoring": _scoring,
    "job": lambda works: job.measure(works["S"]),
    "writing": lambda works: generate.measure(works["S"]),
    "start": lambda works: startup.measure(works["S"]),
    "scale": lambda works: scale.measure(works["S"].size.documents),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="A few documents and one round: shows that it works; the figures mean little and are not written.",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="Some of the parts; not written either."
    )
    asked = parser.parse_args()
    started = time.monotonic()
    works = {scale: Workload.load(size, scale) for scale, size in (QUICK if asked.quick else FULL).items()}
    rows: list[Row] = []
    failed: list[str] = []
    for name in asked.only:
        begun = time.monotonic()
        try:
            rows += PARTS[name](works)
        except (Exception, SystemExit) as error:  # the other parts are still worth their minutes
            failed.append(f"{name}: {error}")
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    text = table.markdown(rows, works["S"], time.monotonic() - started)
    print(text)
    if failed:
        raise SystemExit("\n".join(["These parts failed, so nothing was written:", *failed]))
    if not asked.quick and len(asked.only) == len(PARTS):
        table.write(text)


if __name__ == "__main__":
    main()
