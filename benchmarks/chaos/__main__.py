"""Run the campaigns of faults and put their figures into docs/reliability.md.

python -m benchmarks.chaos [--seed N] [--count N] [--damages N] [--instants N] [--all] [--only CAMPAIGN ...] [--out DIR]
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
from benchmarks.chaos.verbs import VERBS, add_weak, make_ground
from benchmarks.chaos.votes import Votes

CAMPAIGNS = ("kill", "disk", "corruption", "instant")
DISK = ("ENOSPC", "EIO", "EACCES")
INSTANTS = {
    "run": 0.4,
    "votes": 0.2,
    "train": 0.1,
    "measure": 0.1,
    "sweep": 0.1,
    "improve": 0.1,
}  # of the random instants, each one's share


def campaign(asked: argparse.Namespace, rng: random.Random, scratch: Path) -> Iterator[Trial]:
    origin = make_ground(scratch / "origin")
    if "instant" in asked.only or "improve" in asked.verbs:
        add_weak(origin)
    if "kill" in asked.only or "disk" in asked.only:
        kinds = [*(("kill",) if "kill" in asked.only else ()), *(DISK if "disk" in asked.only else ())]
        for verb in asked.verbs:
            ground = _ground(verb, origin, scratch)
            if "kill" in kinds:
                late = tuple(f"{path} is not synced before it gets its final name" for path in trials.unsynced(ground.calls))
                yield Trial(verb, "power", "the files of an undisturbed run", late)
            for kind in kinds:
                chosen = set(trials.numbers(len(ground.can(kind)), asked.count, rng))
                if (verb, kind) == ("train", "kill"):
                    chosen |= set(trials.in_checkpoints(ground.can(kind)))
                for number in sorted(chosen):
                    yield ground.trial(kind, number)
    if "instant" in asked.only:
        for verb, share in INSTANTS.items():
            ground = _ground(verb, origin, scratch)
            for _ in range(round(asked.instants * share)):
                yield ground.instant(rng.random())
    if "corruption" in asked.only:
        yield from corruption.trials(origin, scratch, asked.damages, rng)


def _ground(verb: str, origin: Path, scratch: Path) -> Ground | Votes:
    return Votes(origin, scratch) if verb == "votes" else Ground(VERBS[verb], origin, scratch)


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
        drawn = {"instant": "at random instants", "corruption": f"{asked.damages} of each"}.get(name, f"{asked.count} of each")
        drawn = "every one" if asked.all and name != "instant" else drawn + ", every one in a checkpoint" * (name == "kill")
        reliability.write(
            f"chaos {name}", [f"{len(some)} tried, {survived} survived ({drawn}, seed {asked.seed}).", "", *table(some)]
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=10, help="Draws the calls, instants and regions.")
    parser.add_argument("--count", type=int, default=8, help="Faults of each kind in the writes of each command.")
    parser.add_argument("--damages", type=int, default=30, help="Damaged files of each campaign.")
    parser.add_argument("--all", action="store_true", help="Every call and every region instead of a sample: hours.")
    parser.add_argument("--instants", type=int, default=200, help="Random instants at which a command is killed, in all.")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS))
    parser.add_argument("--verbs", nargs="+", choices=[*VERBS, "votes"], default=[*VERBS, "votes"])
    asked = parser.parse_args()
    if (reason := shim.missing()) is not None:
        sys.exit(f"No campaign: {reason}.")
    if asked.all:
        asked.count = asked.damages = None
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
