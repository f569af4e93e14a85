"""From the trials' validation losses to a choice, what it rests on, and which options mattered. No torch; a choice is not a verdict.

The interval of every trial's gain pays for all trials that were looked at (max-T, METHODS S1.7). The chosen trial is judged once, on test
documents that chose nothing, so its verdict needs no further correction (S1.8).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from galvan.statistics.multiple import Family, judge_candidates
from galvan.statistics.ratio import Interval
from galvan.sweep.losses import FloatArray, Losses
from galvan.sweep.space import Dimension, Point

RESAMPLES = 20
FEWEST_TRIALS = 4  # below that nothing is said about which option mattered


@dataclass(frozen=True, slots=True)
class Importance:
    """Share of the variance of validation loss between trials that an option explains (functional ANOVA), with its 90 % interval over
    resampled validation documents; None with a reason where it is not measurable."""

    option: str
    share: float | None
    ci90: Interval | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """`best` is the name of the trial with the least validation loss; `family` the gains of all with simultaneous intervals."""

    best: str
    family: Family
    importance: tuple[Importance, ...]


def choose(
    trials: Mapping[str, Losses], margin: float, seed: int, points: Mapping[str, Point], dims: Sequence[Dimension]
) -> Choice:
    """The choice among trials that were scored on the same documents; `points` are where in the space each lies."""
    first = next(iter(trials.values()))
    family = judge_candidates(
        first.base, {name: one.tuned for name, one in trials.items()}, first.n_tokens, np.random.default_rng(seed), margin=margin,
        sources=first.sources, positions=first.positions,
    )  # fmt: skip
    best = min(trials, key=lambda name: (trials[name].nats_per_token, name))
    return Choice(best, family, importance(trials, seed, points, dims))


def importance(
    trials: Mapping[str, Losses], seed: int, points: Mapping[str, Point], dims: Sequence[Dimension]
) -> tuple[Importance, ...]:
    """How much each option mattered, again on documents resampled by blocks of one: is it the options, or which documents there were?"""
    varied = [d.option for d in dims if len({repr(points[name].get(d.option)) for name in trials}) > 1]
    if len(trials) < FEWEST_TRIALS or not varied:
        reason = f"{len(trials)} trials are too few to say which option mattered; at least {FEWEST_TRIALS} are needed."
        return tuple(Importance(d.option, None, None, reason) for d in dims)
    tuned = np.stack([one.tuned for one in trials.values()])
    n_tokens = next(iter(trials.values())).n_tokens
    here = [points[name] for name in trials]
    measured = fanova(tuned.sum(1) / n_tokens.sum(), here, dims, seed)
    rng = np.random.default_rng([seed, 0xF0])
    draws = rng.integers(n_tokens.size, size=(RESAMPLES, n_tokens.size))
    again = [fanova(tuned[:, d].sum(1) / n_tokens[d].sum(), here, dims, seed) for d in draws]
    found = []
    for option in (d.option for d in dims):
        shares = np.array([one[option] for one in again if option in one])
        if option not in varied or option not in measured or not shares.size:
            found.append(Importance(option, None, None, "It did not vary, or all trials came to the same loss."))
        else:
            low, high = np.quantile(shares, (0.05, 0.95))
            found.append(Importance(option, measured[option], Interval(float(low), float(high)), None))
    return tuple(found)


def fanova(values: FloatArray, points: Sequence[Point], dims: Sequence[Dimension], seed: int) -> dict[str, float]:
    """Option to its share of the variance, by Optuna's functional ANOVA of a random forest (Hutter et al. 2014); empty without variance."""
    import optuna

    from galvan.sweep.study import distribution, stored

    if np.ptp(values) == 0:
        return {}
    study = optuna.create_study()
    for value, point in zip(values, points, strict=True):
        params = {d.option: stored(point[d.option]) for d in dims}
        study.add_trial(
            optuna.create_trial(params=params, distributions={d.option: distribution(d) for d in dims}, value=float(value))
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, max_depth=32, seed=seed)
        return {k: float(v) for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
