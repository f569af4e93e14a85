"""One model or two, asked of single tokens (METHODS S1.6)."""

from __future__ import annotations

import numpy as np
import pytest

from galvan.errors import DataError
from galvan.statistics import identical

BASE = [np.array([2.0, 1.0, 0.5]), np.array([3.0, 0.25])]


def moved(document, token, by):
    tuned = [tokens.copy() for tokens in BASE]
    tuned[document][token] += by
    return tuned


def test_the_same_numbers_are_one_model_measured_twice():
    found = identical(BASE, moved(0, 0, 0.0), 0.0)
    assert found.status == "identical" and found.largest_difference_nats == 0 and "measured twice" in found.reason


def test_perplexities_equal_to_two_decimals_are_not_identical():
    tuned = [tokens + shift for tokens, shift in zip(BASE, (1e-3, -1.5e-3), strict=True)]  # sums cancel exactly
    assert sum(map(np.sum, tuned)) == pytest.approx(sum(map(np.sum, BASE)))
    assert identical(BASE, tuned, 1e-6).status == "different"


@pytest.mark.parametrize(("by", "status"), [(1e-4, "identical"), (5e-4, "undetermined"), (-2e-3, "different")])
def test_the_noise_floor_and_ten_times_it_are_the_borders(by, status):
    found = identical(BASE, moved(1, 1, by), 1.0001e-4)
    assert found.status == status and found.document == 1 and found.n_tokens == 5
    assert found.n_tokens_above_floor == (status != "identical")


def test_without_noise_any_difference_is_one():
    assert identical(BASE, moved(0, 2, 1e-12), 0.0).status == "different"


def test_empty_documents_do_not_shift_the_index():
    base = [np.array([]), np.array([1.0]), np.array([]), np.array([1.0, 2.0])]
    tuned = [np.array([]), np.array([1.0]), np.array([]), np.array([1.0, 2.5])]
    assert identical(base, tuned, 0.1).document == 3


@pytest.mark.parametrize(
    ("base", "tuned", "floor", "words"),
    [
        (BASE, BASE[:1], 0.0, "base has 2 documents and tuned 1"),
        (BASE, [BASE[0][:2], BASE[1]], 0.0, "Document 0 has 3 tokens in base and 2 in tuned"),
        ([], [], 0.0, "no document"),
        ([[]], [[]], 0.0, "No document has a scored token"),
        (BASE, moved(0, 0, np.nan), 0.0, "not finite"),
        (BASE, BASE, -1.0, "`noise_floor` must be 0 or a positive number"),
    ],
)
def test_tokens_that_do_not_pair_are_refused(base, tuned, floor, words):
    with pytest.raises(DataError, match=words):
        identical(base, tuned, floor)
