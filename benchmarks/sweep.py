"""What a sweep of nine costs beside nine runs of their own: the same nine recipes, as whole processes, in turns.

python -m benchmarks.sweep [--rounds N]
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATES, RANKS = ("1e-4", "3e-4", "1e-3"), ("8", "16", "32")
RECIPE = Path(__file__).parents[1] / "examples" / "frankenstein.yaml"


def spent(arguments: list[str], place: Path) -> tuple[float, float]:
    """Wall-clock and processor seconds of one `galvan` command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "galvan", *arguments], cwd=place, capture_output=True, check=False, env=environment
    )
    if done.returncode not in (0, 1, 6):
        raise SystemExit(f"galvan {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    rows = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            place, common = Path(folder), [str(RECIPE), "--offline", "--quiet"]
            grid = [f"--grid=training.learning_rate={','.join(RATES)}", f"--grid=training.lora.rank={','.join(RANKS)}"]
            swept = spent(["sweep", *common, *grid, "--out", "sweep"], place)
            alone = [
                spent(
                    ["run", *common, "--out", f"run-{rate}-{rank}", "--set", f"training.learning_rate={rate}",
                     "--set", f"training.lora.rank={rank}", "--set", f"training.lora.alpha={2 * int(rank)}"],
                    place,
                )
                for rate, rank in itertools.product(RATES, RANKS)
            ]  # fmt: skip
            rows.append((swept, tuple(map(sum, zip(*alone, strict=True)))))
            print(f"round {number + 1}: sweep {swept[0]:.0f} s, nine runs {rows[-1][1][0]:.0f} s", file=sys.stderr, flush=True)
    print("| | sweep of 9 | nine runs | share |\n| --- | ---: | ---: | ---: |")
    for n, name in enumerate(("wall-clock seconds", "processor seconds")):
        ours, theirs = (statistics.median(row[k][n] for row in rows) for k in (0, 1))
        print(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.0%} |")


if __name__ == "__main__":
    main()
