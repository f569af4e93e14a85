"""Run the fault benchmark, print its tables and, after a full run, put them into docs/diagnosis.md.

python -m benchmarks.faults [--slice | --full] [--out DIR] [--again] [--only TEXT] [--on TEXT] [--kept] [--freeze]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # cases are forked

from benchmarks.faults import page, remedies, runner
from benchmarks.faults.cases import registered
from benchmarks.faults.slice import SLICE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--slice", action="store_true", help="Some cases on one setting each: what `make test` runs.")
    which.add_argument("--full", action="store_true", help="Every case on every setting (the default), and the page.")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/faults"), help="Where models and results are kept; goes on from there."
    )
    parser.add_argument("--again", action="store_true", help="Ask galvan again in every case; what was trained for it is kept.")
    parser.add_argument(
        "--only",
        default="",
        help="Only cases of these codes, or whose names hold one of these texts (commas between); nothing is written to docs.",
    )
    parser.add_argument(
        "--on", default="", help="Only settings of this part, or whose names hold this text; nothing is written to docs."
    )
    parser.add_argument(
        "--kept", action="store_true", help="Run no case that has not been run; count those that have, and write the page."
    )
    parser.add_argument("--freeze", action="store_true", help="Write what the words of certainty came to into galvan's assets.")
    given = parser.parse_args()
    out = given.out.resolve()
    parts = given.only.split(",")
    cases = [case for case in registered() if any(part in case.name or part == case.code for part in parts)]
    wanted = runner.jobs(cases, given.on)
    if given.slice:
        wanted = [(case, case.settings[0]) for case in cases if case.name in SLICE]
    planned = len(wanted)
    if given.kept:
        wanted = [(case, setting) for case, setting in wanted if runner.is_kept(out, case, setting)]
    runner.import_everything()
    results = list(runner.run_all(out, wanted, given.again))
    whole = not given.slice and not given.only and not given.on
    mended = remedies.measure(out, results) if whole else []
    text = page.markdown(results, mended, planned)
    print(text)
    if given.freeze:
        page.freeze(results)
    if whole:
        page.write(text)


if __name__ == "__main__":
    main()
