"""A perplexity from elsewhere: which way of computing gives exactly that number? A wrong way that does is the proof of its cause.

No torch: the ways here need nothing but each document's sum of negative log-likelihoods and its number of targets. Ways that need the
model (two BOS, padding scored, labels shifted twice) are computed by `galvan.audit` and come in as `live`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galvan.diagnosis.thresholds import FLOAT_SHARE, MOST_DECIMALS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RIGHT = "exp(sum of NLL / number of targets)"
BATCHES = (2, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True, slots=True)
class Reported:
    """What a person measured elsewhere: perplexities, and the 95 % interval of the gain in nats a token if one was given.

    `live` holds, by arm and cause, the perplexity that a live model gives when it is computed in that wrong way.
    """

    base: float | None = None
    tuned: float | None = None
    ci95: tuple[float, float] | None = None
    n_documents: int | None = None
    live: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """The perplexities by arm."""
        given = {"base": self.base, "tuned": self.tuned}
        return {arm: float(value) for arm, value in given.items() if value is not None and math.isfinite(value) and value > 0}


@dataclasses.dataclass(frozen=True, slots=True)
class Sums:
    """One arm's documents in order: sums of NLL in nats and numbers of targets, each [n]."""

    documents: Sequence[str]
    nll_nats: FloatArray
    n_tokens: IntArray

    def perplexity(self) -> float:
        return _exp(float(self.nll_nats.sum()) / float(self.n_tokens.sum()))


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One wrong way of computing: the cause, the formula in words, and what it gives."""

    code: str
    formula: str
    perplexity: float


def ways(sums: Sums) -> list[Way]:
    """Every wrong way that needs nothing but sums, with what it gives on these documents."""
    nll, n = sums.nll_nats, sums.n_tokens.astype(np.float64)
    means = nll / n
    found = [
        Way("G01", "mean of each text's perplexity", float(np.exp(np.minimum(means, 700)).mean())),
        Way("G04", "exp(mean of each text's mean loss)", _exp(float(means.mean()))),
        Way("G07", "exp(sum of mean loss x N / sum of N), N one more than the targets", _exp(float((means * (n + 1)).sum() / (n + 1).sum()))),
    ]  # fmt: skip
    for size in (size for size in BATCHES if size < len(n)):
        cut = range(0, len(n), size)
        batches = [float(nll[i : i + size].sum() / n[i : i + size].sum()) for i in cut]
        found.append(Way("G04", f"exp(mean over batches of {size} of their mean loss)", _exp(float(np.mean(batches)))))
        if rest := len(n) % size:
            whole = slice(0, len(n) - rest)
            found.append(
                Way("G03", f"the last {rest} texts dropped by batches of {size}", _exp(float(nll[whole].sum() / n[whole].sum())))
            )
            again = slice(0, size - rest)
            twice = float((nll.sum() + nll[again].sum()) / (n.sum() + n[again].sum()))
            found.append(Way("G11", f"the last batch of {size} filled up with the first {size - rest} texts again", _exp(twice)))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """Which ways give the reported figures. `right`: the right way does; None: there is nothing to hold them against.

    `codes` are the causes whose way gives every figure that the right way does not give, with a sentence for each figure.
    """

    right: bool | None
    codes: Mapping[str, list[str]]


def read(reported: Reported, arms: Mapping[str, Sums]) -> Reading:
    """Hold each reported perplexity against the right way and every wrong one, on the same documents."""
    figures = {arm: value for arm, value in reported.figures.items() if arm in arms}
    if not figures:
        return Reading(None, {})
    wrong = {arm: value for arm, value in figures.items() if not same(value, arms[arm].perplexity())}
    if not wrong:
        return Reading(True, {})
    every = [_matches(arm, value, arms[arm], reported.live.get(arm, {})) for arm, value in wrong.items()]
    shared = set(every[0]).intersection(*every[1:])
    return Reading(False, {code: [found[code] for found in every] for code in sorted(shared)})


def _matches(arm: str, value: float, sums: Sums, live: Mapping[str, float]) -> dict[str, str]:
    tried = [
        *ways(sums),
        *(Way(code.partition(" ")[0], "computed on the live model in this way", given) for code, given in live.items()),
    ]
    truth = sums.perplexity()
    return {
        way.code: f"The reported {arm} perplexity {value:g} is what this gives: {way.formula}, {way.perplexity:.6g}; the right value is {truth:.6g}."
        for way in tried
        if same(value, way.perplexity)
    }


def same(given: float, computed: float) -> bool:
    """Equal to the digits that were given; a figure with many digits may differ by the rounding of float32."""
    decimals = len(repr(float(given)).partition(".")[2])
    rounding = 0.5 * 10.0**-decimals if decimals <= MOST_DECIMALS and "e" not in repr(float(given)) else 0.0
    return abs(given - computed) <= rounding + FLOAT_SHARE * abs(computed)


def reported_from_json(value: Any) -> Reported | None:
    """From `reported.json`; what is no number is left out, and None where nothing usable stands there."""
    if not isinstance(value, Mapping):
        return None
    number = {k: float(value[k]) for k in ("base", "tuned") if isinstance(value.get(k), int | float)}
    ci, n = value.get("ci95"), value.get("n_documents")
    pair = (
        (float(ci[0]), float(ci[1]))
        if isinstance(ci, list) and len(ci) == 2 and all(isinstance(x, int | float) for x in ci)
        else None
    )
    return Reported(number.get("base"), number.get("tuned"), pair, n if isinstance(n, int) else None) if number else None


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
