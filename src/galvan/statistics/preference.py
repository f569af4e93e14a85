"""What readers preferred: a win rate with both sources of chance, agreement between raters, and when one may stop.

A score is 1 where the arm asked about won, 0 where it lost, 1/2 for a tie. Prompts and raters are both random, so the variance is that
over prompts plus that over raters, less their interaction counted twice (Cameron, Gelbach & Miller 2011). The interval is Wilson's at
the number of independent answers that this variance is worth (Korn & Graubard 1998), so that it stays within 0 and 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray
from galvan.statistics.ratio import Interval, t_quantile

FEW_RATERS = 5
SAME_WITHIN = 0.1  # win rates within 0.5 -+ this count as no preference
_GRID = 1000
_BET_LIMIT = 0.75  # share of the capital that a bet may lose at most (Waudby-Smith & Ramdas 2024, c = 3/4)

Decision = Literal["preferred", "not preferred", "no clear preference", "go on"]


@dataclass(frozen=True, slots=True)
class WinRate:
    """Mean score of `n` answers. `ci95` is clustered by prompt, and by rater where there are two; `ci95_these_raters` by prompt alone.
    Both are None for fewer than two prompts."""

    value: float
    ci95: Interval | None
    ci95_these_raters: Interval | None
    n: int
    n_prompts: int
    n_raters: int


@dataclass(frozen=True, slots=True)
class Anytime:
    """A 95 % confidence sequence for the win rate after `n` answers: valid at every look. `e_value` is the evidence against one half: under
    one half it ever reaches 20 with probability at most 5 %."""

    low: float
    high: float
    e_value: float
    n: int
    decision: Decision


def win_rate(scores: npt.ArrayLike, prompts: Sequence[Hashable], raters: Sequence[Hashable]) -> WinRate | None:
    """The win rate of `scores` [n] in [0, 1], each given by a rater to a prompt; None where there is none."""
    x = _scores(scores)
    if not len(x) == len(prompts) == len(raters):
        raise DataError("statistics/shape", f"{len(x)} scores, {len(prompts)} prompts and {len(raters)} raters do not go together.")
    if not len(x):
        return None
    value = float(x.mean())
    n_prompts, n_raters = len(set(prompts)), len(set(raters))
    if n_prompts < 2:
        return WinRate(value, None, None, len(x), n_prompts, n_raters)
    by_prompt = _variance(x - value, prompts)
    these = _wilson(value, by_prompt, len(x), n_prompts)
    if n_raters < 2:
        return WinRate(value, these, these, len(x), n_prompts, n_raters)
    both = by_prompt + _variance(x - value, raters) - _variance(x - value, list(zip(prompts, raters, strict=True)))
    interval = _wilson(value, max(both, by_prompt), len(x), min(n_prompts, n_raters))
    return WinRate(value, interval, these, len(x), n_prompts, n_raters)


def krippendorff_alpha(answers: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Agreement on nominal `answers`, pairs of unit and category (Krippendorff 2011): 1 perfect, 0 chance. None where no unit has two
    answers, or all answers are the same and chance cannot be told from agreement."""
    units: dict[Hashable, Counter[Hashable]] = {}
    for unit, category in answers:
        units.setdefault(unit, Counter())[category] += 1
    paired = [counts for counts in units.values() if counts.total() > 1]
    totals: Counter[Hashable] = sum(paired, Counter())
    n = totals.total()
    observed = sum((c.total() ** 2 - sum(v * v for v in c.values())) / (c.total() - 1) for c in paired)
    expected = n * n - sum(v * v for v in totals.values())
    return 1 - (n - 1) * observed / expected if expected else None


def confidence_sequence(scores: npt.ArrayLike, level: float = 0.95) -> Anytime:
    """Betting confidence sequence for the mean of `scores` [n] in [0, 1], in the order in which they came, and what it decides.

    Hedged capital with predictable plug-in bets (Waudby-Smith & Ramdas 2024, JRSS B, theorem 3): a mean is excluded once a bettor who
    knows only earlier answers has multiplied his money by 1 / (1 - level) against it. All m of the grid in steps of 1 / 1000 are bet on.
    """
    x, alpha = _scores(scores), 1 - level
    m = np.arange(_GRID + 1) / _GRID
    if not len(x):
        return Anytime(0.0, 1.0, 1.0, 0, "go on")
    t = np.arange(1, len(x) + 1)
    means = (0.5 + x.cumsum()) / (t + 1)
    variances = (0.25 + ((x - means) ** 2).cumsum()) / (t + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log(t + 1)))[:, None]
    with np.errstate(divide="ignore"):
        up = np.log1p(np.minimum(bets, _BET_LIMIT / m) * (x[:, None] - m)).cumsum(0)
        down = np.log1p(-np.minimum(bets, _BET_LIMIT / (1 - m)) * (x[:, None] - m)).cumsum(0)
    capital = np.maximum(up, down) - math.log(2)  # half of the money on each side
    kept = m[(capital < -math.log(alpha)).all(0)]
    low, high = (float(kept[0]), float(kept[-1])) if len(kept) else (float(m[capital.max(0).argmin()]),) * 2
    low, high = max(0.0, low - 1 / _GRID), min(1.0, high + 1 / _GRID)  # the grid's own error
    half = np.logaddexp(up[-1, _GRID // 2], down[-1, _GRID // 2]) - math.log(2)
    return Anytime(low, high, float(np.exp(min(half, 700.0))), len(x), _decided(low, high))


def _decided(low: float, high: float) -> Decision:
    if low > 0.5:
        return "preferred"
    if high < 0.5:
        return "not preferred"
    return "no clear preference" if low > 0.5 - SAME_WITHIN and high < 0.5 + SAME_WITHIN else "go on"


def _scores(scores: npt.ArrayLike) -> FloatArray:
    x = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not ((x >= 0) & (x <= 1)).all():
        raise DataError("statistics/range", "A score is not between 0 and 1.")
    return x


def _variance(errors: FloatArray, clusters: Sequence[Hashable]) -> float:
    """CR1 variance of a mean whose errors are summed within clusters."""
    number = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.bincount([number[c] for c in clusters], errors, len(number))
    g = len(number)
    return float((sums**2).sum() / len(errors) ** 2 * g / (g - 1)) if g > 1 else 0.0


def _wilson(p: float, variance: float, n: int, clusters: int) -> Interval:
    """Wilson's interval at the effective number of answers: at most `n`, and `clusters` where the variance says nothing."""
    size = min(float(n), p * (1 - p) / variance) if variance > 0 else float(clusters)
    z2 = t_quantile(0.975, clusters - 1) ** 2
    middle = (p + z2 / (2 * size)) / (1 + z2 / size)
    half = math.sqrt(z2 * (p * (1 - p) / size + z2 / (4 * size**2))) / (1 + z2 / size)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
