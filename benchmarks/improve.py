"""Failing starts, mended by the diagnosis and by remedies at random: how often is the end improved on untouched documents?

python -m benchmarks.improve --out FOLDER [--trials N] [--seeds N] [--only NAME...]

Every start is the same recipe on the bundled base and letters with one thing wrong; a start that happens to work is not counted. Both
policies have the same remedies to choose from in `galvan.improve.remedy`, the same trials, and the same documents. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from galvan import pipeline
from galvan.errors import GalvanError
from galvan.improve.driver import Budget, improve, is_improved
from galvan.improve.remedy import Policy, at_random, diagnosed
from galvan.progress import Silent
from galvan.recipe import Recipe, from_text
from galvan.rundir import read_json, write_json

SETTINGS = (
    "data.source=galvan/letters", "data.document_tokens=128", "data.maximum_documents=160", "data.split.by=random", "data.split.validation=0.2",
    "data.split.test=0.3", "data.split.leaks=remove", "model.base=galvan/spark", "model.device=cpu", "training.epochs=2", "training.batch_size=8",
    "training.learning_rate=1e-3", "training.evaluations=4", "training.probe_documents=20", "generation.documents=0", "data.clean.near_duplicates=null",
)  # fmt: skip
FAULTS: dict[str, tuple[str, ...]] = {
    "rate 2e-6": ("training.learning_rate=2e-6",),
    "rate 2e-7, long": ("training.learning_rate=2e-7", "training.epochs=4"),
    "rate 0.3": ("training.learning_rate=0.3",),
    # 30 of the 80 training texts
    "50 epochs on 30 snippets": ("data.train_share=0.375", "training.epochs=50", "training.learning_rate=3e-3"),
    "dead targets": ("training.lora.targets=[k_proj]", "training.lora.layers=[0]", "training.learning_rate=1e-4"),
    "no such layer": ("training.lora.targets=[no_such_layer]",),
    "one step": ("training.epochs=0.05", "training.learning_rate=1e-4"),
    "batch of 128": ("training.batch_size=128", "training.epochs=1", "training.learning_rate=1e-4"),
    "rate 2e-6 on dead targets": ("training.learning_rate=2e-6", "training.lora.targets=[k_proj]"),
}


def start(fault: str, seed: int) -> Recipe:
    return from_text("", "benchmark", [*SETTINGS, *FAULTS[fault], f"seed={seed}"])


def failing(asked: Recipe, folder: Path) -> bool:
    """Make the start's own run; True unless it is improved by the margin, at which `galvan improve` has nothing to do."""
    try:
        pipeline.run(asked, folder, Silent(), True)
        return not is_improved(folder)
    except GalvanError as error:
        if not (folder / "data" / "train.jsonl").is_file():
            raise
        write_json(folder / "failed.json", {"code": error.code})
        return True


def one(fault: str, seed: int, place: Path, trials: int) -> dict[str, object]:
    """A row: did the start fail, and what each policy came to; each part from its file where it was made before."""
    row: dict[str, object] = {"fault": fault, "seed": seed}
    row |= _kept(place / "start.json", lambda: {"failing": failing(start(fault, seed), place / "run")})
    if row["failing"]:
        drawn = at_random(
            1000 * list(FAULTS).index(fault) + seed
        )  # every start its own draws: the interval takes them as independent
        for name, policy in (("diagnosed", diagnosed), ("random", drawn)):
            row[name] = _kept(place / f"{name}.json", partial(_improved, place / "run", place / name, trials, policy))
    return row


def _improved(run: Path, out: Path, trials: int, policy: Policy) -> dict[str, object]:
    begun = time.process_time()
    found = improve(run, Budget(trials=trials), policy=policy, out=out, offline=True)
    return {
        "improved": found.improved, "trials": len(found.steps) - 1, "did_it": found.did_it, "reason": found.reason,
        "seconds": round(time.process_time() - begun, 1),
    }  # fmt: skip


def _kept(path: Path, make: Callable[[], dict[str, object]]) -> dict[str, object]:
    if not path.is_file():
        write_json(path, make())
    return dict(read_json(path))


def report(rows: list[dict[str, object]]) -> str:
    """Success of both policies over the starts that fail, and the difference with a 95 % bootstrap interval over starts."""
    kept = sorted((row for row in rows if row["failing"]), key=lambda row: list(FAULTS).index(str(row["fault"])))
    won = {name: np.array([row[name]["improved"] for row in kept], float) for name in ("diagnosed", "random")}  # type: ignore[index]
    lines = ["| start | diagnosed | random | what did it |", "| --- | ---: | ---: | --- |"]
    for fault, group in itertools.groupby(kept, key=lambda row: str(row["fault"])):
        some = list(group)
        ours, theirs = (sum(bool(row[name]["improved"]) for row in some) for name in ("diagnosed", "random"))  # type: ignore[index]
        said = sorted({" ".join(row["diagnosed"]["did_it"]) for row in some if row["diagnosed"]["improved"]})  # type: ignore[index]
        lines.append(f"| {fault} | {ours} of {len(some)} | {theirs} of {len(some)} | {' / '.join(said)} |")
    spent = {
        name: [np.mean([row[name][key] for row in kept]) for key in ("seconds", "trials")]  # type: ignore[index]
        for name in won
    }
    apart = won["diagnosed"] - won["random"]
    rng = np.random.default_rng(0)
    means = apart[rng.integers(apart.size, size=(10_000, apart.size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    rates = ", ".join(f"{name} {w.mean():.0%}" for name, w in won.items())
    lines += [
        "",
        f"{len(kept)} failing starts of {len(rows)}: {rates}; difference {apart.mean():+.0%} (95 % interval {low:+.0%} to {high:+.0%}, bootstrap over starts).",
        "On average "
        + ", ".join(f"{name} {s:.0f} s of processor time and {n:.1f} trials a start" for name, (s, n) in spent.items())
        + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.improve", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    asked = parser.parse_args()
    rows = []
    for seed, fault in itertools.product(range(1, asked.seeds + 1), asked.only):
        place = asked.out / fault.replace(" ", "-").replace(",", "") / str(seed)
        rows.append(one(fault, seed, place, asked.trials))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(report(rows))


if __name__ == "__main__":
    main()
