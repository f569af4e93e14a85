"""Looks at the test documents, and what each may spend: alpha 0.05 in all, so that looking again buys no luck."""

from __future__ import annotations

from dataclasses import dataclass

from galvan.statistics.paired import Gain
from galvan.statistics.ratio import Interval

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Look:
    """The `number`-th look: gain in nats a token and its interval at `level`; `improved` where that lies above zero and the gain is not
    below the margin."""

    number: int
    level: float
    nats_per_token: float | None
    interval: Interval | None
    improved: bool
    reason: str


def matters(test: Gain | None) -> bool:
    """True if a gain is surely one, and not smaller than what was called meaningful."""
    return test is not None and test.verdict == "improved" and test.nats_per_token >= test.margin


def look(test: Gain | None, number: int, reason: str) -> Look:
    """What the `number`-th look (from 1) at the test documents says; it spends ALPHA / 2^number, and all together never more than ALPHA.

    `test` is None where base and tuned may not be compared, for the `reason`.
    """
    level = 1 - ALPHA / 2**number
    interval = None if test is None else test.ratio.interval(level)
    good = matters(test) and interval is not None and interval.low > 0
    return Look(number, level, None if test is None else test.nats_per_token, interval, good, reason)
