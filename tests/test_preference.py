"""Win rates, agreement and early stopping against hand-worked cases, another library and simulation."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest

from galvan.errors import DataError
from galvan.statistics.preference import confidence_sequence, krippendorff_alpha, win_rate


def test_alpha_of_a_hand_worked_case() -> None:
    # Units a: xx, b: xy, c: yy. Coincidences: xx 2, yy 2, xy and yx 1 each; n = 6, n_x = n_y = 3.
    # Observed disagreement 2 / 6, expected 2 * 3 * 3 / (6 * 5) = 0.6, so alpha = 1 - (1/3) / 0.6 = 4 / 9.
    assert krippendorff_alpha([*zip("aabbcc", "xxxyyy", strict=True)]) == pytest.approx(4 / 9)


def test_alpha_is_that_of_the_krippendorff_package_with_answers_missing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        table = rng.integers(0, 4, (rng.integers(2, 6), rng.integers(5, 30))).astype(float)
        table[rng.random(table.shape) < 0.3] = np.nan
        answers = [(unit, table[r, unit]) for r, unit in zip(*np.nonzero(~np.isnan(table)), strict=True)]
        assert krippendorff_alpha(answers) == pytest.approx(krippendorff.alpha(table, level_of_measurement="nominal"))


def test_alpha_is_not_measurable_for_one_rater_or_one_category() -> None:
    assert krippendorff_alpha([("a", "x"), ("b", "y")]) is None
    assert krippendorff_alpha([("a", "x"), ("a", "x"), ("b", "x"), ("b", "x")]) is None


def test_a_win_rate_of_independent_answers_has_wilsons_interval_by_t() -> None:
    from scipy.stats import t

    x = np.array([1.0] * 14 + [0.0] * 6)
    found = win_rate(x, range(20), ["Ada"] * 20)
    assert found is not None and found.ci95 is not None and found.ci95 == found.ci95_these_raters
    n, z2 = 19.0, t.ppf(0.975, 19) ** 2  # CR1 divides by n - 1
    middle, half = (0.7 + z2 / (2 * n)) / (1 + z2 / n), np.sqrt(z2 * (0.21 / n + z2 / (4 * n * n))) / (1 + z2 / n)
    assert found.value == pytest.approx(0.7) and found.ci95 == pytest.approx((middle - half, middle + half))


def test_the_same_answer_given_by_many_raters_is_not_more_prompts() -> None:
    one = win_rate([1, 0, 1, 1, 0, 1], range(6), ["Ada"] * 6)
    many = win_rate([1, 0, 1, 1, 0, 1] * 5, [*range(6)] * 5, [r for r in "abcde" for _ in range(6)])
    assert one is not None and many is not None and one.ci95_these_raters is not None and many.ci95_these_raters is not None
    assert many.ci95_these_raters == pytest.approx(one.ci95_these_raters, abs=0.03)


def test_wins_without_exception_do_not_give_an_interval_of_no_width() -> None:
    found = win_rate([1] * 8, range(8), ["Ada"] * 8)
    assert found is not None and found.ci95 is not None and 0.4 < found.ci95.low < 0.9 and found.ci95.high == pytest.approx(1)
    alone = win_rate([1], ["p"], ["Ada"])
    assert alone is not None and alone.ci95 is None and win_rate([], [], []) is None


def test_scores_outside_0_and_1_are_refused() -> None:
    for bad in ([1.2], [-0.1], [np.nan]):
        with pytest.raises(DataError, match="between 0 and 1"):
            confidence_sequence(bad)
    with pytest.raises(DataError, match="go together"):
        win_rate([1, 0], ["a"], ["b", "c"])


def test_the_interval_covers_the_win_rate_of_other_prompts_and_other_raters() -> None:
    """Prompts and raters both have leanings of their own; an interval by prompt alone would cover far too seldom."""
    rng = np.random.default_rng(1)
    both = prompts_alone = 0
    runs, n_prompts, n_raters = 400, 30, 8
    names = [(p, r) for p in range(n_prompts) for r in range(n_raters)]
    for _ in range(runs):
        lean = 0.5 + rng.uniform(-0.25, 0.25, n_prompts)[:, None] + rng.uniform(-0.25, 0.25, n_raters)
        found = win_rate((rng.random(lean.shape) < lean).ravel(), [p for p, _ in names], [r for _, r in names])
        assert found is not None and found.ci95 is not None and found.ci95_these_raters is not None
        both += found.ci95.low <= 0.5 <= found.ci95.high
        prompts_alone += found.ci95_these_raters.low <= 0.5 <= found.ci95_these_raters.high
    assert both / runs > 0.92 and prompts_alone / runs < 0.85


@pytest.mark.parametrize("values", [(0, 1), (0, 0.5, 1)])
def test_looking_after_every_answer_errs_in_at_most_one_run_of_twenty(values: tuple[float, ...]) -> None:
    """No preference: a look after each of 120 answers. The usual interval, looked at as often, errs several times as much."""
    rng = np.random.default_rng(2)
    runs, n = 250, 120
    decided = usual = 0
    for _ in range(runs):
        x = rng.choice(values, n)
        found = confidence_sequence(x)  # the running intersection: excluded once is excluded for good
        decided += not found.low <= 0.5 <= found.high
        t = np.arange(1, n + 1)
        mean = x.cumsum() / t
        se = np.sqrt(np.maximum((x**2).cumsum() / t - mean**2, 0) / t)
        usual += bool((np.abs(mean - 0.5) > 1.96 * se)[20:].any())
    assert decided / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5
    assert usual / runs > 0.15


def test_a_preference_is_seen_and_no_preference_is_seen_as_such() -> None:
    rng = np.random.default_rng(3)
    assert confidence_sequence(rng.random(80) < 0.8).decision == "preferred"
    assert confidence_sequence(rng.random(80) < 0.2).decision == "not preferred"
    assert confidence_sequence(np.full(60, 0.5)).decision == "no clear preference"
    few = confidence_sequence([1, 0, 1])
    assert few.decision == "go on" and few.low < 0.2 and few.high > 0.8


def test_the_confidence_sequence_excludes_exactly_what_a_bettor_alone_would_have_ruined() -> None:
    """One mean, bet on by hand without the grid."""
    rng = np.random.default_rng(4)
    x = (rng.random(60) < 0.75).astype(float)
    found = confidence_sequence(x)
    for m in (found.low + 0.02, found.high - 0.02, found.low - 0.02, found.high + 0.02):
        if not 0 < m < 1:
            continue
        up = down = 1.0
        ruined, mean, spread, total, squares = False, 0.5, 0.25, 0.0, 0.0
        for t, value in enumerate(x, 1):
            bet = np.sqrt(2 * np.log(40) / (spread * t * np.log(t + 1)))
            up *= 1 + min(bet, 0.75 / m) * (value - m)
            down *= 1 - min(bet, 0.75 / (1 - m)) * (value - m)
            ruined |= max(up, down) / 2 >= 20
            total += value
            mean = (0.5 + total) / (t + 1)
            squares += (value - mean) ** 2
            spread = (0.25 + squares) / (t + 1)
        assert ruined == (m < found.low or m > found.high), m
