"""The estimate and its standard error against independent references (METHODS C1.1 to C1.4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statistical_worlds import TRUE_GAIN, dependent_world, world

from galvan.statistics import jackknife_se, kish_size, paired_gain, ratio


def fitted(differences, tokens, **covariance):
    return sm.WLS(differences / tokens, np.ones_like(tokens), weights=tokens).fit(**covariance)


@pytest.mark.parametrize("n", [5, 25, 100])
def test_the_jackknife_is_wls_hc3_to_ten_digits(n):
    rng = np.random.default_rng(n)
    tokens = rng.integers(20, 900, n).astype(float)
    differences = rng.normal(0.02, 0.05, n) * tokens
    found = ratio(differences, tokens)
    reference = fitted(differences, tokens, cov_type="HC3")
    assert found.value == pytest.approx(reference.params[0], abs=1e-12)
    assert found.se == pytest.approx(reference.bse[0] * math.sqrt((n - 1) / n), rel=1e-10)
    # HC1 is the delta method, another number: a test that both pass would test nothing.
    delta = math.sqrt(n / (n - 1) * np.square(differences - found.value * tokens).sum()) / tokens.sum()
    assert delta == pytest.approx(fitted(differences, tokens, cov_type="HC1").bse[0], rel=1e-10)
    assert abs(delta - found.se) > 1e-6


def test_leaving_one_document_out_by_a_loop_gives_the_same_standard_error():
    rng = np.random.default_rng(7)
    tokens = rng.integers(20, 900, 17).astype(float)
    differences = rng.normal(0.02, 0.05, 17) * tokens
    left_out = np.array([np.delete(differences, i).sum() / np.delete(tokens, i).sum() for i in range(17)])
    whole = differences.sum() / tokens.sum()
    assert jackknife_se(differences, tokens) == pytest.approx(math.sqrt(16 / 17 * np.square(left_out - whole).sum()), rel=1e-10)


def test_clustered_errors_agree_with_statsmodels_where_clusters_are_equal():
    # With equal clusters, jackknife = CR1 up to small-sample factors that are both c/(c-1) here: statsmodels adds (N-1)/(N-k) = 1.
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(10), 5)
    tokens = np.full(50, 230.0)
    differences = (rng.normal(0, 0.05, 10)[labels] + rng.normal(0.02, 0.03, 50)) * tokens
    found = paired_gain(3 * tokens, 3 * tokens - differences, tokens, labels)
    reference = fitted(differences, tokens, cov_type="cluster", cov_kwds={"groups": labels})
    assert found.unit == "cluster" and found.n_clusters == 10 and found.df == pytest.approx(9)
    assert found.se == pytest.approx(reference.bse[0], rel=1e-10)


def test_equal_lengths_give_the_paired_t_test():
    rng = np.random.default_rng(1)
    tokens = np.full(25, 230.0)
    per_token = rng.normal(0.01, 0.05, 25)
    found = ratio(per_token * tokens, tokens)
    reference = scipy.stats.ttest_1samp(per_token, 0)
    interval = reference.confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.p_value() == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.df == pytest.approx(reference.df)


def test_one_token_per_document_gives_llama_cpp_s_figure():
    # llama.cpp, tools/perplexity: ln(PPL(Q)/PPL(base)) +- sqrt(v_Q + v_base - 2 cov), tokens as independent.
    rng = np.random.default_rng(2)
    base = rng.gamma(2, 1.3, 400)
    tuned = base + rng.normal(-0.03, 0.4, 400)
    n = base.size
    v_base = (np.square(base).mean() - base.mean() ** 2) / (n - 1)
    v_tuned = (np.square(tuned).mean() - tuned.mean() ** 2) / (n - 1)
    covariance = ((base * tuned).mean() - base.mean() * tuned.mean()) / (n - 1)
    found = ratio(base - tuned, np.ones(n))
    assert -found.value == pytest.approx(tuned.mean() - base.mean(), abs=1e-12)
    assert found.se == pytest.approx(math.sqrt(v_tuned + v_base - 2 * covariance), rel=1e-9)


def test_arch_s_document_bootstrap_has_the_same_standard_error():
    bootstrap = pytest.importorskip("arch.bootstrap")
    differences, tokens = (values[0] for values in world(np.random.default_rng(13), 1, 60, unequal=True))
    resampled = bootstrap.IIDBootstrap(differences, tokens, seed=np.random.default_rng(0))
    spread = resampled.apply(lambda d, t: d.sum() / t.sum(), 4000).std(ddof=1)
    assert ratio(differences, tokens).se == pytest.approx(spread, rel=0.12)  # the bootstrap's lacks n/(n-1) and is noisy


def test_three_documents_by_hand():
    # D = (2, 1, 3), T = (10, 10, 20): r = 6/40 = .15; e = (.5, -.5, 0); e/(S-T) = (1/60, -1/60, 0);
    # se = sqrt(2/3 * 2/3600) = .019245; n_eff = 1600/600 = 2.6667.
    found = ratio(np.array([2.0, 1.0, 3.0]), np.array([10.0, 10.0, 20.0]))
    assert found.value == pytest.approx(0.15)
    assert found.se == pytest.approx(0.0192450, abs=1e-7)
    assert found.n_effective == pytest.approx(8 / 3) and found.df == pytest.approx(5 / 3)


def test_one_document_has_an_estimate_but_no_error():
    found = ratio(np.array([2.0]), np.array([10.0]))
    assert found.value == pytest.approx(0.2)
    assert found.se is None and found.df is None and found.interval() is None and found.p_value() is None
    assert found.reason == "one unit alone has no spread"


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_kish_size_is_at_most_the_number_and_exactly_that_for_equal_sizes(sizes):
    array = np.array(sizes, dtype=float)
    assert kish_size(array) <= len(sizes) + 1e-9
    assert kish_size(np.full(len(sizes), 7.0)) == pytest.approx(len(sizes))


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.1, 50))
def test_the_ratio_does_not_depend_on_order_or_on_the_unit_of_length(n, seed, scale):
    rng = np.random.default_rng(seed)
    tokens, differences = rng.integers(200, 300, n).astype(float), rng.normal(0, 10, n)
    order = rng.permutation(n)
    a, b = ratio(differences, tokens), ratio(differences[order], tokens[order] * scale)
    assert a.value == pytest.approx(b.value * scale, abs=1e-9)
    assert a.se == pytest.approx(b.se * scale, rel=1e-6)
    assert a.n_effective == pytest.approx(b.n_effective)


def coverage(runs):
    found = [ratio(differences, tokens).interval() for differences, tokens in zip(*runs, strict=True)]
    assert sum(interval is None for interval in found) <= len(found) / 500  # one document outweighs all others
    return np.mean([interval.low <= TRUE_GAIN <= interval.high for interval in found if interval is not None])


@pytest.mark.parametrize("n", [10, 25, 100])
def test_intervals_cover_95_percent_for_documents_of_similar_length(n):
    assert 0.93 <= coverage(world(np.random.default_rng(n), 2000, n)) <= 0.97


@pytest.mark.parametrize("n", [10, 25, 100])
def test_intervals_cover_95_percent_for_very_unequal_skewed_documents(n):
    assert 0.925 <= coverage(world(np.random.default_rng(n), 2000, n, unequal=True, skewed=True)) <= 0.97


def test_tokens_as_independent_fail_where_documents_differ():
    # llama.cpp's unit: the same worlds, every token an observation of its own (sd 0.5 nats). METHODS: 68 to 79 %.
    differences, tokens = world(np.random.default_rng(5), 2000, 25)
    half = 1.96 * np.sqrt(0.5**2 + 0.04**2) / np.sqrt(tokens.sum(axis=1))
    covered = np.abs(differences.sum(axis=1) / tokens.sum(axis=1) - TRUE_GAIN) <= half
    assert covered.mean() < 0.85


def block_coverage(runs):
    n = runs.tokens.shape[1]
    found = [
        paired_gain(3 * tokens, 3 * tokens - differences, tokens, sources=["book"] * n).ci95
        for differences, tokens in zip(*runs, strict=True)
    ]
    return np.mean([interval.low <= TRUE_GAIN <= interval.high for interval in found])


@pytest.mark.parametrize("n", [25, 100])
def test_neighbours_break_the_naive_interval_and_blocks_mend_it(n):
    runs = dependent_world(np.random.default_rng(n), 1000, n, phi=0.4)
    assert coverage(runs) < 0.90
    assert 0.92 <= block_coverage(runs) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 25, 50, 100, 500])
@pytest.mark.parametrize("unequal", [False, True])
def test_coverage_holds_over_ten_thousand_runs(n, unequal):
    low = 0.925 if unequal else 0.93
    assert low <= coverage(world(np.random.default_rng(100 + n), 10_000, n, unequal=unequal, skewed=unequal)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "phi"), [(25, 0.4), (50, 0.4), (100, 0.4), (400, 0.4)])
def test_blocks_cover_under_dependence_over_six_thousand_runs(n, phi):
    runs = dependent_world(np.random.default_rng(200 + n), 6_000, n, phi)
    assert coverage(runs) < 0.90
    assert 0.92 <= block_coverage(runs) <= 0.97


def test_where_nothing_varies_the_p_value_is_one_for_no_change_and_nothing_for_any():
    sizes = np.full(6, 10.0)
    assert ratio(np.zeros(6), sizes).p_value() == 1.0
    assert ratio(sizes * 0.5, sizes).p_value() == 0.0
