"""Two questions that one number cannot answer: is *this adapter* better, and is *the recipe* that made it?

One adapter's interval speaks about other documents, not about another training run. With K seeds, seeds and documents are both
random: the variance of the mean gain is that over documents plus that over seeds, less their interaction counted twice
(two-way clustering, Cameron, Gelbach & Miller 2011; Sellam et al. 2022 for the question).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray, counts, margin_of, numbers
from galvan.statistics.paired import DEFAULT_MARGIN, Gain, paired_gain, wider
from galvan.statistics.ratio import Interval, Ratio, jackknife_se, percent_of_perplexity
from galvan.statistics.units import Grouping, group_documents
from galvan.statistics.verdict import Verdict, judge

FEW_SEEDS = 5


@dataclass(frozen=True, slots=True)
class RecipeGain:
    """The recipe's gain in nats a token, and each adapter's own. `se_documents`, `se_seeds`: what each source of chance adds.

    `df` and the interval are None, with the `reason`, for one seed; `sd_seeds` is the spread of adapters' gains.
    """

    nats_per_token: float
    se: float | None
    df: float | None
    ci95: Interval | None
    perplexity_change_percent: float
    perplexity_change_ci95: Interval | None
    verdict: Verdict
    reason: str
    cautions: tuple[str, ...]
    se_documents: float | None
    se_seeds: float | None
    sd_seeds: float | None
    n_seeds: int
    adapters: tuple[Gain, ...]


def recipe_gain(
    base_nll: npt.ArrayLike,
    tuned_nll: Sequence[npt.ArrayLike],
    n_tokens: npt.ArrayLike,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    margin: float = DEFAULT_MARGIN,
    *,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> RecipeGain:
    """The gain to expect from another run of the recipe on other documents: `tuned_nll` holds one [n_documents] array a seed.

    Sums in nats; `base_nll` and `n_tokens` [n_documents] are shared by all seeds. DataError as for `paired_gain`.
    """
    if not len(tuned_nll):
        raise DataError("statistics/empty", "`tuned_nll` holds no seed; give one array of per-document sums for each.")
    base = numbers("base_nll", base_nll)
    tokens = counts("n_tokens", n_tokens, base.size)
    gains = np.stack([base - numbers(f"tuned_nll[{k}]", tuned, base.size) for k, tuned in enumerate(tuned_nll)])
    adapters = tuple(
        paired_gain(base, base - gain, tokens, clusters, margin, sources=sources, positions=positions) for gain in gains
    )
    grouping, documents = wider(gains.mean(axis=0), tokens, group_documents(base.size, clusters, sources, positions))
    estimate, se_seeds, sd_seeds = _two_way(gains, tokens, grouping, documents)
    ci95 = estimate.interval()
    judgement = judge(ci95, estimate.interval(0.90), margin_of(margin), documents.n_units, documents.n_effective, grouping.unit)
    k = len(gains)
    reason = judgement.reason if k > 1 else "One seed says nothing about the recipe; train at least three."
    few = (f"{k} seeds are few to judge a recipe by: the interval is wide for that reason.",) if 1 < k < FEW_SEEDS else ()
    return RecipeGain(
        nats_per_token=estimate.value,
        se=estimate.se,
        df=estimate.df,
        ci95=ci95,
        perplexity_change_percent=percent_of_perplexity(estimate.value),
        perplexity_change_ci95=ci95 and Interval(percent_of_perplexity(ci95.high), percent_of_perplexity(ci95.low)),
        verdict=judgement.verdict,
        reason=reason,
        cautions=(*judgement.cautions, *few),
        se_documents=documents.se,
        se_seeds=se_seeds,
        sd_seeds=sd_seeds,
        n_seeds=k,
        adapters=adapters,
    )


def _two_way(
    gains: FloatArray, tokens: FloatArray, grouping: Grouping, documents: Ratio
) -> tuple[Ratio, float | None, float | None]:
    """The mean over seeds with both variances: gains [K, n_documents] in nats. Satterthwaite's degrees of freedom."""
    k, sizes = len(gains), grouping.sums(tokens)
    undefined = Ratio(
        documents.value, None, None, documents.n_units, documents.n_effective, documents.reason or "one seed alone has no spread"
    )
    if k < 2 or documents.se is None or documents.df is None:
        return undefined, None, None
    per_seed = gains.sum(axis=1) / tokens.sum()
    sd_seeds = float(per_seed.std(ddof=1))
    by_document, by_seed = documents.se**2, sd_seeds**2 / k
    # What is left of each seed's gains after its own mean and the documents' means: counted in both parts above.
    left = grouping.sums(gains - gains.mean(axis=0))
    twice = float(np.square(jackknife_se(left, sizes)).sum()) / (k * (k - 1))
    variance = max(by_document, by_seed, by_document + by_seed - twice)
    if variance == 0:
        return Ratio(documents.value, 0.0, documents.df, documents.n_units, documents.n_effective, None), 0.0, 0.0
    df = variance**2 / (by_document**2 / documents.df + by_seed**2 / (k - 1))
    both = Ratio(
        documents.value, variance**0.5, max(df, min(k - 1.0, documents.df)), documents.n_units, documents.n_effective, None
    )
    return both, by_seed**0.5, sd_seeds
