"""Is the tuned model better than the base, by how much, and could it have been seen: the headline of every comparison.

The estimate is the gain in nats a token over all documents, so that exp(-gain) is the ratio of the two perplexities that people
print; the interval is a jackknife by document, block or source with t(n_eff - 1) (METHODS S1.2 to S1.5).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray, counts, margin_of, numbers, plausible
from galvan.statistics.power import Needed, mde_percent, needed, sensitivity_sentence
from galvan.statistics.ratio import Interval, Ratio, percent_of_perplexity, ratio
from galvan.statistics.units import Grouping, Unit, Units, group_documents, lag1_autocorrelation, n_blocks
from galvan.statistics.verdict import FEWEST_UNITS, Verdict, judge

DEFAULT_MARGIN = 0.01
NOTABLE_AUTOCORRELATION = 0.2


@dataclass(frozen=True, slots=True)
class Gain:
    """What `paired_gain` found. Gains are in nats a token, positive = tuned better; changes of perplexity in %, negative = down.

    Undefined figures are None; then `reason` says why. `unit` is what the interval takes as independent. `mde80_percent` is
    the smallest change of perplexity that would have been seen with 80 % chance. `documents_needed_for_nearer_end` plans for the
    end of the interval that is nearer to zero and is None where the interval holds zero: no number of documents is enough for that.
    """

    nats_per_token: float
    se: float | None
    df: float | None
    ci95: Interval | None
    ci90: Interval | None
    perplexity_change_percent: float
    perplexity_change_ci95: Interval | None
    verdict: Verdict
    reason: str
    cautions: tuple[str, ...]
    n_documents: int
    n_tokens: float
    n_clusters: int
    n_effective: float
    unit: Unit
    margin: float
    smallest_margin: float | None
    mde80_percent: float | None
    mde90_percent: float | None
    documents_needed_for_margin: Needed | None
    documents_needed_for_observed: Needed | None
    documents_needed_for_nearer_end: Needed | None
    base_perplexity: float
    tuned_perplexity: float
    lag1_autocorrelation: float | None

    @property
    def ratio(self) -> Ratio:
        """The estimate alone, for `difference` and other arithmetic."""
        return Ratio(
            self.nats_per_token, self.se, self.df, self.n_clusters, self.n_effective, None if self.se is not None else self.reason
        )

    @property
    def sensitivity(self) -> str:
        """What these documents could not have shown, in a sentence."""
        return sensitivity_sentence(self.n_documents, self.mde80_percent)

    def __str__(self) -> str:
        change = f"{self.verdict}: perplexity {self.perplexity_change_percent:+.2f} %"
        if self.perplexity_change_ci95 is not None:
            change += f" (95 % {self.perplexity_change_ci95.low:+.2f} to {self.perplexity_change_ci95.high:+.2f})"
        return f"{change}, {self.n_documents:,} documents, unit {self.unit}. {self.reason}"


def paired_gain(
    base_nll: npt.ArrayLike,
    tuned_nll: npt.ArrayLike,
    n_tokens: npt.ArrayLike,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    margin: float = DEFAULT_MARGIN,
    *,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> Gain:
    """The gain of tuned over base on the same documents, with interval, verdict and power.

    `base_nll`, `tuned_nll`: sums of negative log-likelihood in nats, `n_tokens`: tokens they run over; each [n_documents].
    `clusters`: labels of documents that belong together (prompts, chapters, copies of one text). `sources`, `positions`: the
    book or file of each document and its place there; then neighbours are not taken as independent. `margin`: gains below it,
    in nats a token, are too small to matter. DataError if the arrays do not match, are not finite, or a document has no token.
    """
    base = numbers("base_nll", base_nll)
    tuned = numbers("tuned_nll", tuned_nll, base.size)
    tokens = counts("n_tokens", n_tokens, base.size)
    plausible("base_nll", base, tokens)
    plausible("tuned_nll", tuned, tokens)
    units = group_documents(base.size, clusters, sources, positions)
    grouping, estimate = wider(base - tuned, tokens, units)
    return _gain(base, tuned, tokens, units, grouping, estimate, margin_of(margin))


def wider(differences: FloatArray, sizes: FloatArray, units: Units) -> tuple[Grouping, Ratio]:
    """The grouping whose 95 % interval counts, and the ratio by it: sources if coarse, else the wider of documents and blocks.

    `differences` and `sizes` are [n_documents].
    """
    fine = ratio(units.fine.sums(differences), units.fine.sums(sizes))
    if units.coarse is None:
        return units.fine, fine
    coarse = ratio(units.coarse.sums(differences), units.coarse.sums(sizes))
    a, b = fine.interval(), coarse.interval()
    narrower = a is not None and b is not None and a.high - a.low > b.high - b.low
    if units.coarse.unit == "block" and narrower:
        return units.fine, fine
    return units.coarse, coarse


def _gain(
    base: FloatArray, tuned: FloatArray, tokens: FloatArray, units: Units, grouping: Grouping, estimate: Ratio, margin: float
) -> Gain:
    r, n, total = estimate.value, base.size, float(tokens.sum())
    ci95, ci90 = estimate.interval(0.95), estimate.interval(0.90)
    judgement = judge(ci95, ci90, margin, estimate.n_units, estimate.n_effective, grouping.unit)
    lag1 = lag1_autocorrelation((base - tuned) / tokens - r, units)
    seen = _sensitivity(estimate, grouping.unit, n, total, margin)
    return Gain(
        nats_per_token=r,
        se=estimate.se,
        df=estimate.df,
        ci95=ci95,
        ci90=ci90,
        perplexity_change_percent=percent_of_perplexity(r),
        perplexity_change_ci95=None if ci95 is None else _as_perplexity(ci95),
        verdict=judgement.verdict,
        reason=judgement.reason,
        cautions=(*judgement.cautions, *units.cautions, *_cautions(grouping, units, lag1)),
        n_documents=n,
        n_tokens=int(total) if total.is_integer() else total,
        n_clusters=estimate.n_units,
        n_effective=estimate.n_effective,
        unit=grouping.unit,
        margin=margin,
        smallest_margin=None if ci90 is None else max(abs(ci90.low), abs(ci90.high)),
        mde80_percent=seen.mde80,
        mde90_percent=seen.mde90,
        documents_needed_for_margin=seen.for_margin,
        documents_needed_for_observed=seen.for_observed,
        documents_needed_for_nearer_end=seen.for_nearer_end,
        base_perplexity=math.exp(float(base.sum()) / total),
        tuned_perplexity=math.exp(float(tuned.sum()) / total),
        lag1_autocorrelation=lag1,
    )


class _Sensitivity(NamedTuple):
    mde80: float | None = None
    mde90: float | None = None
    for_margin: Needed | None = None
    for_observed: Needed | None = None
    for_nearer_end: Needed | None = None


def _sensitivity(estimate: Ratio, unit: Unit, n: int, n_tokens: float, margin: float) -> _Sensitivity:
    """What could have been seen, and how many documents would do; all None where there is no standard error."""
    se, df, ci95 = estimate.se, estimate.df, estimate.interval()
    if se is None or df is None or ci95 is None:
        return _Sensitivity()
    fewest = 6 if unit == "block" else math.ceil(FEWEST_UNITS * n / estimate.n_effective - 1e-9)

    def df_at(documents: int) -> float:
        """Degrees of freedom that this rule would have at another number of documents, lengths and sources alike."""
        growth = n_blocks(documents) / estimate.n_units if unit == "block" else documents / n
        return estimate.n_effective * growth - 1

    def documents(target: float) -> Needed | None:
        return needed(se, n, n_tokens, target, df_at, fewest) if target > 0 else None

    nearer_end = max(ci95.low, -ci95.high)
    return _Sensitivity(
        mde_percent(se, df), mde_percent(se, df, 0.90), documents(margin), documents(abs(estimate.value)), documents(nearer_end)
    )


def _as_perplexity(gain: Interval) -> Interval:
    return Interval(percent_of_perplexity(gain.high), percent_of_perplexity(gain.low))


def _cautions(grouping: Grouping, units: Units, lag1: float | None) -> tuple[str, ...]:
    found = []
    if grouping.unit == "block":
        found.append(f"Neighbouring documents are alike, so the interval rests on {grouping.n_units} runs of neighbours.")
    if lag1 is not None and lag1 > NOTABLE_AUTOCORRELATION:
        found.append(f"The gains of neighbouring documents correlate ({lag1:.2f}).")
    return tuple(found)
