"""The parts of `python -m benchmarks`, each run in a process of its own, so that what one leaves in memory slows no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks import generate, job, scale, scoring, startup, training
from benchmarks.timing import Row, stolen
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


def run(name: str, quick: bool) -> tuple[list[Row], list[float]]:
    """The rows of one part, and what the host stole in it."""
    works = {scale: Workload.load(size, scale) for scale, size in (QUICK if quick else FULL).items()}
    return list(PARTS[name](works)), stolen
