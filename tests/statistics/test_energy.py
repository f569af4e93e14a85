"""Energy distance, gap closed and swap tests: against dcor, hyppo, SciPy, brute force and known answers (METHODS C4.1, C4.2, C4.4)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from galvan.statistics.energy import (
    Distances,
    apart,
    energy,
    energy_contributions,
    gap_closed,
    random_signs,
    swap_test,
    two_sample_p,
)


def between(x: np.ndarray, y: np.ndarray) -> float:
    return energy(cdist(x, y), cdist(x, x), cdist(y, y))


def distances(u: np.ndarray, q: np.ndarray, h: np.ndarray) -> Distances:
    return Distances(cdist(u, u), cdist(q, q), cdist(h, h), cdist(u, h), cdist(q, h))


@pytest.mark.slow  # importing dcor compiles for half a minute
def test_energy_equals_dcor_s_unbiased_estimate() -> None:
    dcor = pytest.importorskip("dcor")
    rng = np.random.default_rng(0)
    for n in (7, 11, 30):
        x, y = rng.normal(0, 1, (n, 4)), rng.normal(0.5, 2, (11, 4))
        assert between(x, y) == pytest.approx(dcor.energy_distance(x, y, estimation_stat="u_statistic"), abs=1e-12)


@pytest.mark.slow  # importing hyppo takes as long
def test_energy_with_the_zeros_of_its_diagonals_is_that_of_hyppo() -> None:
    """C4.1. hyppo's biased statistic is the V-statistic, in which a text counts once against itself, as (n + m)^4 / (2 n^2 m^2) times the
    root of a distance covariance: hyppo takes the root before it scales, which is undone here. Ours lacks the pairs of a text with itself."""
    ksample = pytest.importorskip("hyppo.ksample")
    rng = np.random.default_rng(1)
    for n in (7, 11, 30):
        x, y = rng.normal(0, 1, (n, 4)), rng.normal(0.5, 2, (11, 4))
        v = between(x, y) + apart(cdist(x, x)) / n + apart(cdist(y, y)) / len(y)
        scale = (n + len(y)) ** 4 / (2 * n**2 * len(y) ** 2)
        assert v == pytest.approx(ksample.Energy(bias=True).statistic(x, y) ** 2 / scale, abs=1e-12)


def test_energy_is_a_mean_over_pairs_of_different_texts() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 1, (5, 3)), rng.normal(1, 1, (7, 3))

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([np.sqrt(((a - b) ** 2).sum()) for a, b in pairs]))

    within = sum(mean(list(itertools.combinations(z, 2))) for z in (x, y))
    assert between(x, y) == pytest.approx(2 * mean(list(itertools.product(x, y))) - within, abs=1e-12)


def test_in_one_dimension_the_v_statistic_is_the_square_of_scipy_s_energy_distance() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=13), rng.exponential(size=17)
    v = 2 * abs(x[:, None] - y).mean() - abs(x[:, None] - x).mean() - abs(y[:, None] - y).mean()
    assert v == pytest.approx(scipy.stats.energy_distance(x, y) ** 2, abs=1e-14)
    n, m = len(x), len(y)
    u = energy(abs(x[:, None] - y), abs(x[:, None] - x), abs(y[:, None] - y))  # the same without the zeros on the diagonals
    assert u == pytest.approx(v - abs(x[:, None] - x).mean() / (n - 1) - abs(y[:, None] - y).mean() / (m - 1), abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_mixture_lies_at_the_square_of_what_is_missing_of_the_distance(seed: int, a: float) -> None:
    """E(aP + (1 - a)Q, P) = (1 - a)^2 E(Q, P) for distributions on points, exactly."""
    rng = np.random.default_rng(seed)
    d = cdist(points := rng.normal(size=(9, 3)), points)
    p, q = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(9))

    def apart_of(x: np.ndarray, y: np.ndarray) -> float:
        return float(2 * x @ d @ y - x @ d @ x - y @ d @ y)

    assert apart_of(a * p + (1 - a) * q, p) == pytest.approx((1 - a) ** 2 * apart_of(q, p), abs=1e-12)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_gap_closed_recovers_the_share_of_a_mixture(share: float) -> None:
    rng = np.random.default_rng(3)
    n = 600
    author, base = rng.normal(1.5, 1, (n, 3)), rng.normal(0, 1, (n, 3))
    mixed = np.where(np.arange(n)[:, None] < share * n, rng.normal(1.5, 1, (n, 3)), rng.normal(0, 1, (n, 3)))
    found = gap_closed(distances(mixed, base, author), np.arange(n), np.arange(n), rng, resamples=199)
    assert found.value == pytest.approx(share, abs=0.06)
    assert found.ci95 is not None and found.ci95.low < share < found.ci95.high


def test_a_resample_leaves_out_pairs_of_one_and_the_same_text() -> None:
    """The interval's resamples by brute force: a text that is drawn twice is no neighbour of itself."""
    rng = np.random.default_rng(5)
    u, q, h = (rng.normal(shift, 1, (6, 2)) for shift in (0.5, 0.0, 3.0))
    found = gap_closed(distances(u, q, h), np.arange(6), np.arange(6), np.random.default_rng(9), resamples=60)
    again = np.random.default_rng(9)
    drawn, author = (again.multinomial(6, np.full(6, 1 / 6), 60) for _ in range(2))

    def distinct(x: np.ndarray, chosen: list[int]) -> float:
        return float(np.mean([np.linalg.norm(x[i] - x[j]) for i, j in itertools.permutations(chosen, 2) if i != j]))

    def one(x: np.ndarray, k: int) -> float:
        i, j = np.repeat(np.arange(6), drawn[k]).tolist(), np.repeat(np.arange(6), author[k]).tolist()
        return 2 * float(cdist(x[i], h[j]).mean()) - distinct(x, i) - distinct(h, j)

    values = [1 - np.sqrt(max(one(u, k), 0) / one(q, k)) for k in range(60)]
    assert found.ci95 == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9)


