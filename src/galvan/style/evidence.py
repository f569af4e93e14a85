"""The figures of one comparison: author score, gap closed, swap tests, and what a test of this size could have seen (METHODS S4.4, S4.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from galvan.statistics.checks import FloatArray, IntArray
from galvan.statistics.energy import (
    Closed,
    Distances,
    Swapped,
    energy_contributions,
    gap_closed,
    random_signs,
    swap_test,
)
from galvan.style.samples import Sample
from galvan.style.score import AuthorScore, author_score

FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ALPHA, POWER = 0.05, 0.80
SIMULATIONS, FEWER_SWAPS = 200, 399


@dataclass(frozen=True, slots=True)
class Tests:
    """Both swap tests: of the score, mean tuned - mean base, and of the energy distance, E(Q, H) - E(U, H). Positive is closer."""

    n_pairs: int
    score: Swapped
    energy: Swapped

    @property
    def closer(self) -> bool:
        return max(self.score.p_larger, self.energy.p_larger) <= ALPHA

    @property
    def further(self) -> bool:
        return max(self.score.p_smaller, self.energy.p_smaller) <= ALPHA


def figures(tuned: Sample, base: Sample, held_out: Sample, rng: np.random.Generator) -> tuple[AuthorScore, Closed]:
    """G and gap closed of `tuned`, with intervals."""
    number: dict[object, int] = {}
    u, q = (np.array([number.setdefault(prompt, len(number)) for prompt in some.prompts], dtype=np.int64) for some in (tuned, base))
    d = Distances(
        tuned.distances(tuned), base.distances(base), held_out.distances(held_out), tuned.distances(held_out), base.distances(held_out),
    )  # fmt: skip
    return author_score(tuned.unit_scores, base.unit_scores, held_out.unit_scores), gap_closed(d, u, q, rng)


def paired(tuned: Sample, base: Sample) -> tuple[IntArray, IntArray]:
    """Units of tuned and of base that answer one prompt, in one order."""
    place = {prompt: k for k, prompt in enumerate(tuned.prompts)}
    both = [(place[prompt], k) for k, prompt in enumerate(base.prompts) if prompt in place]
    u, q = zip(*both, strict=True) if both else ((), ())
    return np.array(u, dtype=np.int64), np.array(q, dtype=np.int64)


def tests(tuned: Sample, base: Sample, held_out: Sample, rng: np.random.Generator) -> Tests:
    """Both tests over the prompts that both sets answer; at least two of them."""
    u, q = paired(tuned, base)
    qq, uu, qu = base.distances(base), tuned.distances(tuned), base.distances(tuned)
    contributions = energy_contributions(
        base.distances(held_out).mean(1)[q],
        tuned.distances(held_out).mean(1)[u],
        qq[np.ix_(q, q)],
        uu[np.ix_(u, u)],
        qu[np.ix_(q, u)],
    )
    scores = (tuned.unit_scores[u] - base.unit_scores[q]) / len(u)
    signs = random_signs(len(u), rng)
    return Tests(len(u), swap_test(scores, signs), swap_test(contributions, signs))


def smallest_fraction(base: Sample, held_out: Sample, n_pairs: int, rng: np.random.Generator) -> float | None:
    """The smallest share of author text among base outputs that both tests would have seen 4 times in 5; None if not even 1 (METHODS S4.5).

    Simulated from these very texts: each pair is two base outputs, of which the second is, with that chance, held-out author text.
    """
    pool = Pool(base, held_out)
    signs = random_signs(n_pairs, rng, FEWER_SWAPS)
    for fraction in FRACTIONS:
        seen = sum(pool.seen(fraction, n_pairs, signs, rng) for _ in range(SIMULATIONS))
        if seen >= POWER * SIMULATIONS:
            return fraction
    return None


class Pool:
    """Base outputs and held-out texts, from which comparisons with a known answer are drawn.

    A text that is drawn twice, or that is its own reference, has distance 0 to itself, which a new text would not have: it gets the
    mean distance to the others of its set.
    """

    def __init__(self, base: Sample, held_out: Sample) -> None:
        self.n_base, self.n_author = len(base.prompts), len(held_out.prompts)
        within = [some.distances(some) for some in (base, held_out)]
        for square in within:
            n = len(square)
            np.fill_diagonal(square, (square.sum(1) - np.diag(square)) / (n - 1))
        across = base.distances(held_out)
        self.distances: FloatArray = np.block([[within[0], across], [across.T, within[1]]])
        self.to_author: FloatArray = self.distances[:, self.n_base :].mean(1)
        self.scores: FloatArray = np.r_[base.unit_scores, held_out.unit_scores]

    def seen(self, fraction: float, n: int, signs: FloatArray, rng: np.random.Generator) -> bool:
        q = rng.integers(0, self.n_base, n)
        author = self.n_base + rng.integers(0, self.n_author, n)
        u = np.where(rng.random(n) < fraction, author, rng.integers(0, self.n_base, n))
        score = swap_test(self.scores[u] - self.scores[q], signs)
        if score.p_larger > ALPHA:
            return False
        d = self.distances
        contributions = energy_contributions(
            self.to_author[q], self.to_author[u], d[np.ix_(q, q)], d[np.ix_(u, u)], d[np.ix_(q, u)]
        )
        return swap_test(contributions, signs).p_larger <= ALPHA
