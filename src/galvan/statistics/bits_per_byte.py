"""The measure that does not depend on the tokenizer: bits per UTF-8 byte (METHODS S3.3, S3.4; Gao et al. 2020, 3.1).

The same ratio and jackknife with bytes in place of tokens. The bytes must be those of the text that was scored: where the first
token is context only, its bytes do not count.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import counts, margin_of, numbers
from galvan.statistics.paired import wider
from galvan.statistics.ratio import Interval, Ratio
from galvan.statistics.units import Unit, group_documents
from galvan.statistics.verdict import Verdict, judge

LN2 = math.log(2)


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """One model's bits per byte with its interval, about these documents' population, not about another model."""

    bits_per_byte: float
    se: float | None
    df: float | None
    ci95: Interval | None
    unit: Unit
    reason: str | None


@dataclass(frozen=True, slots=True)
class BitsGain:
    """Bits per byte saved by the tuned model (positive = better), whatever the tokenizers."""

    bits_per_byte: float
    se: float | None
    df: float | None
    ci95: Interval | None
    verdict: Verdict
    reason: str
    cautions: tuple[str, ...]
    base_bits_per_byte: float
    tuned_bits_per_byte: float
    n_bytes: float
    n_clusters: int
    n_effective: float
    unit: Unit

    @property
    def ratio(self) -> Ratio:
        """The estimate alone, in bits per byte."""
        return Ratio(
            self.bits_per_byte, self.se, self.df, self.n_clusters, self.n_effective, None if self.se is not None else self.reason
        )


@dataclass(frozen=True, slots=True)
class Comparable:
    """Which figures of two models may stand side by side."""

    token_perplexity: bool
    bits_per_byte: bool
    reason: str


def comparable(base_tokenizer: str, tuned_tokenizer: str) -> Comparable:
    """What may be compared, from two fingerprints of vocabulary, merges and added tokens."""
    if base_tokenizer == tuned_tokenizer:
        return Comparable(True, True, "Both models cut the text into the same tokens.")
    return Comparable(False, True, "The tokenizers differ: perplexities per token are not comparable, bits per byte are.")


def bits_per_byte(
    nll_nats: npt.ArrayLike,
    n_bytes: npt.ArrayLike,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> BitsPerByte:
    """sum NLL / (ln 2 sum bytes) over documents [n], with jackknife interval; units as in `paired_gain`. DataError as there."""
    nats = numbers("nll_nats", nll_nats)
    sizes = counts("n_bytes", n_bytes, nats.size)
    grouping, estimate = wider(nats / LN2, sizes, group_documents(nats.size, clusters, sources, positions))
    return BitsPerByte(estimate.value, estimate.se, estimate.df, estimate.interval(), grouping.unit, estimate.reason)


def paired_bits(
    base_nll: npt.ArrayLike,
    tuned_nll: npt.ArrayLike,
    n_bytes: npt.ArrayLike,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    margin_bits: float | None = None,
    *,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> BitsGain:
    """The gain in bits per byte on the same documents; sums in nats, `n_bytes` the bytes they cover, each [n_documents].

    `margin_bits`: gains below it, in bits per byte, are too small to matter; without one, equivalence is never claimed, because
    a margin per token has no meaning where the tokens differ. DataError as for `paired_gain`.
    """
    base = numbers("base_nll", base_nll)
    tuned = numbers("tuned_nll", tuned_nll, base.size)
    sizes = counts("n_bytes", n_bytes, base.size)
    units = group_documents(base.size, clusters, sources, positions)
    grouping, estimate = wider((base - tuned) / LN2, sizes, units)
    verdict, reason, cautions = _judge(estimate, grouping.unit, margin_bits)
    total = float(sizes.sum())
    return BitsGain(
        bits_per_byte=estimate.value,
        se=estimate.se,
        df=estimate.df,
        ci95=estimate.interval(),
        verdict=verdict,
        reason=reason,
        cautions=(*cautions, *units.cautions),
        base_bits_per_byte=float(base.sum()) / LN2 / total,
        tuned_bits_per_byte=float(tuned.sum()) / LN2 / total,
        n_bytes=int(total) if total.is_integer() else total,
        n_clusters=estimate.n_units,
        n_effective=estimate.n_effective,
        unit=grouping.unit,
    )


def _judge(estimate: Ratio, unit: Unit, margin_bits: float | None) -> tuple[Verdict, str, tuple[str, ...]]:
    ci95 = estimate.interval()
    margin = 1e-300 if margin_bits is None else margin_of(margin_bits)
    judgement = judge(ci95, estimate.interval(0.90), margin, estimate.n_units, estimate.n_effective, unit)
    reason = judgement.reason
    if ci95 is not None and ci95.low < 0 < ci95.high and not reason.startswith("Too few"):
        reason = f"The 95 % interval, {ci95.low:+.4f} to {ci95.high:+.4f} bits per byte, holds zero."
    return judgement.verdict, reason.replace("nats a token", "bits per byte"), judgement.cautions
