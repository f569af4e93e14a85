"""The author score: 0 reads like the base, 1 like held-out text of the author (METHODS S4.4). Linear in mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from galvan.statistics.checks import FloatArray
from galvan.statistics.ratio import Interval, t_quantile

RIDGE_C = 0.01
FEWEST_SE = 5.0  # below so many standard errors of the denominator the delta method is no longer to be trusted


def fit_direction(author: FloatArray, base: FloatArray) -> FloatArray:
    """Weights [d] of an L2 logistic regression that tells points of the author [n, d] from points of the base [m, d].

    The intercept is left out: it cancels in every difference of scores.
    """
    from sklearn.linear_model import LogisticRegression

    labels = np.r_[np.ones(len(author)), np.zeros(len(base))]
    model = LogisticRegression(C=RIDGE_C, class_weight="balanced", max_iter=2000)
    return np.asarray(model.fit(np.vstack([author, base]), labels).coef_[0], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class AuthorScore:
    """G; `ci95` is None, with the `reason`, where base and held-out author cannot be told apart well enough. `noise`: as many new texts of
    the base itself would score between -noise and +noise, 19 times in 20."""

    value: float | None
    ci95: Interval | None
    method: str
    reason: str | None
    noise: float | None = None


def author_score(tuned: FloatArray, base: FloatArray, held_out: FloatArray, level: float = 0.95) -> AuthorScore:
    """(mean tuned - mean base) / (mean held-out - mean base) of scores, one a prompt or document; at least two of each.

    Delta method, or Fieller's set where the denominator is under five standard errors (Fieller 1954).
    """
    u, q, h = (float(x.mean()) for x in (tuned, base, held_out))
    v_u, v_q, v_h = (float(x.var(ddof=1)) / x.size for x in (tuned, base, held_out))
    above, below = u - q, h - q
    if below <= 0:
        return AuthorScore(None, None, "none", "held-out text of the author does not score above the base's")
    t = t_quantile(0.5 + level / 2, min(tuned.size, base.size, held_out.size) - 1)
    g, noise = above / below, t * math.sqrt(v_q * (1 + base.size / tuned.size)) / below
    if below >= FEWEST_SE * math.sqrt(v_h + v_q):
        half = t * math.sqrt(v_u + g**2 * v_h + (1 - g) ** 2 * v_q) / below
        return AuthorScore(g, Interval(g - half, g + half), "delta", None, noise)
    ci95 = fieller(above, below, v_u + v_q, v_h + v_q, v_q, t)
    return AuthorScore(
        g, ci95, "Fieller", None if ci95 else "base and author are too near each other for a bounded interval", noise
    )


def fieller(x: float, y: float, v_x: float, v_y: float, covariance: float, t: float) -> Interval | None:
    """Both ends of the set of ratios g for which x - g y is within t standard errors of 0; None where that set is unbounded."""
    a, b, c = y**2 - t**2 * v_y, x * y - t**2 * covariance, x**2 - t**2 * v_x
    if a <= 0 or b**2 < a * c:
        return None
    root = math.sqrt(b**2 - a * c)
    return Interval((b - root) / a, (b + root) / a)