def test_where_the_base_is_no_farther_than_the_author_nothing_is_closed() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(30, 2))
    found = gap_closed(distances(x, x, x + 1e-9), np.arange(30), np.arange(30), rng)
    assert found.value is None and found.ci95 is None and found.reason


def test_every_swap_of_labels_changes_the_energy_difference_as_its_signs_say() -> None:
    """All 2^6 swaps by brute force: the statistic is linear in the signs."""
    rng = np.random.default_rng(2)
    q, u, h = rng.normal(0, 1, (6, 3)), rng.normal(0.4, 1.3, (6, 3)), rng.normal(1, 1, (8, 3))
    parts = energy_contributions(cdist(q, h).mean(1), cdist(u, h).mean(1), cdist(q, q), cdist(u, u), cdist(q, u))
    for signs in itertools.product((1, -1), repeat=6):
        kept = np.array(signs)[:, None] > 0
        swapped_q, swapped_u = np.where(kept, q, u), np.where(kept, u, q)
        assert parts @ signs == pytest.approx(between(swapped_q, h) - between(swapped_u, h), abs=1e-12)


def test_a_swap_test_by_chance_is_the_exact_one() -> None:
    parts = np.array([0.5, -0.2, 0.9, 0.1, 0.7])
    every = np.array(list(itertools.product((1, -1), repeat=5)), dtype=float)
    exact = np.mean(every @ parts >= parts.sum() - 1e-12)
    found = swap_test(parts, random_signs(5, np.random.default_rng(0), 40_000))
    assert found.p_larger == pytest.approx(exact, abs=0.01)


def test_two_arms_that_wrote_the_same_texts_are_neither_closer_nor_farther() -> None:
    found = swap_test(np.zeros(30), random_signs(30, np.random.default_rng(0), 999))
    assert found.p_larger == found.p_smaller == 1.0


def swap_size(worlds: int, n: int, swaps: int, seed: int) -> tuple[float, float]:
    """How often each test calls pairs from one distribution closer at 5 %; held-out texts lie elsewhere, pairs share a topic."""
    rng = np.random.default_rng(seed)
    called = np.zeros(2)
    for _ in range(worlds):
        topic = rng.normal(0, 1, (n, 8))
        q, u, h = topic + rng.standard_t(4, (n, 8)), topic + rng.standard_t(4, (n, 8)), rng.normal(1, 1.5, (n, 8))
        signs = random_signs(n, rng, swaps)
        parts = energy_contributions(cdist(q, h).mean(1), cdist(u, h).mean(1), cdist(q, q), cdist(u, u), cdist(q, u))
        called += [swap_test(u.sum(1) - q.sum(1), signs).p_larger <= 0.05, swap_test(parts, signs).p_larger <= 0.05]
    return called[0] / worlds, called[1] / worlds


def test_the_swap_tests_keep_their_size() -> None:
    """C4.4 in 1,000 worlds: 2.5 to 7.5 % (a true 5 % falls outside once in 4,000)."""
    assert all(0.025 <= rate <= 0.075 for rate in swap_size(1000, 25, 399, 0))


@pytest.mark.slow
@pytest.mark.parametrize("n", [25, 50, 100])
def test_the_swap_tests_keep_their_size_in_many_worlds(n: int) -> None:
    assert all(0.035 <= rate <= 0.065 for rate in swap_size(4000, n, 999, n))


def test_the_mean_distance_within_a_set_does_not_count_a_text_against_itself() -> None:
    assert apart(np.array([[0.0, 2.0], [2.0, 0.0]])) == 2.0
    assert apart(np.array([[7.0, 2.0], [2.0, 7.0]])) == 2.0


def test_two_sets_of_one_kind_are_told_apart_in_one_case_of_twenty_and_two_kinds_nearly_always() -> None:
    rng = np.random.default_rng(8)

    def p(shift: float, spread: float = 1.0) -> float:
        x, y = rng.normal(0, 1, (20, 3)), rng.normal(shift, spread, (30, 3))
        return two_sample_p(cdist(z := np.vstack([x, y]), z), 20, rng, 199)

    assert 0.025 <= np.mean([p(0) <= 0.05 for _ in range(600)]) <= 0.075
    assert np.mean([p(0.8) <= 0.05 for _ in range(50)]) >= 0.9
    assert np.mean([p(0, 3.0) <= 0.05 for _ in range(50)]) >= 0.9


def test_the_p_of_two_sets_counts_every_dealing_of_the_labels() -> None:
    """Against all 210 ways to deal 4 and 6 labels; 4,999 random ones come within their own noise."""
    rng = np.random.default_rng(9)
    z = np.vstack([rng.normal(0, 1, (4, 2)), rng.normal(0.9, 1, (6, 2))])
    d = cdist(z, z)
    dealt = []
    for chosen in itertools.combinations(range(10), 4):
        rest = [i for i in range(10) if i not in chosen]
        dealt.append(energy(d[np.ix_(chosen, rest)], d[np.ix_(chosen, chosen)], d[np.ix_(rest, rest)]))
    exact = float(np.mean(np.array(dealt) >= between(z[:4], z[4:]) - 1e-9))
    assert two_sample_p(d, 4, rng, 4999) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4999))
