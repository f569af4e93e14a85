"""Contestants take turns, A B A B, so that a machine that slows down slows all of them; medians and ranges, never one run."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Run = Callable[[], float]  # does the work once and returns its seconds, preparation left out

stolen: list[float] = []  # of every timed run: the share of the machine's time that its host gave to others


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant's result: median, smallest and largest of `figures`, in `unit`; `ratio` is galvan's lead over it."""

    what: str
    who: str
    unit: str
    figures: list[float]
    ratio: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


@contextmanager
def noise_of() -> Iterator[None]:
    """Note how much of the processors' time the host stole inside; nothing where the system does not say (other than Linux)."""
    before = _steal()
    yield
    if before is not None:
        total, stole = (now - then for now, then in zip(_steal() or before, before, strict=True))
        if total:
            stolen.append(stole / total)


def _steal() -> tuple[int, int] | None:
    """All ticks of all processors since the start, and the stolen ones of them."""
    try:
        ticks = [int(n) for n in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks), ticks[7]


def peak_mib() -> float:
    """Largest resident size of this process so far. Linux lets a program inherit the peak of the one that started it in `ru_maxrss`, but
    not in `VmHWM`."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def take_turns(contestants: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every contestant; each runs once untimed first."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            with noise_of():
                seconds[name].append(run())
    return seconds


def throughput(what: str, tokens: int, seconds: Mapping[str, list[float]]) -> list[Row]:
    """Rows in tokens per second. The first contestant is galvan; ratios are medians of the rounds' own ratios."""
    ours, *others = seconds
    rows = [Row(what, ours, "tokens/s", [tokens / s for s in seconds[ours]])]
    for name in others:
        ratio = statistics.median(theirs / mine for mine, theirs in zip(seconds[ours], seconds[name], strict=True))
        rows.append(Row(what, name, "tokens/s", [tokens / s for s in seconds[name]], ratio))
    return rows
