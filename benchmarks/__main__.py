"""Run every measurement, print the table, and put it into docs/performance.md.

python -m benchmarks [--quick] [--only training scoring job writing start scale]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from benchmarks import table
from benchmarks.parts import PARTS, run
from benchmarks.timing import Row, stolen
from benchmarks.workload import FULL, QUICK


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
    rows: list[Row] = []
    failed: list[str] = []
    for name in asked.only:
        begun = time.monotonic()
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                some, stole = apart.submit(run, name, asked.quick).result()
            rows += some
            stolen.extend(stole)
        except (Exception, SystemExit) as error:  # the other parts are still worth their minutes
            failed.append(f"{name}: {error}")
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    text = table.markdown(rows, (QUICK if asked.quick else FULL)["S"], time.monotonic() - started)
    print(text)
    if failed:
        raise SystemExit("\n".join(["These parts failed, so nothing was written:", *failed]))
    if not asked.quick and len(asked.only) == len(PARTS):
        table.write(text)


if __name__ == "__main__":
    main()
