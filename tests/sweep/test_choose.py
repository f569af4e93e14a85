"""Choosing among trials: by validation alone, honest about how many there were, and never a source of false verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from galvan.recipe import Recipe
from galvan.statistics import paired_gain
from galvan.sweep.choose import choose, fanova
from galvan.sweep.losses import Losses
from galvan.sweep.space import dimensions, grid_points


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forest for every resample is what takes time."""
    monkeypatch.setattr("galvan.sweep.choose.RESAMPLES", 4)


DIMS = dimensions((), Recipe())
POINTS = {f"{n:03d}": point for n, point in enumerate(grid_points(DIMS))}


def losses(rng: np.random.Generator, gain: float, spread: float = 0.05, n: int = 40) -> tuple[np.ndarray, Losses]:
    """A trial of `gain` nats a token whose documents differ by `spread`."""
    tokens = rng.integers(150, 300, n).astype(float)
    base = 3.5 * tokens
    tuned = base - (gain + spread * rng.standard_normal(n)) * tokens
    return base, Losses(tuple(map(str, range(n))), ("book",) * n, tuple(range(n)), tokens, base, tuned, 30)


def world(rng: np.random.Generator, gains: dict[str, float], n: int = 40) -> dict[str, Losses]:
    """Trials on the same documents, their differences correlated as those of adapters are."""
    tokens = rng.integers(150, 300, n).astype(float)
    base, shared = 3.5 * tokens, rng.standard_normal(n)
    return {
        name: Losses(
            tuple(map(str, range(n))), ("book",) * n, tuple(range(n)), tokens, base,
            base - (gain + 0.05 * (0.8 * shared + 0.6 * rng.standard_normal(n))) * tokens, 30,
        )
        for name, gain in gains.items()
    }  # fmt: skip


def test_the_trial_with_the_least_validation_loss_is_chosen_whatever_its_place():
    rng = np.random.default_rng(0)
    gains = dict.fromkeys(POINTS, 0.02) | {"007": 0.3}
    chosen = choose(world(rng, gains), 0.01, 0, POINTS, DIMS)
    assert chosen.best == "007"
    assert len(chosen.family.candidates) == 15
    best = next(c for c in chosen.family.candidates if c.name == "007")
    assert best.verdict == "improved"


def test_after_a_sweep_of_15_on_null_data_few_verdicts_say_improved():
    # 200 sweeps in which nothing was learned: the best of 15 by validation, judged once on other documents of the same book.
    rng, false, chosen_by_itself = np.random.default_rng(20), 0, 0
    for _ in range(200):
        everything = world(rng, dict.fromkeys(POINTS, 0.0), n=80)
        halves = [
            {k: Losses(v.documents[s], v.sources[s], v.positions[s], v.n_tokens[s], v.base[s], v.tuned[s], 30) for k, v in everything.items()}
            for s in (slice(0, 40), slice(40, 80))
        ]  # fmt: skip
        best = min(halves[0], key=lambda name: halves[0][name].nats_per_token)
        test, choosing = halves[1][best], halves[0][best]
        false += (
            paired_gain(test.base, test.tuned, test.n_tokens, sources=test.sources, positions=test.positions).verdict == "improved"
        )
        own = paired_gain(choosing.base, choosing.tuned, choosing.n_tokens, sources=choosing.sources, positions=choosing.positions)
        chosen_by_itself += own.verdict == "improved"
    assert false <= 10  # 5 %
    assert chosen_by_itself > 10  # judging on the documents that chose would not do: the test has teeth


def test_the_option_that_mattered_has_the_larger_share_and_its_interval_says_so():
    rng = np.random.default_rng(1)
    gains = {name: 0.2 * (np.log10(p["training.learning_rate"]) + 4) for name, p in POINTS.items()}
    by = {one.option: one for one in choose(world(rng, gains), 0.01, 0, POINTS, DIMS).importance}
    rate, rank = by["training.learning_rate"], by["training.lora.rank"]
    assert rate.share is not None and rank.share is not None
    assert rate.share > 0.8 > 0.2 > rank.share
    assert rate.ci90 is not None and rank.ci90 is not None
    assert rate.ci90.low > rank.ci90.high


def test_where_all_trials_came_to_the_same_or_there_are_few_nothing_is_said_to_have_mattered():
    rng = np.random.default_rng(2)
    _, one = losses(rng, 0.1)
    same = choose(dict.fromkeys(POINTS, one), 0.01, 0, POINTS, DIMS)
    assert all(i.share is None and i.reason for i in same.importance)
    few = choose(dict.fromkeys(list(POINTS)[:2], one), 0.01, 0, POINTS, DIMS)
    assert all("too few" in str(i.reason) for i in few.importance)


def test_functional_anova_splits_an_additive_loss_as_its_variances():
    # loss = a(rate) + b(rank), all 15 combinations: the shares are the variances of a and b over their sum.
    a = dict(zip((1e-4, 2e-4, 3e-4, 5e-4, 1e-3), (0.0, 0.1, 0.2, 0.3, 0.4), strict=True))
    b = dict(zip((8, 16, 32), (0.0, 0.1, 0.2), strict=True))
    values = np.array([a[p["training.learning_rate"]] + b[p["training.lora.rank"]] for p in POINTS.values()])
    shares = fanova(values, list(POINTS.values()), DIMS, 0)
    expected = np.var(list(a.values())) / (np.var(list(a.values())) + np.var(list(b.values())))
    assert abs(shares["training.learning_rate"] - expected) < 0.1
