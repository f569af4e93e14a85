"""What moved, in words a writer understands, and Delta as a figure that others know (METHODS S4.8, S4.9). Descriptive: nothing rests on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, ttest_ind_from_stats

from galvan.statistics.checks import FloatArray
from galvan.statistics.ratio import Interval, t_quantile
from galvan.style.features import Space, word_rates
from galvan.style.normalise import tokens
from galvan.style.samples import Sample

MOST_MOVED, POOLED_WORDS = 10, 2500


@dataclass(frozen=True, slots=True)
class Value:
    """Mean over units with its t interval."""

    mean: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Moved:
    """One feature: held-out author, base and tuned in its own units, the shift in standard deviations, and p by Benjamini-Hochberg."""

    phrase: str
    author: Value
    base: Value
    tuned: Value
    shift_sd: float
    toward_author: bool
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Delta:
    """Cosine Delta to pooled held-out text (Smith & Aldridge 2011; Evert et al. 2017): 0 the same direction, 1 none in common."""

    base: float
    tuned: float
    words: int


def what_moved(space: Space, author: Sample, base: Sample, tuned: Sample) -> list[Moved]:
    """The ten words, marks and measures whose mean moved most from base to tuned, in standard deviations of single texts."""
    held, q, u = (_by_unit(space.plain(some.texts), some) for some in (author, base, tuned))
    known = [k for k in range(q.shape[1]) if all((~np.isnan(x[:, k])).sum() >= 2 for x in (held, q, u))]
    usable = [k for k in known if np.nanvar(q[:, k]) + np.nanvar(u[:, k]) > 0]
    if not usable:
        return []
    sd = np.sqrt((np.nanvar(q[:, usable], axis=0, ddof=1) + np.nanvar(u[:, usable], axis=0, ddof=1)) / 2)
    shift = (np.nanmean(u[:, usable], axis=0) - np.nanmean(q[:, usable], axis=0)) / sd
    p = ttest_ind_from_stats(*_moments(u[:, usable]), *_moments(q[:, usable]), equal_var=False).pvalue
    adjusted = false_discovery_control(np.nan_to_num(np.asarray(p, dtype=np.float64), nan=1.0))
    order = np.argsort(-np.abs(shift), kind="stable")[:MOST_MOVED]
    return [
        _moved(space.phrases[usable[i]], held[:, usable[i]], q[:, usable[i]], u[:, usable[i]], float(shift[i]), float(adjusted[i]))
        for i in order
    ]


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, standard deviation and number of the known values of each column."""
    return np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1), (~np.isnan(values)).sum(axis=0)


def _moved(phrase: str, held: FloatArray, base: FloatArray, tuned: FloatArray, shift: float, p: float) -> Moved:
    a, q, u = _value(held), _value(base), _value(tuned)
    return Moved(phrase, a, q, u, shift, abs(u.mean - a.mean) < abs(q.mean - a.mean), p)


def _by_unit(values: FloatArray, sample: Sample) -> FloatArray:
    """Mean of each unit's texts, [units, features]."""
    sums = np.stack([np.bincount(sample.unit, np.nan_to_num(column), len(sample.prompts)) for column in values.T], axis=1)
    counts = np.stack([np.bincount(sample.unit, ~np.isnan(column), len(sample.prompts)) for column in values.T], axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts, dtype=np.float64)


def _value(values: FloatArray) -> Value:
    known = values[~np.isnan(values)]
    mean = float(known.mean())
    half = t_quantile(0.975, known.size - 1) * float(known.std(ddof=1)) / float(np.sqrt(known.size))
    return Value(mean, Interval(mean - half, mean + half))


def cosine_delta(a: FloatArray, b: FloatArray) -> float:
    """1 - cosine of two vectors of z-scores; NaN where one of them is zero."""
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def delta(space: Space, author: Sample, base: Sample, tuned: Sample) -> Delta | None:
    """Cosine Delta of base and tuned to the author, each set pooled to one text; None below 2,500 words a set, where it is noise."""
    pooled = [" ".join(some.texts) for some in (author, base, tuned)]
    n_words = min(len(tokens(text)) for text in pooled)
    if n_words < POOLED_WORDS or space.embed is not None:
        return None
    k = len(space.words)
    held, q, u = (word_rates([text], space.words)[0] - space.mean[:k] for text in pooled)
    scale = space.scale[:k]
    return Delta(cosine_delta(q / scale, held / scale), cosine_delta(u / scale, held / scale), n_words)


def side_by_side(scores: Sequence[float]) -> dict[str, int]:
    """Which units to show, by rule: the median, the best and the worst by author score of the tuned text (ties: the first)."""
    order = sorted(range(len(scores)), key=lambda k: (scores[k], k))
    return {"median": order[(len(order) - 1) // 2], "best": order[-1], "worst": order[0]} if order else {}
