"""Gains of two document sets, and of one recipe over several seeds (METHODS S1.9; issue: seeds)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from galvan.errors import DataError
from galvan.statistics import difference, paired_gain, ratio, recipe_gain

TOKENS = np.full(50, 230.0)


def test_equal_lengths_give_welch_s_t_test():
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(0.30, 0.08, 60), rng.normal(0.10, 0.05, 25)
    found = difference(*(paired_gain(2 * np.full(g.size, 230.0), (2 - g) * 230, np.full(g.size, 230)) for g in (train, held_out)))
    reference = scipy.stats.ttest_ind(train, held_out, equal_var=False)
    interval = reference.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.df == pytest.approx(reference.df) and "larger than" in found.reason


def test_a_difference_from_one_document_is_undefined():
    found = difference(ratio(np.array([2.0]), np.array([10.0])), ratio(np.array([1.0, 2.0]), np.array([10.0, 10.0])))
    assert found.value == pytest.approx(0.05) and found.se is None and found.ci95 is None and "one unit alone" in found.reason


def seeds_world(rng, seeds, n=50, seed_sd=0.02, document_sd=0.04, noise=0.03, gain=0.05):
    gains = gain + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, document_sd, n) + rng.normal(0, noise, (seeds, n))
    return recipe_gain(2 * TOKENS[:n], [(2 - row) * TOKENS[:n] for row in gains], TOKENS[:n])


def test_the_interval_for_the_recipe_covers_and_the_one_for_an_adapter_does_not():
    rng = np.random.default_rng(1)
    recipe = adapter = 0
    for _ in range(400):
        found = seeds_world(rng, 5)
        recipe += found.ci95.low <= 0.05 <= found.ci95.high
        adapter += found.adapters[0].ci95.low <= 0.05 <= found.adapters[0].ci95.high
    assert 0.92 <= recipe / 400 <= 0.98
    assert adapter / 400 < 0.60  # it was never meant to: its truth is that adapter's own gain


def test_both_sources_of_chance_are_recovered():
    rng = np.random.default_rng(2)
    found = [seeds_world(rng, 20) for _ in range(60)]
    assert np.mean([f.sd_seeds for f in found]) == pytest.approx(0.02, rel=0.1)
    # se^2 = .02^2/20 + .04^2/50 + .03^2/1000, the last counted once.
    assert np.mean([f.se**2 for f in found]) == pytest.approx(0.02**2 / 20 + 0.04**2 / 50 + 0.03**2 / 1000, rel=0.1)
    assert all(f.se_documents <= f.se * (1 + 1e-9) and f.se_seeds <= f.se * (1 + 1e-9) for f in found)


def test_one_seed_says_nothing_about_the_recipe():
    found = seeds_world(np.random.default_rng(3), 1)
    assert found.ci95 is None and found.verdict == "inconclusive" and found.reason.startswith("One seed says nothing")
    assert found.adapters[0].ci95 is not None


def test_few_seeds_carry_a_caution():
    rng = np.random.default_rng(4)
    assert any("3 seeds are few" in caution for caution in seeds_world(rng, 3).cautions)
    assert not any("seeds are few" in caution for caution in seeds_world(rng, 5).cautions)


def test_no_seed_is_refused():
    with pytest.raises(DataError, match="holds no seed"):
        recipe_gain(TOKENS, [], TOKENS)


def test_an_interval_that_touches_zero_is_not_above_it():
    second = ratio(np.arange(8.0), np.full(8, 10.0))
    level = dataclasses.replace(second, value=0.0)
    half = difference(level, level).ci95.high
    touching = difference(dataclasses.replace(second, value=half), level)
    assert touching.ci95.low == 0.0 and "not distinguishable" in touching.reason


def test_the_recipe_s_degrees_of_freedom_are_satterthwaite_s():
    """Both parts of the variance by themselves: the documents' by statsmodels' form of n - 1, the seeds' by k - 1."""
    found = seeds_world(np.random.default_rng(5), 8, seed_sd=0.02, document_sd=0.10)
    parts = ((found.se_documents, 49), (found.se_seeds, 7))
    assert found.df == pytest.approx(found.se**4 / sum(se**4 / df for se, df in parts))
    assert found.df > 7  # the floor under it is not what was compared


def test_a_recipe_that_changes_next_to_nothing_is_equivalent():
    found = seeds_world(np.random.default_rng(6), 8, seed_sd=0.0005, document_sd=0.001, noise=0.001, gain=0.0)
    assert found.verdict == "equivalent" and -0.01 < found.ci95.low < 0 < found.ci95.high < 0.01
