"""What N adapters of one base cost by one command beside N commands: the same evaluations, in turns.

python -m benchmarks.evaluate [--adapters N] [--documents N] [--rounds N]

Base galvan/spark, adapters of random noise a tenth as large as the controls', documents of galvan/letters, settings as they come. `in one
process` calls the library N times, so that what differs is what is shared: loads, and what the base alone says. `N commands` start a process each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from galvan import models, pipeline
from galvan.data.read import read
from galvan.many import evaluate_many
from galvan.measure.arms import randomize
from galvan.models import Located
from galvan.recipe import Lora, Model
from galvan.rundir import write_rows

BASE = "galvan/spark"


def adapters(place: Path, number: int) -> list[str]:
    """Adapters that move the base a little, each in a folder of its own."""
    names = []
    with as_file(files("galvan") / "assets" / "spark") as base:
        for seed in range(number):
            model = models.add_lora(models.load_base(Located(BASE, base), Model(device="cpu")), Lora(), BASE, None, seed)
            randomize(model, seed)
            for name, weight in model.named_parameters():
                if ".lora_B." in name:
                    weight.data.mul_(0.1)
            models.save(model, place / f"adapter-{seed}")
            names.append(str(place / f"adapter-{seed}"))
    return names


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds, those of child processes included."""
    before, started = os.times(), time.perf_counter()
    work()
    after = os.times()
    return time.perf_counter() - started, sum(after[:4]) - sum(before[:4])


def command(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "galvan", *arguments], capture_output=True, check=False)
    if done.returncode not in (0, 1, 6):
        raise SystemExit(f"galvan {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}")


def contestants(names: list[str], data: Path, out: Path) -> dict[str, Callable[[], object]]:
    common = ["--data", str(data), "--offline", "--quiet"]

    def commands() -> None:
        for name in names:
            command(["evaluate", BASE, name, *common, "--out", str(out / f"alone-{Path(name).name}")])

    def apart() -> None:
        for name in names:
            pipeline.evaluate(BASE, name, data, out=out / f"apart-{Path(name).name}", offline=True)

    return {
        "one command": lambda: command(["evaluate", BASE, *names, *common, "--out", str(out / "one")]),
        "N commands": commands,
        "shared, in one process": lambda: evaluate_many(BASE, names, data, out=out / "shared", offline=True),
        "apart, in one process": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    for name, value in (("--adapters", 5), ("--documents", 40), ("--rounds", 3)):
        parser.add_argument(name, type=int, default=value)
    asked = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names, data = adapters(place, asked.adapters), place / "held-out.jsonl"
        write_rows(
            data, [{"text": row.text} for row, _ in zip(read("galvan/letters", "text"), range(asked.documents), strict=False)]
        )
        for number in range(asked.rounds):
            for name, work in contestants(names, data, place / f"round-{number}").items():
                rows.setdefault(name, []).append(spent(work))
            print(
                f"round {number + 1}: " + ", ".join(f"{n} {r[-1][0]:.0f} s" for n, r in rows.items()), file=sys.stderr, flush=True
            )
    print(f"{asked.adapters} adapters, {asked.documents} documents, median of {asked.rounds} rounds\n")
    print("| | wall-clock seconds | processor seconds |\n| --- | ---: | ---: |")
    for name, some in rows.items():
        print(f"| {name} | {statistics.median(r[0] for r in some):.0f} | {statistics.median(r[1] for r in some):.0f} |")
    for one, other in (("one command", "N commands"), ("shared, in one process", "apart, in one process")):
        shares = [statistics.median(a[n] / b[n] for a, b in zip(rows[one], rows[other], strict=True)) for n in (0, 1)]
        print(f"\n{one} costs {shares[0]:.0%} of {other} by the clock, {shares[1]:.0%} of its processor time.")


if __name__ == "__main__":
    main()
