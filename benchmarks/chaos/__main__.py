"""Run the campaigns of faults and put their figures into docs/reliability.md.

python -m benchmarks.chaos [--seed N] [--count N | --all] [--only CAMPAIGN ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks import reliability
from benchmarks.chaos import corruption, shim, trials
from benchmarks.chaos.trials import Ground, Trial
from benchmarks.chaos.verbs import VERBS, make_ground
from benchmarks.chaos.votes import Votes

CAMPAIGNS = ("kill", "disk", "corruption", "instant")
DISK = ("ENOSPC", "EIO", "EACCES")
LONGEST_SECONDS = {"run": 4.0, "train": 2.0, "measure": 2.5}  # within which a process is killed at a random instant


def campaign(asked: argparse.Namespace, rng: random.Random, scratch: Path) -> Iterator[Trial]:
    origin = make_ground(scratch / "origin")
    if "kill" in asked.only or "disk" in asked.only:
        kinds = [*(("kill",) if "kill" in asked.only else ()), *(DISK if "disk" in asked.only else ())]
        for verb in asked.verbs:
            ground = Votes(origin, scratch) if verb == "votes" else Ground(VERBS[verb], origin, scratch)
            for path in trials.unsynced(ground.calls):
                yield Trial(verb, "power", path, ("it has its final name before it is synced",))
            yield Trial(verb, "power", "every file is synced before it gets its final name", ())
            for kind in kinds:
                for number in trials.numbers(len(ground.can(kind)), asked.count, rng):
                    yield ground.trial(kind, number)
    if "instant" in asked.only:
        for verb, longest in LONGEST_SECONDS.items():
            ground = Ground(VERBS[verb], origin, scratch)
            for _ in range(asked.instants if verb == "run" else asked.instants // 4):
                yield ground.instant(rng.uniform(0.0, longest))
    if "corruption" in asked.only:
        yield from corruption.trials(origin, scratch, asked.count, rng)


def table(done: Sequence[Trial]) -> list[str]:
    """One line a verb and kind of fault."""
    tried, lost = Counter((t.verb, t.kind) for t in done), Counter((t.verb, t.kind) for t in done if t.problems)
    names = {"kill": "SIGKILL in a write", "instant": "SIGKILL at a random instant", "ENOSPC": "disk full from a write on", "EIO": "I/O error in a call", "EACCES": "permission lost from a call on", "corruption": "a file damaged", "power": "files synced before they are renamed"}  # fmt: skip
    rows = [(verb, names[kind], n, n - lost[verb, kind]) for (verb, kind), n in tried.items()]
    return reliability.table(("command", "fault", "tried", "survived"), rows)


PARTS = {"kill": ("kill", "power"), "disk": DISK, "instant": ("instant",), "corruption": ("corruption",)}


def _write_page(asked: argparse.Namespace, done: Sequence[Trial]) -> None:
    """A part of the page for each campaign that was run."""
    for name in asked.only:
        some = [trial for trial in done if trial.kind in PARTS[name]]
        survived = sum(not trial.problems for trial in some)
        drawn = "random instants" if name == "instant" else "every one" if asked.all else f"{asked.count} of each"
        reliability.write(
            f"chaos {name}", [f"{len(some)} tried, {survived} survived ({drawn}, seed {asked.seed}).", "", *table(some)]
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=10, help="Draws the calls, instants and regions.")
    parser.add_argument("--count", type=int, default=20, help="Faults of each kind for each command, and damages of each campaign.")
    parser.add_argument("--all", action="store_true", help="Every call and every region instead of a sample: hours.")
    parser.add_argument(
        "--instants", type=int, default=140, help="Random instants at which `run` is killed; a quarter of it for its parts."
    )
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS))
    parser.add_argument("--verbs", nargs="+", choices=[*VERBS, "votes"], default=[*VERBS, "votes"])
    asked = parser.parse_args()
    if (reason := shim.missing()) is not None:
        sys.exit(f"No campaign: {reason}.")
    asked.count = None if asked.all else asked.count
    done: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="galvan-chaos-") as scratch:
        for trial in campaign(asked, random.Random(asked.seed), Path(scratch)):
            done.append(trial)
            for problem in trial.problems:
                print(f"NOT SURVIVED {trial.verb}, {trial.kind}, {trial.fault}: {problem}", flush=True)
    lines = table(done)
    survived = sum(not trial.problems for trial in done)
    last = f"{len(done)} tried, {survived} survived"
    if len(asked.verbs) == len(VERBS) + 1:
        _write_page(asked, done)
    print(*lines, last, sep="\n")
    sys.exit(survived < len(done))


if __name__ == "__main__":
    main()
