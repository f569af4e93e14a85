"""Worlds with a known share of author text, for the tests of style (C4.3, C4.4)."""

from __future__ import annotations

import numpy as np
import pytest

from galvan.statistics.energy import energy_contributions, swap_test
from galvan.style.evidence import Pool
from galvan.style.score import author_score


def assert_mixtures_score_their_share(held_out: np.ndarray, base: np.ndarray, worlds: int = 400) -> None:
    """a = 0, 1/4, 1/2, 1: fifty scores of each set are drawn anew; the mean score lies within 0.05 of a, and its interval covers 90 to 98 %."""
    rng = np.random.default_rng(0)
    for a in (0.0, 0.25, 0.5, 1.0):
        found = [
            author_score(
                np.where(rng.random(50) < a, rng.choice(held_out, 50), rng.choice(base, 50)),
                rng.choice(base, 50),
                rng.choice(held_out, 50),
            )
            for _ in range(worlds)
        ]
        inside = [s.ci95 is not None and s.ci95.low <= a <= s.ci95.high for s in found]
        assert np.mean([s.value for s in found if s.value is not None]) == pytest.approx(a, abs=0.05)
        assert 0.90 <= np.mean(inside) <= 0.98


def power(pool: Pool, fraction: float, n: int, signs: np.ndarray, rng: np.random.Generator, worlds: int) -> np.ndarray:
    """How often, in percent, the score's test, the energy distance's, and both call it closer."""
    d, called = pool.distances, np.zeros(3)
    for _ in range(worlds):
        q, other, author = (
            rng.integers(0, pool.n_base, n),
            rng.integers(0, pool.n_base, n),
            pool.n_base + rng.integers(0, pool.n_author, n),
        )
        u = np.where(rng.random(n) < fraction, author, other)
        parts = energy_contributions(pool.to_author[q], pool.to_author[u], d[np.ix_(q, q)], d[np.ix_(u, u)], d[np.ix_(q, u)])
        score, distance = (swap_test(x, signs).p_larger <= 0.05 for x in (pool.scores[u] - pool.scores[q], parts))
        called += [score, distance, score and distance]
    return 100 * called / worlds
