"""What is known by heart, judged from rows: extraction, its intervals, and membership."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from galvan.copying.memorising import auc, clopper_pearson, expected_extraction, extraction, membership
from galvan.statistics.compare_sets import Difference
from galvan.statistics.ratio import Interval

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (20, 20), (3, 100), (50, 100)])
def test_the_interval_of_a_share_is_scipys_exact_one(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high))


def test_the_expected_extraction_is_the_chance_of_one_in_a_hundred_tries() -> None:
    p = np.array([0.5, 0.01, 1e-9])
    assert expected_extraction(np.log(p).tolist()) == pytest.approx(1 - (1 - p) ** 100, rel=1e-6)
    assert expected_extraction([0.0, -1e4]).tolist() == [1.0, 0.0]


def test_extraction_counts_by_arm_and_split() -> None:
    rows = [
        {
            "arm": arm,
            "split": "train",
            "document": str(i),
            "greedy_match": arm == "tuned" and i < 4,
            "suffix_logprob_nats": math.log(0.01),
        }
        for arm in ("base", "tuned")
        for i in range(10)
    ]
    base, tuned = extraction(rows, RNG)
    assert (base.greedy, tuned.greedy, tuned.greedy_rate, tuned.n) == (0, 4, 0.4, 10)
    assert base.expected_rate == pytest.approx(1 - 0.99**100)


def test_the_auc_is_sklearns_with_ties_too() -> None:
    a, b = RNG.integers(0, 6, 40).astype(float), RNG.integers(1, 7, 60).astype(float)
    assert auc(a, b) == pytest.approx(roc_auc_score([1] * 40 + [0] * 60, [*a, *b]))


def test_training_text_that_gained_far_more_is_memorised_and_text_that_gained_alike_is_not() -> None:
    gap = Difference(0.2, 0.01, 50.0, Interval(0.18, 0.22), "")
    apart = membership(RNG.normal(0.3, 0.05, 100), RNG.normal(0.1, 0.05, 48), gap, 0.01, RNG)
    alike = membership(
        RNG.normal(0.1, 0.05, 100), RNG.normal(0.1, 0.05, 48), Difference(0.0, 0.01, 50.0, Interval(-0.02, 0.02), ""), 0.01, RNG
    )
    assert (apart.memorising, alike.memorising) == (True, False)
    assert membership(np.array([0.1]), np.array([0.1, 0.2]), gap, 0.01, RNG).memorising is None


def test_the_interval_of_the_auc_covers_the_truth() -> None:
    # Two normals one apart: AUC = Phi(1 / sqrt 2) = 0.7602.
    covered = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        found = membership(rng.normal(1, 1, 60), rng.normal(0, 1, 48), None, 0.01, rng).ci95
        assert found is not None
        covered += found.low <= 0.7602 <= found.high
    assert covered >= 21
