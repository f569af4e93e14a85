"""Energy distance between sets of texts, and how much of it a fine-tune closed (METHODS 4; Szekely & Rizzo 2013).

E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'| as U-statistics, which may come out slightly negative. For a mixture aP + (1 - a)Q the
distance to P is (1 - a)^2 E(Q, P), so that 1 - sqrt(E(U, H) / E(Q, H)) is the share a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from galvan.statistics.checks import FloatArray, IntArray
from galvan.statistics.ratio import Interval

RESAMPLES, SWAPS, RELABELLINGS = 999, 9_999, 999


def energy(between: FloatArray, within_x: FloatArray, within_y: FloatArray) -> float:
    """E(X, Y) from distances [n, m], [n, n], [m, m]; the diagonals of the last two do not count. n, m >= 2."""
    return float(2 * between.mean() - apart(within_x) - apart(within_y))


def apart(within: FloatArray) -> float:
    """Mean distance of two different members of one set, from distances [n, n], n >= 2."""
    n = len(within)
    return float((within.sum() - np.trace(within)) / (n * (n - 1)))


@dataclass(frozen=True, slots=True)
class Closed:
    """Share of the distance from base to author that the tuned model closed; `value` is None, with the `reason`, without a distance."""

    value: float | None
    ci95: Interval | None
    tuned_energy: float
    base_energy: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances of tuned (u), base (q) and held-out author (h) units, each block [rows, columns]."""

    uu: FloatArray
    qq: FloatArray
    hh: FloatArray
    uh: FloatArray
    qh: FloatArray


def gap_closed(
    d: Distances, u_prompts: IntArray, q_prompts: IntArray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Closed:
    """1 - sqrt(E(U, H) / E(Q, H)) with a percentile interval over resampled prompts, pairs of one index left out.

    `u_prompts` [n_u] and `q_prompts` [n_q] number the prompts, so that both texts of a prompt are resampled together.
    """
    to_tuned, to_base = energy(d.uh, d.uu, d.hh), energy(d.qh, d.qq, d.hh)
    if to_base <= 0:
        return Closed(
            None, None, to_tuned, to_base, "the base is no farther from the author than the author's own texts from each other"
        )
    n_prompts = 1 + int(max(u_prompts.max(), q_prompts.max()))
    drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), resamples).astype(np.float64)
    h = rng.multinomial(len(d.hh), np.full(len(d.hh), 1 / len(d.hh)), resamples).astype(np.float64)
    u, q = drawn[:, u_prompts], drawn[:, q_prompts]
    tuned = _weighted(d.uh, d.uu, d.hh, u, h)
    base = _weighted(d.qh, d.qq, d.hh, q, h)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = 1 - np.sqrt(np.maximum(tuned, 0) / base)
    values = values[np.isfinite(values)]
    value = float(1 - np.sqrt(max(to_tuned, 0.0) / to_base))
    if len(values) < 0.95 * resamples:
        return Closed(value, None, to_tuned, to_base, "base and author are too near each other for an interval")
    return Closed(value, Interval(*map(float, np.percentile(values, [2.5, 97.5]))), to_tuned, to_base, None)


def _weighted(between: FloatArray, within_x: FloatArray, within_y: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Energy of resamples whose members are counted `x` [B, n] and `y` [B, m] times; NaN where a resample holds but one member."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cross = ((x @ between) * y).sum(1) / (x.sum(1) * y.sum(1))
        return np.asarray(2 * cross - _weighted_apart(within_x, x) - _weighted_apart(within_y, y), dtype=np.float64)


def _weighted_apart(within: FloatArray, w: FloatArray) -> FloatArray:
    off = within - np.diag(np.diag(within))
    return np.asarray(((w @ off) * w).sum(1) / (np.square(w.sum(1)) - np.square(w).sum(1)), dtype=np.float64)


def two_sample_p(pooled: FloatArray, n: int, rng: np.random.Generator, relabellings: int = RELABELLINGS) -> float:
    """p of the energy distance between the first `n` of `pooled` distances [N, N] and the others, by labels dealt at random.

    Exact where both sets are of one kind (Szekely & Rizzo 2004); `n` and N - n >= 2.
    """
    labels = np.zeros((1 + relabellings, len(pooled)))
    labels[:, :n] = 1.0
    labels[1:] = rng.permuted(labels[1:], axis=1)
    found = _weighted(pooled, pooled, pooled, labels, 1 - labels)
    return float((found >= found[0] - 1e-9 * abs(found[0])).mean())


def energy_contributions(q_to_h: FloatArray, u_to_h: FloatArray, qq: FloatArray, uu: FloatArray, qu: FloatArray) -> FloatArray:
    """What each of n pairs adds to E(Q, H) - E(U, H), [n]: swapping the labels of pair i turns the sign of its share.

    `q_to_h`, `u_to_h` [n] are mean distances to the reference, the others [n, n]. A swap of some pairs changes the within terms
    pair by pair, and each pair (i, j) splits into one part that follows i and one that follows j, so that the statistic is linear
    in the signs: 9,999 swaps are one matrix product.
    """
    n = len(q_to_h)
    within = (qq - uu) + (qu - qu.T)
    np.fill_diagonal(within, 0.0)
    return np.asarray(2 / n * (q_to_h - u_to_h) - within.sum(1) / (n * (n - 1)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Swapped:
    """One-sided p-values of a sum over pairs, by exchanging the labels within pairs."""

    statistic: float
    p_larger: float
    p_smaller: float


def swap_test(contributions: FloatArray, signs: FloatArray) -> Swapped:
    """p of the sum of `contributions` [n] among its values under `signs` [B, n] of +-1; exact under exchangeability within pairs."""
    observed = float(contributions.sum())
    turned = signs @ contributions
    slack = 1e-12 * float(np.abs(contributions).sum())
    larger, smaller = int((turned >= observed - slack).sum()), int((turned <= observed + slack).sum())
    return Swapped(observed, (1 + larger) / (1 + len(signs)), (1 + smaller) / (1 + len(signs)))


def random_signs(n: int, rng: np.random.Generator, swaps: int = SWAPS) -> FloatArray:
    """Signs [swaps, n] for `swap_test`."""
    return np.asarray(2.0 * rng.integers(0, 2, (swaps, n)) - 1, dtype=np.float64)
