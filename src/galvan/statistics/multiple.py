"""Several candidates against one base: who improved, with the price of having looked at all of them (METHODS S1.7, S1.8).

Under "no gain" the sign of each unit's difference is a coin toss. One vector of tosses for all candidates keeps their correlation,
which is what Holm gives away; the largest |t| of a toss is what chance achieves with so many tries (Westfall & Young 1993; Romano
& Wolf 2005 for stepping down).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray, counts, margin_of, numbers
from galvan.statistics.paired import DEFAULT_MARGIN
from galvan.statistics.ratio import Interval, Ratio, ratio, t_quantile
from galvan.statistics.units import Unit, group_documents
from galvan.statistics.verdict import Verdict, judge

FLIPS = 9_999
_CELLS_AT_ONCE = 2_000_000  # coin tosses alive at once: 16 MB


class MaxT(NamedTuple):
    """Sign-flip max-T of K candidates: statistics and p-values [K], critical values of max |t| at 95 and 90 %.

    `exact`: all 2^C sign vectors were gone through, not a sample of them.
    """

    t: FloatArray
    p_single: FloatArray
    p_adjusted: FloatArray
    critical95: float
    critical90: float
    n_flips: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate: gain in nats a token, intervals that hold for all at once, p adjusted by max-T and, beside it, by Holm."""

    name: str
    nats_per_token: float
    se: float | None
    ci95: Interval | None
    ci90: Interval | None
    p_single: float | None
    p_adjusted: float | None
    p_holm: float | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Family:
    """All candidates that were looked at, in the order given; `best` is the index of the largest gain: a choice, no verdict."""

    candidates: tuple[Candidate, ...]
    best: int
    critical95: float | None
    n_flips: int
    exact: bool
    n_clusters: int
    unit: Unit
    sentence: str
    cautions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Separation:
    """Whether what chose may also judge: `independent` is False where documents are shared, and `shared` lists them."""

    independent: bool
    shared: tuple[Hashable, ...]
    sentence: str


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values (Holm 1979), [K] in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def separation(chosen_on: Iterable[Hashable], judged_on: Iterable[Hashable], n_candidates: int) -> Separation:
    """METHODS S1.8: documents that chose among candidates may not judge the winner, unless max-T pays for every candidate."""
    judges = set(judged_on)
    shared = tuple(dict.fromkeys(label for label in chosen_on if label in judges))
    if n_candidates < 2 or not shared:
        text = "Nothing was chosen." if n_candidates < 2 else "The documents that chose and those that judge are different ones."
        return Separation(True, shared, text)
    text = f"{len(shared):,} documents both chose among {n_candidates} candidates and judge: intervals must pay for all (max-T)."
    return Separation(False, shared, text)


def sign_flip_max_t(sums: FloatArray, sizes: FloatArray, rng: np.random.Generator, flips: int = FLIPS) -> MaxT:
    """Step-down max-T: `sums` [K, C] differences by unit, `sizes` [C]; |r| / se with the jackknife se recomputed for every flip.

    Goes through all 2^C sign vectors where those are no more than `flips` + 1, and draws `flips` of them otherwise.
    """
    n_units = sizes.size
    exact = 2**n_units <= flips + 1 if n_units < 40 else False
    statistic = _Flipped(sums, sizes)
    observed = statistic.abs_t(np.zeros((1, n_units)))[0]
    flipped = np.concatenate([statistic.abs_t(tosses) for tosses in _tosses(n_units, flips, exact, rng)])
    extra = 0 if exact else 1  # the data as they are belong to the reference set; the full enumeration holds them already
    order = np.argsort(-observed, kind="stable")
    running = np.maximum.accumulate(flipped[:, order[::-1]], axis=1)[:, ::-1]  # max over this and all weaker candidates
    slack = observed * (1 - 1e-9)
    stepped = ((running >= slack[order]).sum(axis=0) + extra) / (len(flipped) + extra)
    p_adjusted = np.empty(observed.size)
    p_adjusted[order] = np.maximum.accumulate(stepped)
    p_single = ((flipped >= slack).sum(axis=0) + extra) / (len(flipped) + extra)
    largest = np.sort(running[:, 0])
    return MaxT(observed, p_single, p_adjusted, _upper(largest, 0.95), _upper(largest, 0.90), len(flipped), exact)


def _upper(ordered: FloatArray, level: float) -> float:
    return float(ordered[min(ordered.size - 1, int(np.ceil(level * (ordered.size + 1))) - 1)])


