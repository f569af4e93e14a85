"""Gain on training text beside gain on held-out text, and their difference (METHODS S1.9): what was learned by heart.

The two document sets are disjoint, so their gains are independent and Welch's t applies.
"""

from __future__ import annotations

from dataclasses import dataclass

from galvan.statistics.paired import Gain
from galvan.statistics.ratio import Interval, Ratio


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, in the units of the estimates; se, df and interval are None, with the reason, where either has none."""

    value: float
    se: float | None
    df: float | None
    ci95: Interval | None
    reason: str


def difference(first: Gain | Ratio, second: Gain | Ratio) -> Difference:
    """Difference of two independent gains with Welch-Satterthwaite degrees of freedom (Welch 1947)."""
    a = first.ratio if isinstance(first, Gain) else first
    b = second.ratio if isinstance(second, Gain) else second
    value = a.value - b.value
    if a.se is None or b.se is None or a.df is None or b.df is None:
        return Difference(value, None, None, None, f"One of the two has no standard error: {a.reason or b.reason}.")
    variance = a.se**2 + b.se**2
    if variance == 0:
        return Difference(value, 0.0, None, None, "Neither set varies at all.")
    df = variance**2 / (a.se**4 / a.df + b.se**4 / b.df)
    welch = Ratio(value, variance**0.5, df, a.n_units + b.n_units, a.n_effective + b.n_effective, None)
    ci95 = welch.interval()
    assert ci95 is not None
    side = "larger than" if ci95.low > 0 else "smaller than" if ci95.high < 0 else "not distinguishable from"
    return Difference(value, welch.se, df, ci95, f"The first gain is {side} the second (95 % interval).")
