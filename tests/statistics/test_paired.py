"""The headline: verdicts, their frequencies and what is said with them (METHODS C1.5, C1.6, S1.4, S1.5)."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_paired

from galvan.errors import DataError
from galvan.rundir import to_json
from galvan.statistics import Interval, judge, judge_candidates, paired_bits, paired_gain, ratio


def gain_of(per_token, tokens, **options):
    base = 2.1 * tokens
    return paired_gain(base, base - per_token * tokens, tokens, **options)


def frequencies(rng, n, true_gain, sd=0.05, runs=10_000, margin=0.01):
    """How often each verdict falls, and how often TOST holds, for equal lengths: draws [runs, n] of per-document gains."""
    tally = dict.fromkeys(("improved", "worse", "equivalent", "inconclusive", "tost", "negligible"), 0)
    tokens = np.full(n, 230.0)
    for gains in rng.normal(true_gain, sd, (runs, n)):
        found = ratio(gains * tokens, tokens)
        ci95, ci90 = found.interval(0.95), found.interval(0.90)
        verdict = judge(ci95, ci90, margin, n, found.n_effective)
        tally[verdict.verdict] += 1
        tally["tost"] += -margin < ci90.low and ci90.high < margin
        tally["negligible"] += verdict.verdict == "improved" and "less than the margin" in verdict.reason
    return {key: count / runs for key, count in tally.items()}


# METHODS 1, "Verdict frequencies of the rule"; tolerance 0.015.
TABLE = [
    (25, 0.0, {"improved": 0.025, "worse": 0.025, "equivalent": 0.0, "inconclusive": 0.95}),
    (25, 0.02, {"improved": 0.485, "equivalent": 0.0, "inconclusive": 0.515}),
    (25, 0.05, {"improved": 0.998, "equivalent": 0.0, "inconclusive": 0.002}),
    (100, 0.0, {"improved": 0.025, "equivalent": 0.27, "inconclusive": 0.68}),
    (100, 0.02, {"improved": 0.977, "equivalent": 0.0, "inconclusive": 0.02}),
    (500, 0.0, {"improved": 0.025, "equivalent": 0.95, "inconclusive": 0.0}),
]


@pytest.mark.parametrize(("n", "true_gain", "expected"), TABLE)
def test_verdicts_fall_as_often_as_the_table_says(n, true_gain, expected):
    found = frequencies(np.random.default_rng(n + round(1000 * true_gain)), n, true_gain, runs=8_000)
    for verdict, frequency in expected.items():
        assert found[verdict] == pytest.approx(frequency, abs=0.015), verdict


def test_equivalence_errs_in_five_percent_at_the_margin_itself():
    # n = 500, so that the interval is short against the margin; where it is not, TOST is more cautious than 5 %.
    found = frequencies(np.random.default_rng(8), 500, 0.01, runs=20_000)
    assert found["tost"] == pytest.approx(0.05, abs=0.005)
    assert frequencies(np.random.default_rng(9), 100, 0.01, runs=4_000)["tost"] < 0.05


def test_equivalence_is_statsmodels_tost():
    rng = np.random.default_rng(11)
    agreed = set()
    for _ in range(60):
        base, tuned = rng.normal(3, 0.4, (2, 40)) * np.array([[1.0], [0.0]])
        tuned = base - rng.normal(0.003, 0.025, 40)
        p = ttost_paired(base, tuned, -0.01, 0.01)[0]
        found = paired_gain(base * 230, tuned * 230, np.full(40, 230))
        inside = found.ci90.low > -0.01 and found.ci90.high < 0.01
        assert inside == (p < 0.05)
        agreed.add(inside)
    assert agreed == {True, False}


def test_no_gain_is_called_improved_in_at_most_five_percent_of_a_thousand_a_a_comparisons():
    # The same model twice with noise, and arms that a coin has permuted, through the public path with sources.
    rng = np.random.default_rng(2)
    improved = worse = 0
    for k in range(1000):
        tokens = rng.integers(60, 400, 48)
        base = rng.normal(2.1, 0.3, 48) * tokens
        noise = rng.normal(0, 0.03, 48) * tokens if k % 2 else rng.choice([-1, 1], 48) * rng.gamma(2, 0.03, 48) * tokens
        verdict = paired_gain(base, base - noise, tokens, sources=["book"] * 48).verdict
        improved, worse = improved + (verdict == "improved"), worse + (verdict == "worse")
    assert scipy.stats.binomtest(improved, 1000).proportion_ci(0.95, "exact").high <= 0.05
    assert scipy.stats.binomtest(worse, 1000).proportion_ci(0.95, "exact").high <= 0.05


def test_the_percent_is_that_of_the_two_perplexities_printed():
    tokens = np.array([100, 220, 310, 90, 180])
    base, tuned = np.array([210.0, 470.0, 640.0, 200.0, 377.0]), np.array([205.0, 455.0, 633.0, 196.0, 370.0])
    found = paired_gain(base, tuned, tokens)
    assert found.base_perplexity == pytest.approx(math.exp(base.sum() / 900))
    assert found.perplexity_change_percent == pytest.approx(100 * (found.tuned_perplexity / found.base_perplexity - 1))
    assert found.perplexity_change_percent < 0 < found.nats_per_token
    low, high = found.perplexity_change_ci95
    assert low < found.perplexity_change_percent < high
    assert low == pytest.approx(100 * (math.exp(-found.ci95.high) - 1))


def test_the_smallest_margin_is_the_farther_end_of_the_90_percent_interval():
    found = gain_of(np.random.default_rng(0).normal(0, 0.05, 25), np.full(25, 230.0))
    assert found.smallest_margin == max(-found.ci90.low, found.ci90.high)
    just_enough = gain_of(np.random.default_rng(0).normal(0, 0.05, 25), np.full(25, 230.0), margin=found.smallest_margin * 1.001)
    assert just_enough.verdict == "equivalent"


def test_improved_by_less_than_the_margin_is_said():
    found = gain_of(np.random.default_rng(1).normal(0.004, 0.01, 400), np.full(400, 230.0))
    assert found.verdict == "improved"
    assert found.reason == "Improved, but by less than the margin you called meaningful (0.01 nats a token)."


@pytest.mark.parametrize("n", [1, 2, 4])
def test_below_five_documents_there_is_no_verdict(n):
    found = gain_of(np.full(n, 0.5) + np.arange(n) * 0.001, np.full(n, 230.0))
    assert found.verdict == "inconclusive"
    assert found.reason.startswith("Too few documents")
    if n == 1:
        assert found.se is None and found.ci95 is None and found.mde80_percent is None and found.documents_needed_for_margin is None


def test_documents_that_weigh_like_fewer_than_five_give_no_verdict():
    tokens = np.array([20_000.0] + [100.0] * 30)
    found = gain_of(np.full(31, 0.5) + 0.001 * np.arange(31), tokens)
    assert found.n_effective < 5 and found.verdict == "inconclusive" and "weighing like 1." in found.reason


def test_five_to_nine_documents_get_a_verdict_with_a_caution():
    for n, cautioned in ((5, True), (9, True), (10, False)):
        found = gain_of(np.full(n, 0.5) + 0.001 * np.arange(n), np.full(n, 230.0))
        assert found.verdict == "improved"
        assert any("rests on few documents" in caution for caution in found.cautions) == cautioned


def test_exactly_equal_arms_are_not_called_equivalent():
    tokens = np.full(25, 230.0)
    found = paired_gain(2 * tokens, 2 * tokens, tokens)
    assert found.verdict == "inconclusive" and "one model measured twice" in found.reason
    bits = paired_bits(2 * tokens, 2 * tokens, 4 * tokens)
    assert bits.verdict == "inconclusive" and "one model measured twice" in bits.reason
    family = judge_candidates(2 * tokens, {"dead": 2 * tokens, "alive": tokens}, tokens, np.random.default_rng(0), flips=99)
    assert [candidate.verdict for candidate in family.candidates] == ["inconclusive", "improved"]


def test_the_wider_of_documents_and_blocks_counts():
    rng = np.random.default_rng(3)
    trend = np.repeat(rng.normal(0.02, 0.05, 6), 10)
    tokens = np.full(60, 230.0)
    book = {"sources": ["book"] * 60}
    together = gain_of(trend + rng.normal(0, 0.01, 60), tokens, **book)
    alternating = gain_of(0.02 + 0.05 * (-1.0) ** np.arange(60), tokens, **book)
    assert together.unit == "block" and together.n_clusters == 8 and together.lag1_autocorrelation > 0.5
    assert any("rests on 8 runs of neighbours" in caution for caution in together.cautions)
    assert alternating.unit == "document" and alternating.lag1_autocorrelation < -0.9


def test_a_block_interval_is_never_narrower_than_that_of_documents():
    rng = np.random.default_rng(12)
    for _ in range(100):
        gains, tokens = rng.normal(0.02, 0.05, 25), rng.integers(100, 400, 25).astype(float)
        plain, blocked = gain_of(gains, tokens), gain_of(gains, tokens, sources=["book"] * 25)
        assert blocked.ci95.high - blocked.ci95.low >= plain.ci95.high - plain.ci95.low - 1e-12


def test_the_origin_s_25_snippets_print_what_they_could_not_have_seen():
    rng = np.random.default_rng(25)
    gains = rng.normal(0, 0.05, 25)
    gains += 0.004 - gains.mean()
    found = gain_of(gains, np.full(25, 230.0))
    assert found.verdict == "inconclusive"
    assert found.sensitivity.startswith("With these 25 documents a change smaller than about ")
    assert 2 < found.mde80_percent < 4
    assert found.documents_needed_for_margin.documents80 > 25
    assert found.documents_needed_for_observed.documents80 > found.documents_needed_for_margin.documents80
    assert found.documents_needed_for_nearer_end is None  # the interval holds zero


def test_of_one_source_no_fewer_than_six_documents_would_do_and_of_single_documents_five():
    """A gain so even that power asks for none at all: what is left is that six blocks, or five documents, are the fewest judged."""
    gains, tokens = 0.5 + 1e-4 * np.sin(np.arange(26) / 3), np.full(26, 230.0)
    assert gain_of(gains, tokens, sources=["book"] * 26).documents_needed_for_observed.documents80 == 6
    assert gain_of(gains, tokens).documents_needed_for_observed.documents80 == 5


@settings(deadline=None, max_examples=60)
@given(st.integers(5, 40), st.integers(0, 10**6), st.booleans())
def test_swapping_the_arms_mirrors_everything(n, seed, one_book):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(50, 500, n)
    base, tuned = rng.normal(2, 0.3, (2, n)) * tokens
    options = {"sources": ["book"] * n} if one_book else {}
    a, b = paired_gain(base, tuned, tokens, **options), paired_gain(tuned, base, tokens, **options)
    mirrored = {"improved": "worse", "worse": "improved"}
    assert b.nats_per_token == pytest.approx(-a.nats_per_token, abs=1e-12)
    assert b.ci95 == pytest.approx((-a.ci95.high, -a.ci95.low), abs=1e-9)
    assert b.verdict == mirrored.get(a.verdict, a.verdict)
    assert b.mde80_percent == pytest.approx(a.mde80_percent)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(0, 10**6))
def test_a_gain_is_plain_json_without_nan(n, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 500, n)
    base, tuned = rng.gamma(2, 1, (2, n)) * tokens
    shown = json.loads(to_json(paired_gain(base, tuned, tokens)))
    assert shown["verdict"] in {"improved", "worse", "equivalent", "inconclusive"} and shown["reason"]
    assert (shown["se"] is None) == (shown["ci95"] is None)


@pytest.mark.parametrize(
    ("base", "tuned", "tokens", "words"),
    [
        ([1, 2], [1], [10, 10], "`tuned_nll` has 1 documents where the others have 2"),
        ([1, 2], [1, 2], [10, 0], "`n_tokens` is 0 at index 1"),
        ([1, 2], [1, 2], [10, -3], "`n_tokens` is -3 at index 1"),
        ([1, float("nan")], [1, 2], [10, 10], "`base_nll` is nan at index 1"),
        ([1, 2], [float("inf"), 2], [10, 10], "`tuned_nll` is inf at index 0"),
        ([], [], [], "`base_nll` is empty"),
        ([[1, 2]], [1, 2], [10, 10], "got 2 axes"),
        (["a", "b"], [1, 2], [10, 10], "must be one number a document"),
        ([1e6, 1e6], [1e6, 1e6], [1, 1], "nats a token on average"),
    ],
)
def test_unusable_input_is_refused_in_a_sentence(base, tuned, tokens, words):
    with pytest.raises(DataError, match=words) as error:
        paired_gain(base, tuned, tokens)
    assert isinstance(error.value, ValueError) and error.value.code.startswith("statistics/")


def test_a_margin_must_be_positive():
    with pytest.raises(DataError, match="`margin` must be a positive number"):
        paired_gain([1, 2], [1, 2], [10, 10], margin=0)


def test_a_verdict_needs_its_interval_strictly_on_one_side():
    assert judge(Interval(0.0, 0.1), Interval(0.01, 0.09), 0.01, 25, 25).verdict == "inconclusive"
    assert judge(Interval(1e-9, 0.1), Interval(0.01, 0.09), 0.01, 25, 25).verdict == "improved"
    assert judge(Interval(-0.1, -1e-9), Interval(-0.09, -0.01), 0.01, 25, 25).verdict == "worse"


def test_judging_never_imports_torch():
    program = "import sys, galvan.statistics; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_one_document_is_told_in_the_singular_and_four_in_the_plural():
    said = [paired_gain([2.0] * n, [1.0] * n, [1] * n).reason for n in (1, 4)]
    assert said == [
        "Too few documents: 1 document; a verdict needs at least 5.",
        "Too few documents: 4 documents; a verdict needs at least 5.",
    ]
