"""What a comparison could have seen, and how much text would be enough (METHODS 2).

Power at the *observed* effect is a function of the p-value and is not computed here (Hoenig & Heisey 2001). What helps is the
smallest change that would usually be seen, and the number of documents for a change that was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, ndtri

from galvan.errors import DataError
from galvan.statistics.ratio import t_quantile

MOST_SHOWN = 10_000
LARGE_DF = 1e6  # beyond it t is normal to more digits than anyone prints


def power(effect_in_se: float, df: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test at `alpha` sees an effect of so many standard errors; exact noncentral t.

    SciPy gives NaN far out in the tail; there the test has certainly seen it, and the power is 1.
    """
    critical = t_quantile(1 - alpha / 2, df)
    missed = float(nctdtr(df, abs(effect_in_se), critical))
    wrong_way = float(nctdtr(df, abs(effect_in_se), -critical))
    return 1.0 if math.isnan(missed) else 1 - missed + (0.0 if math.isnan(wrong_way) else wrong_way)


def detectable_multiple_approximate(df: float, wanted: float = 0.80, alpha: float = 0.05) -> float:
    """t(1 - alpha/2) + t(wanted): the plain version, without a solver; within 0.05 of the exact one from 5 documents on."""
    return t_quantile(1 - alpha / 2, df) + t_quantile(wanted, df)


@lru_cache(maxsize=65_536)
def detectable_multiple(df: float, wanted: float = 0.80, alpha: float = 0.05) -> float:
    """How many standard errors a change must be for power `wanted`; exact noncentral t (2.92 at df 24, 80 %)."""
    if df > LARGE_DF:
        return float(ndtri(1 - alpha / 2) + ndtri(wanted))
    high = detectable_multiple_approximate(df, wanted, alpha)
    while power(high, df, alpha) < wanted:
        high *= 1.5
    return float(brentq(lambda k: power(k, df, alpha) - wanted, 0.0, high, xtol=1e-10))


def mde_nats(se: float, df: float, wanted: float = 0.80) -> float:
    """The minimal detectable effect: the gain in nats a token that is seen with chance `wanted`."""
    return detectable_multiple(df, wanted) * se


def mde_percent(se: float, df: float, wanted: float = 0.80) -> float:
    """The same in percent of perplexity (a positive number: perplexity down by so much): 100 (1 - exp(-MDE))."""
    return -100 * math.expm1(-mde_nats(se, df, wanted))


def documents_needed(
    se: float, n: int, target_nats: float, wanted: float = 0.80, df_at: Callable[[int], float] | None = None, fewest: int = 5
) -> int:
    """How many documents would see a change of `target_nats` with chance `wanted`, from the `se` that `n` documents gave.

    ceil(n (k se / target)^2) with k at the degrees of freedom of the *answer*, iterated; `df_at` says what these are at a given
    number of documents (n - 1 where left out). Never below `fewest`, under which no verdict is given. DataError if target <= 0.
    """
    if not target_nats > 0 or not math.isfinite(target_nats):
        raise DataError("statistics/target", f"`target_nats` must be a positive number of nats a token; got {target_nats} instead.")
    at = df_at or (lambda documents: documents - 1.0)

    def required(documents: int) -> float:
        return n * (detectable_multiple(max(at(documents), 1.0), wanted) * se / target_nats) ** 2

    answer: int = max(fewest, math.ceil(n * (float(ndtri(0.975) + ndtri(wanted)) * se / target_nats) ** 2))
    for _ in range(50):
        following = max(fewest, math.ceil(required(answer) - 1e-9))
        if following <= answer:
            break
        answer = following
    while answer > fewest and answer <= 1_000_000 and required(answer - 1) <= answer - 1:
        answer -= 1
    return answer


@dataclass(frozen=True, slots=True)
class Needed:
    """Documents, and tokens at the present mean length, that would see a change of `target_nats` with 80 and 90 % chance."""

    target_nats: float
    documents80: int
    documents90: int
    tokens80: int
    tokens90: int

    def __str__(self) -> str:
        return f"{shown_count(self.documents80)} documents for an 80 % chance, {shown_count(self.documents90)} for 90 %"


def needed(
    se: float, n: int, n_tokens: float, target_nats: float, df_at: Callable[[int], float] | None = None, fewest: int = 5
) -> Needed:
    """`documents_needed` at 80 and 90 %, in documents and tokens."""
    at80, at90 = (documents_needed(se, n, target_nats, wanted, df_at, fewest) for wanted in (0.80, 0.90))
    mean = n_tokens / n
    return Needed(target_nats, at80, at90, math.ceil(at80 * mean), math.ceil(at90 * mean))


def shown_count(n: int | None) -> str:
    """A number of documents for people: `1,234`, `more than 10,000`, or `not defined` for None."""
    if n is None:
        return "not defined"
    return f"more than {MOST_SHOWN:,}" if n > MOST_SHOWN else f"{n:,}"


def sensitivity_sentence(n_documents: int, mde80_percent: float | None) -> str:
    """METHODS S2.1, in words."""
    if mde80_percent is None:
        return f"What {n_documents:,} documents could have shown is not defined: too few to estimate a spread."
    digits = 1 if mde80_percent >= 1 else 2
    change = f"a change smaller than about {mde80_percent:.{digits}f} % of perplexity"
    return f"With these {n_documents:,} documents {change} would usually go unseen."


def equivalence_power(se: float, df: float, margin: float, true_gain: float = 0.0, alpha: float = 0.05) -> float:
    """Chance that TOST shows |gain| < margin when the gain is `true_gain`; integrated over the spread of the estimated se.

    With 25 snippets this is often 0: "equivalent" was out of reach, whatever the truth (METHODS 2).
    """
    from scipy.special import chdtri, ndtr

    t = t_quantile(1 - alpha, df)
    probabilities = (np.arange(4000) + 0.5) / 4000
    estimated = se * np.sqrt(chdtri(df, 1 - probabilities) / df)
    room = margin - t * estimated
    inside = ndtr((room - true_gain) / se) - ndtr((-room - true_gain) / se)
    return float(np.where(room > 0, inside, 0.0).mean())