def _tosses(n_units: int, flips: int, exact: bool, rng: np.random.Generator) -> Iterable[FloatArray]:
    """Which units are turned, in batches [F, C] of 0 and 1."""
    if exact:
        bits = np.arange(2**n_units)[:, None] >> np.arange(n_units)
        yield (bits & 1).astype(np.float64)
        return
    batch = max(1, _CELLS_AT_ONCE // n_units)
    for start in range(0, flips, batch):
        rows = min(batch, flips - start)
        tosses = np.unpackbits(np.frombuffer(rng.bytes((rows * n_units + 7) // 8), dtype=np.uint8), count=rows * n_units)
        yield tosses.reshape(rows, n_units).astype(np.float64)


class _Flipped:
    """|r| / se of K candidates under sign flips; what does not depend on the signs is computed once. `sums` [K, C], `sizes` [C].

    (s D - r T)^2 is expanded, so that no [flips, K, C] array is made and all flips of a batch are one matrix product.
    """

    def __init__(self, sums: FloatArray, sizes: FloatArray) -> None:
        n, total = sizes.size, sizes.sum()
        weight = (n - 1) / n / np.square(total - sizes)
        self.right = np.ascontiguousarray(np.concatenate([sums / total, weight * sizes * sums]).T)
        self.of_sums = (weight * sums**2).sum(axis=1)
        self.of_sizes = float((weight * sizes**2).sum())

    def abs_t(self, flipped: FloatArray) -> FloatArray:
        """[F, K] for `flipped` [F, C]: 1 where a unit's sign is turned, 0 where it stays."""
        r, cross = np.split(self.right.sum(axis=0) - 2 * (flipped @ self.right), 2, axis=1)
        variance = self.of_sums - 2 * r * cross + r**2 * self.of_sizes
        # Rounding leaves about 1e-16 of the first term where all units agree; that is no spread.
        se = np.sqrt(np.where(variance > 1e-14 * self.of_sums, variance, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(r) / se
        return np.where(np.isnan(t), 0.0, t)


def judge_candidates(
    base_nll: npt.ArrayLike,
    tuned_nll: Mapping[str, npt.ArrayLike],
    n_tokens: npt.ArrayLike,
    rng: np.random.Generator,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    margin: float = DEFAULT_MARGIN,
    *,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
    flips: int = FLIPS,
) -> Family:
    """Every candidate's gain with intervals and verdicts that hold for all of them together (family error 5 %).

    Sums in nats a document, as in `paired_gain`. Signs are flipped by the coarsest unit: blocks or sources where they are known.
    Intervals are r -+ c se with c the 95th percentile of max |t|, and never narrower than the candidate's own t interval.
    DataError for unusable input.
    """
    if not tuned_nll:
        raise DataError("statistics/empty", "There is no candidate to judge; give at least one.")
    base = numbers("base_nll", base_nll)
    tokens = counts("n_tokens", n_tokens, base.size)
    gains = np.stack([base - numbers(f"tuned_nll[{name!r}]", tuned, base.size) for name, tuned in tuned_nll.items()])
    units = group_documents(base.size, clusters, sources, positions)
    grouping = units.coarsest
    sums, sizes = grouping.sums(gains), grouping.sums(tokens)
    estimates = [ratio(row, sizes) for row in sums]
    best = int(np.argmax([estimate.value for estimate in estimates]))
    found = sign_flip_max_t(sums, sizes, rng, flips) if estimates[0].se is not None else None
    p_holm = holm([1.0 if p is None else p for p in (estimate.p_value() for estimate in estimates)])
    candidates = tuple(
        _candidate(name, estimate, found, k, float(p_holm[k]), margin_of(margin), grouping.unit)
        for k, (name, estimate) in enumerate(zip(tuned_nll, estimates, strict=True))
    )
    sentence = f"{len(candidates)} candidates were looked at; every interval and p-value pays for all of them (sign-flip max-T)."
    critical = None if found is None else found.critical95
    n_flips, exact = (0, False) if found is None else (found.n_flips, found.exact)
    return Family(candidates, best, critical, n_flips, exact, grouping.n_units, grouping.unit, sentence, units.cautions)


def _candidate(name: str, estimate: Ratio, found: MaxT | None, k: int, p_holm: float, margin: float, unit: Unit) -> Candidate:
    ci95 = ci90 = None
    if found is not None and estimate.se is not None and estimate.df is not None:
        half95 = max(found.critical95, t_quantile(0.975, estimate.df)) * estimate.se
        half90 = max(found.critical90, t_quantile(0.95, estimate.df)) * estimate.se
        ci95 = Interval(estimate.value - half95, estimate.value + half95)
        ci90 = Interval(estimate.value - half90, estimate.value + half90)
    judgement = judge(ci95, ci90, margin, estimate.n_units, estimate.n_effective, unit)
    p_single, p_adjusted = (None, None) if found is None else (float(found.p_single[k]), float(found.p_adjusted[k]))
    holm_shown = None if found is None else p_holm
    return Candidate(
        name, estimate.value, estimate.se, ci95, ci90, p_single, p_adjusted, holm_shown, judgement.verdict, judgement.reason
    )
