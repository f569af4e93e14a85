"""What counts as one independent observation: a document, a run of neighbours, a source, or the caller's own clusters.

Neighbouring snippets of one book are alike; taken as independent at lag-1 correlation 0.4, a "95 %" interval covers 86 %.
A few contiguous blocks with a t critical value repair that, a block bootstrap does not (METHODS 1, S1.3; Ibragimov & Mueller
2010).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray, IntArray, codes, numbers

Unit = Literal["document", "block", "source", "cluster"]

SOURCES_TO_CLUSTER = 8
DOCUMENTS_FOR_LAG1 = 12


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which unit each document belongs to: `labels` [n_documents] in 0..n_units-1."""

    unit: Unit
    labels: IntArray
    n_units: int

    def sums(self, values: FloatArray) -> FloatArray:
        """Sums within units: [n_documents] to [n_units], or [K, n_documents] to [K, n_units]."""
        if values.ndim == 1:
            return np.asarray(np.bincount(self.labels, weights=values, minlength=self.n_units), dtype=np.float64)
        return np.stack([self.sums(row) for row in values]) if len(values) else np.empty((0, self.n_units))


@dataclass(frozen=True, slots=True)
class Units:
    """`fine`: documents, or the caller's clusters. `coarse`: blocks or sources, or None where nothing is coarser.

    `order` [n_documents] sorts documents by source and position; `source` [n_documents] is None where no source was given.
    """

    fine: Grouping
    coarse: Grouping | None
    order: IntArray
    source: IntArray | None
    cautions: tuple[str, ...]

    @property
    def coarsest(self) -> Grouping:
        return self.coarse or self.fine


def n_blocks(n_documents: int) -> int:
    """How many contiguous blocks one source is cut into: 6 below 50 documents, 8 below 100, else 10 (METHODS S1.3)."""
    return min(n_documents, 6 if n_documents < 50 else 8 if n_documents < 100 else 10)


def group_documents(
    n: int,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> Units:
    """The units of `n` documents by METHODS S1.3.

    `clusters` (any hashable, one a document) are never taken apart. With 8 or more `sources`, sources are the coarse unit; with
    fewer, contiguous blocks that no source boundary crosses. `positions` order documents within a source; without them the order
    given counts. A cluster that touches two sources counts to that of its first document. DataError if lengths differ.
    """
    fine = Grouping("document", np.arange(n), n)
    if clusters is not None:
        labels = codes("clusters", clusters, n)
        fine = Grouping("cluster", labels, int(labels.max()) + 1)
    place = np.arange(n, dtype=np.float64) if positions is None else numbers("positions", positions, n)
    if sources is None:
        alone = (
            ()
            if clusters is not None
            else ("No source was given, so documents count as independent; neighbours of one text are not.",)
        )
        return Units(fine, None, np.argsort(place, kind="stable"), None, alone)
    source = codes("sources", sources, n)
    order = np.lexsort((place, source))
    coarse, cautions = _coarser(fine, source, order)
    return Units(fine, coarse, order, source, cautions)


def _coarser(fine: Grouping, source: IntArray, order: IntArray) -> tuple[Grouping | None, tuple[str, ...]]:
    first = np.full(fine.n_units, -1, dtype=np.int64)
    first[fine.labels[order[::-1]]] = order[::-1]  # the last write wins: each unit's first document in reading order
    unit_source = source[first]
    n_sources = np.unique(unit_source).size
    if n_sources == fine.n_units:
        return None, ()
    if n_sources >= SOURCES_TO_CLUSTER:
        names, labels = np.unique(unit_source[fine.labels], return_inverse=True)
        return Grouping("source", labels.astype(np.int64), names.size), ()
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    reading = np.argsort(rank[first])  # fine units in reading order
    block = np.empty(fine.n_units, dtype=np.int64)
    block[reading] = _blocks(unit_source[reading])
    total = int(block.max()) + 1
    text, them = ("one source", "it") if n_sources == 1 else (f"{n_sources} sources", "these")
    caution = f"All documents come from {text}: the result speaks about texts like {them}, not about others."
    return (None if total == fine.n_units else Grouping("block", block[fine.labels], total)), (caution,)


def _blocks(source: IntArray) -> IntArray:
    """Contiguous blocks of units that are sorted by source [n]; every source has at least one block, long ones more."""
    _, lengths = np.unique(source, return_counts=True)
    shares = np.ones(lengths.size, dtype=np.int64)
    for _ in range(n_blocks(source.size) - lengths.size):
        shares[int(np.argmax(lengths / shares))] += 1
    sizes = [part.size for length, share in zip(lengths, shares, strict=True) for part in np.array_split(np.empty(length), share)]
    return np.repeat(np.arange(len(sizes)), sizes)


def lag1_autocorrelation(values: FloatArray, units: Units) -> float | None:
    """Correlation of neighbouring documents' `values` [n] within sources of at least 12 documents; None where there is none.

    One estimate over all such sources: products of neighbours over squares, both about the common mean.
    """
    if units.source is None:
        return None
    source = units.source[units.order]
    kept = np.isin(source, np.flatnonzero(np.bincount(source) >= DOCUMENTS_FOR_LAG1))
    if not kept.any():
        return None
    source, ordered = source[kept], values[units.order][kept]
    centred = ordered - ordered.mean()
    variance = float(np.square(centred).mean())
    neighbours = source[1:] == source[:-1]
    if variance <= 1e-24 * max(1.0, float(np.square(ordered).mean())):
        return None
    return float((centred[1:] * centred[:-1])[neighbours].mean() / variance)
