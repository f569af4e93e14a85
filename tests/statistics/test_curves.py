"""What curves say, on curves whose class is known (METHODS 7, C7.1 to C7.3)."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import curve_fit

from galvan.errors import DataError
from galvan.statistics import classify_curves, extrapolate, fit_power_law
from galvan.statistics.curves import undetermined
from galvan.statistics.prechelt import generalization_loss, productivity_quotient, successive_rises, training_progress
from galvan.statistics.ratio import ratio

STEPS = np.array([0.0, 20, 40, 60, 80, 100, 120])
T = STEPS / 120
FLAT = np.zeros(7)
FALLING = -0.25 * T**0.7
SETTLING = -0.20 * (1 - np.exp(-STEPS / 10))
POWER_TO_FLOOR = np.where(STEPS > 0, 0.25 * (np.maximum(STEPS, 1) / 10) ** -2.0 - 0.25, 0.0)
U_SHAPE = -0.20 * np.minimum(1, STEPS / 40) + 0.12 * np.maximum(0, (STEPS - 40) / 80)
JUMPING = np.array([0, 0.05, 0.30, 0.10, 0.40, 0.20, 0.30])
MEMORISING = -0.6 * (1 - np.exp(-STEPS / 60))

# class: (held-out, probe), as changes from step 0 in nats a token
WORLDS = {
    "under-trained": (FALLING, 1.2 * FALLING),
    "saturated": (SETTLING, 1.2 * SETTLING),
    "saturated at a power law's floor": (POWER_TO_FLOOR, 1.2 * POWER_TO_FLOOR),
    "over-fitted": (U_SHAPE, MEMORISING),
    "not learning": (FLAT, FLAT),
    "unstable": (JUMPING, JUMPING),
}


def sums_of(rng, shape, n, noise):
    """NLL sums [P, n] and tokens [n]: levels that differ by 0.3 nats, slopes by a fifth, and noise at each checkpoint."""
    tokens = rng.integers(200, 261, n).astype(float)
    level, slope = 3 + 0.3 * rng.standard_normal(n), 1 + 0.2 * rng.standard_normal(n)
    return (level + slope * shape[:, None] + noise * rng.standard_normal((shape.size, n))) * tokens, tokens


def classified(rng, world, n, noise=0.02, **options):
    held_out, probe = WORLDS[world]
    nll, tokens = sums_of(rng, held_out, n, noise)
    probe_nll, probe_tokens = sums_of(rng, probe, max(50, n), noise)
    return classify_curves(STEPS, list(nll), tokens, list(probe_nll), probe_tokens, rng, **options)


def confusion(n, runs, seed, noise=0.02):
    rng = np.random.default_rng(seed)
    return {world: Counter(classified(rng, world, n, noise).kind for _ in range(runs)) for world in WORLDS}


def assert_right(table, runs, right, wrong):
    for world, kinds in table.items():
        truth = world.split(" at ")[0]
        misled = runs - kinds[truth] - kinds["not determined"]
        assert kinds[truth] >= right * runs, (world, kinds)
        assert misled <= wrong * runs, (world, kinds)


def test_curves_of_100_documents_get_their_class():
    assert_right(confusion(100, 12, seed=0, noise=0.015), 12, right=0.90, wrong=0.05)


def test_curves_of_25_documents_are_rarely_given_a_wrong_class():
    assert_right(confusion(25, 12, seed=1), 12, right=0.0, wrong=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "noise", "right"), [(100, 0.015, 0.90), (100, 0.03, 0.0), (25, 0.015, 0.0), (25, 0.03, 0.0)])
def test_the_confusion_matrix_holds_over_two_hundred_runs(n, noise, right):
    assert_right(confusion(n, 200, seed=n, noise=noise), 200, right=right, wrong=0.05)


def test_a_nan_or_a_gradient_spike_is_unstable():
    rng = np.random.default_rng(2)
    held_out, tokens = sums_of(rng, FALLING, 25, 0.02)
    broken = held_out.copy()
    broken[3, 4] = np.nan
    found = classify_curves(STEPS, list(broken), tokens, list(held_out), tokens, rng)
    assert found.kind == "unstable" and found.reason == "The held-out loss is not a number at step 60." and found.best is None
    norms = np.append(np.full(30, 0.8), np.nan)
    found = classify_curves(STEPS, list(held_out), tokens, list(held_out), tokens, rng, gradient_norms=norms)
    assert found.kind == "unstable" and found.reason == "The loss or its gradient is not a number at step 31."
    calm, spiky = np.full(50, 0.8), np.append(np.full(49, 0.8), 9.0)
    assert classify_curves(STEPS, list(held_out), tokens, list(held_out), tokens, rng, gradient_norms=spiky).kind == "unstable"
    assert classify_curves(STEPS, list(held_out), tokens, list(held_out), tokens, rng, gradient_norms=calm).kind == "under-trained"


def test_a_rise_above_the_start_pays_for_every_checkpoint_looked_at():
    """Nothing changes but noise, and the noisy start is in every contrast: single intervals call this unstable in more than 5 %."""
    rng = np.random.default_rng(11)
    steps = np.arange(25.0)
    worlds = [sums_of(rng, np.zeros(25), 25, 0.03) for _ in range(300)]
    naive = sum(sum(ratio(row - nll[0], tokens).interval().low > 0 for row in nll[1:]) >= 2 for nll, tokens in worlds)
    called = [classify_curves(steps, list(nll), tokens, list(nll), tokens, rng).kind for nll, tokens in worlds[:40]]
    assert naive > 0.05 * 300 and called.count("unstable") <= 0.05 * 40


def test_what_may_have_learned_nothing_is_not_called_saturated():
    """Eight training documents that vary much: a level held-out curve alone is no sign that anything was learned first."""
    rng = np.random.default_rng(12)
    for _ in range(10):
        nll, tokens = sums_of(rng, FLAT, 100, 0.001)
        probe, probe_tokens = sums_of(rng, FLAT, 8, 0.1)
        found = classify_curves(STEPS, list(nll), tokens, list(probe), probe_tokens, rng)
        assert found.kind in ("not determined", "not learning")


def test_the_best_checkpoint_is_the_turn_and_its_lead_is_paid_for():
    found = classified(np.random.default_rng(3), "over-fitted", 100)
    assert found.kind == "over-fitted" and found.best.step == 40
    assert found.best.ci95.low > 0 and found.best.gain_over_last == pytest.approx(0.12, abs=0.02)
    assert found.extrapolation.change_nats is None and "has turned" in found.extrapolation.reason


def test_the_best_of_a_flat_noisy_curve_is_rarely_called_better_than_the_last():
    rng = np.random.default_rng(4)
    claims = naive = 0
    for _ in range(60):
        found = classified(rng, "saturated", 30)
        claims += found.best.ci95.low > 0
        naive += found.best.ci95.low + 0.4 * (found.best.gain_over_last - found.best.ci95.low) > 0
    assert claims <= 0.06 * 60
    assert naive > 0.06 * 60  # an interval of 0.6 its length would claim more: the price is not idle


def test_an_under_trained_run_is_told_what_twice_the_steps_would_give():
    found = classified(np.random.default_rng(5), "under-trained", 100)
    assert found.extrapolation.until_step == 240 and found.extrapolation.change_nats < -0.03
    assert found.extrapolation.ci80.low < found.extrapolation.change_nats < found.extrapolation.ci80.high


def test_four_documents_determine_nothing():
    assert classified(np.random.default_rng(6), "under-trained", 4).kind == "not determined"


def test_a_schedule_that_ended_forbids_extrapolation():
    rates = 1e-4 * np.cos(np.pi / 2 * T) ** 2
    found = classified(np.random.default_rng(7), "under-trained", 100, learning_rates=rates)
    assert found.kind == "not determined" and "how far it would go is not known" in found.reason
    assert "learning rate had decayed" in found.extrapolation.reason and found.falling_by(0.01)


def test_too_few_points_and_an_open_floor_are_refused():
    rng = np.random.default_rng(8)
    steps = np.array([0.0, 10, 20, 40, 80])
    nll, tokens = sums_of(rng, 0.5 * np.maximum(steps, 1) ** -0.5, 50, 0.01)
    assert "too few to extrapolate" in extrapolate(steps, nll, tokens, rng).reason
    steps = np.array([10.0, 20, 40, 60, 80, 100])
    noisy, tokens = sums_of(rng, 0.02 * steps**-0.2, 25, 0.05)
    found = extrapolate(steps, noisy, tokens, rng)
    assert found.change_nats is None and re.search(r"floor open \(\d+\.?\d* nats wide, for a predicted gain of 0\.0", found.reason)
    rising, tokens = sums_of(rng, 0.1 * np.log(steps), 50, 0.001)
    assert "does not fall" in extrapolate(steps, rising, tokens, rng).reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_documents_are_too_few_in_words_and_nothing_is_computed_from_their_spread(n):
    nll, tokens = sums_of(np.random.default_rng(8), 0.8 * (STEPS + 1) ** -0.6, n, 0.01)
    found = classify_curves(STEPS, list(nll), tokens, list(nll), tokens, np.random.default_rng(0))
    assert found.kind == "not determined" and found.reason.startswith("Too few documents")
    assert found.extrapolation.change_nats is None
    assert found.extrapolation.reason == f"Too few documents to extrapolate from: {n} independent held-out; at least 5 are needed."


@pytest.mark.parametrize(("c", "a", "b"), [(2.5, 1.0, 0.3), (2.5, 1.0, 0.5), (2.0, 3.0, 1.2), (0.0, 2.0, 0.1)])
def test_the_fit_is_scipy_s(c, a, b):
    steps = np.array([10.0, 20, 40, 60, 80, 100, 120])
    rng = np.random.default_rng(9)
    weights = rng.uniform(0.5, 2, 7)
    values = c + a * steps**-b + 1e-4 * rng.standard_normal(7)
    found = fit_power_law(steps, values, weights)
    reference, _ = curve_fit(
        lambda t, c, a, b: c + a * t**-b,
        steps,
        values,
        p0=(c, a, b),
        sigma=weights**-0.5,
        bounds=([-9, 0, 0.05], [9, 99, 2]),
        xtol=1e-14,
        ftol=1e-14,
    )
    loss = [float(weights @ (values - (p[0] + p[1] * steps ** -p[2])) ** 2) for p in (found, reference)]
    assert loss[0] <= loss[1] * (1 + 1e-4)
    assert found.at(240) == pytest.approx(reference[0] + reference[1] * 240.0 ** -reference[2], abs=2e-5)


def extrapolation_coverage(runs, seed, n=100, noise=0.015):
    rng = np.random.default_rng(seed)
    steps = np.array([10.0, 20, 40, 60, 80, 100, 120])
    inside = made = 0
    for k in range(runs):
        c, a, b = ((2.5, 1.0, 0.3), (2.5, 1.0, 0.5), (2.5, 2.0, 0.8))[k % 3]
        nll, tokens = sums_of(rng, c + a * steps**-b, n, noise)
        found = extrapolate(steps, nll, tokens, rng)
        if found.ci80 is not None:
            made += 1
            inside += found.ci80.low <= a * (240**-b - 120**-b) <= found.ci80.high
    assert made > 0.9 * runs
    return inside / made


def test_the_80_percent_interval_of_an_extrapolation_covers_80_percent():
    assert 0.72 <= extrapolation_coverage(120, seed=10) <= 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("n", "noise"), [(50, 0.01), (100, 0.015), (200, 0.03)])
def test_the_80_percent_interval_covers_over_nine_hundred_runs(n, noise):
    assert 0.72 <= extrapolation_coverage(900, seed=n, n=n, noise=noise) <= 0.88


def test_prechelt_s_figures_are_those_of_earlystopping_jl():
    # The table in EarlyStopping.jl's tests (k = 2): out-of-sample loss, the last two training losses, progress, GL, PQ.
    table = [
        (10, (9.5, 9.3), 10.8, 0.0, 0.0),
        (8, (9.1, 8.9), 11.2, 0.0, 0.0),
        (9, (8.3, 8.4), 6.02, 12.5, 2.08),
        (10, (9.9, 9.5), 21.2, 25.0, 1.18),
        (11, (10.6, 10.4), 9.61, 37.5, 3.90),
        (12, (11.8, 11.7), 4.27, 50.0, 11.7),
        (12, (11.6, 11.4), 8.77, 50.0, 5.70),
        (13, (12.2, 12.1), 4.1, 62.5, 15.2),
        (14, (14.5, 14.1), 14.2, 75.0, 5.28),
        (15, (13.9, 13.7), 7.30, 87.5, 11.9),
        (16, (12.5, 12.3), 8.13, 100.0, 12.3),
        (17, (11.2, 11.0), 9.09, 112.5, 12.4),
        (16, (10.5, 10.3), 9.71, 100.0, 10.3),
    ]
    losses = [row[0] for row in table]
    for k, (_, strip, progress, gl, pq) in enumerate(table):
        assert training_progress(strip) == pytest.approx(progress, rel=0.01)
        assert generalization_loss(losses[: k + 1])[-1] == pytest.approx(gl)
        assert productivity_quotient(losses[: k + 1], strip) == pytest.approx(pq, rel=0.01)
    assert training_progress([2, 3, 6, 7]) == pytest.approx(1000 * (4.5 - 2) / 2)
    assert productivity_quotient([10, 11], [10, 10]) is None


def test_successive_rises_stop_when_earlystopping_jl_does():
    # Its tests: Patience(n) stops at update 12, 6, 5, 4, 3 for n = 5, 4, 3, 2, 1, and never for 6.
    losses = [10, 8, 9, 10, 11, 12, 12, 13, 14, 15, 16, 17, 16]
    rises = [successive_rises(losses[: k + 1]) for k in range(len(losses))]
    assert [rises.index(n) + 1 for n in (5, 4, 3, 2, 1)] == [12, 6, 5, 4, 3] and 6 not in rises


@pytest.mark.parametrize(
    ("steps", "checkpoints", "words"),
    [
        ([0, 10], 2, "must rise over at least 3 checkpoints"),
        ([0, 10, 10, 20], 4, "must rise"),
        ([0, 10, 20], 2, "`held_out_nll` has 2 checkpoints where `steps` has 3"),
    ],
)
def test_curves_that_do_not_match_their_steps_are_refused(steps, checkpoints, words):
    with pytest.raises(DataError, match=words):
        classify_curves(steps, [[1.0] * 5] * checkpoints, [1] * 5, [[1.0] * 5] * checkpoints, [1] * 5, np.random.default_rng(0))


def test_curves_that_never_move_are_not_above_their_start():
    """Every interval is [0, 0]: nothing rose, and nothing was learned."""
    tokens = np.full(30, 200.0)
    flat = [np.full(30, 600.0)] * 7
    assert classify_curves(STEPS, flat, tokens, flat, tokens, np.random.default_rng(0)).kind == "not learning"


def test_a_loss_that_ends_rising_is_not_said_to_have_changed_by_less_than_half_the_margin():
    """Held-out loss rises by 0.012 nats in the last quarter, surely; training loss stays. Half the margin is 0.005."""
    shape = np.array([0, -0.2, -0.25, -0.25, -0.25, -0.25, -0.238])
    rng = np.random.default_rng(1)
    (nll, tokens), (probe, probe_tokens) = (
        sums_of(rng, one, 200, 0.002) for one in (shape, np.array([0, -0.2, -0.3, -0.3, -0.3, -0.3, -0.3]))
    )
    found = classify_curves(STEPS, list(nll), tokens, list(probe), probe_tokens, rng)
    assert -0.02 < found.held_out_late.interval(0.90).low < -0.005 and "less than 0.005" not in found.reason


def test_falling_by_a_margin_means_by_more_than_it():
    late = ratio(np.array([1.0, 2.0, 3.0, 2.0, 2.0, 2.0]), np.full(6, 10.0))
    found = dataclasses.replace(undetermined(""), probe_late=late, held_out_late=late)
    assert found.falling_by(0.19) and not found.falling_by(late.value)


def test_an_exponent_outside_the_range_is_fitted_by_its_nearer_end():
    steps = np.array([10.0, 20, 40, 80, 160, 320])
    for true, fitted in ((0.01, 0.05), (3.0, 2.0)):
        assert float(fit_power_law(steps, 1 + 2 * steps**-true).b) == pytest.approx(fitted, rel=1e-3)


def test_the_prediction_is_for_twice_the_last_step():
    rng = np.random.default_rng(3)
    sums, tokens = sums_of(rng, 0.8 * (STEPS[1:] / 20) ** -0.6, 300, 0.001)
    found = extrapolate(STEPS[1:], sums, tokens, rng)
    law = curve_fit(lambda t, c, a, b: c + a * t**-b, STEPS[1:], sums.sum(axis=1) / tokens.sum(), (3.0, 3.0, 0.6))[0]
    assert found.until_step == 240
    assert found.floor_nats == pytest.approx(law[0], abs=0.01) and found.floor_ci80.low < law[0] < found.floor_ci80.high
    assert found.floor_ci80.high - found.floor_ci80.low < 0.1
    assert found.change_nats == pytest.approx(law[1] * (240 ** -law[2] - 120 ** -law[2]), abs=0.003)
