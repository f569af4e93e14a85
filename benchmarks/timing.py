"""Contestants take turns, A B A B, so that a machine that slows down slows all of them; medians and ranges, never one run."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping

Run = Callable[[], float]  # does the work once and returns its seconds, preparation left out


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


def take_turns(contestants: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every contestant; each runs once untimed first."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
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
