"""One estimate and one standard error behind every figure: a sum over a sum, jackknifed by unit.

r = sum D_i / sum T_i is exactly the change of the perplexity that people print; a mean of per-document means is not. Leaving
one unit out gives r_(-i) - r = -e_i / (S - T_i) with e_i = D_i - r T_i, so the jackknife needs no loop. It equals CR3/HC3 up
to (n-1)/n (METHODS 1; Cochran 1977, ch. 6; Bell & McCaffrey 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from galvan.statistics.checks import FloatArray

FEWEST_EFFECTIVE = 1.5  # below it t has under half a degree of freedom and its quantiles run to thousands


class Interval(NamedTuple):
    """Both ends of a confidence interval, in the units of the estimate."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio estimate. `se`, `df` are None, with the `reason`, where the data cannot give a standard error."""

    value: float
    se: float | None
    df: float | None
    n_units: int
    n_effective: float
    reason: str | None

    def interval(self, level: float = 0.95) -> Interval | None:
        """value -+ t(df) se, or None where se is undefined."""
        if self.se is None or self.df is None:
            return None
        half = t_quantile(0.5 + level / 2, self.df) * self.se
        return Interval(self.value - half, self.value + half)

    def p_value(self) -> float | None:
        """Two-sided p of "the ratio is 0" by t(df), or None where se is undefined."""
        if self.se is None or self.df is None:
            return None
        if self.se == 0:
            return 0.0 if self.value else 1.0
        return float(2 * stdtr(self.df, -abs(self.value) / self.se))


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t at real-valued `df`."""
    return float(stdtrit(df, probability))


def kish_size(sizes: FloatArray) -> float:
    """How many equal units weigh as much as these: S^2 / sum T_i^2 (Kish 1965). Sizes [n], positive."""
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def jackknife_se(sums: FloatArray, sizes: FloatArray) -> FloatArray:
    """Jackknife standard errors of sums.sum(-1) / sizes.sum(), sums [..., n] and sizes [n], n >= 2; shape [...]."""
    n, total = sizes.size, sizes.sum()
    residual = sums - (sums.sum(axis=-1) / total)[..., None] * sizes
    return np.asarray(np.sqrt((n - 1) / n * np.square(residual / (total - sizes)).sum(axis=-1)), dtype=np.float64)


def ratio(sums: FloatArray, sizes: FloatArray) -> Ratio:
    """sum(sums) / sum(sizes) over units [n], with jackknife se and n_eff - 1 degrees of freedom (METHODS S1.2)."""
    n, n_effective = sizes.size, kish_size(sizes)
    value = float(sums.sum() / sizes.sum())
    if n < 2:
        return Ratio(value, None, None, n, n_effective, "one unit alone has no spread")
    if n_effective < FEWEST_EFFECTIVE:
        return Ratio(value, None, None, n, n_effective, f"one of the {n} units outweighs all others together")
    se = float(jackknife_se(sums, sizes))
    return Ratio(value, se, n_effective - 1, n, n_effective, None)


def percent_of_perplexity(gain_nats: float) -> float:
    """Change of perplexity in percent that goes with a gain in nats a token; negative = perplexity down: 100 (exp(-gain) - 1)."""
    return 100 * math.expm1(-gain_nats)
