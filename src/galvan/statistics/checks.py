"""What every statistic asks of its input, in one place: numbers, one a document, finite, of matching length."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LARGEST_NATS_PER_TOKEN = 700.0  # exp of more is no number; no vocabulary has e^700 words either


def numbers(name: str, values: npt.ArrayLike, n: int | None = None) -> FloatArray:
    """`values` as float64 of shape [n]; DataError if they are not finite numbers, one a document."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("statistics/not-numbers", f"`{name}` must be one number a document; found something else in it.") from None
    if array.ndim != 1:
        raise DataError("statistics/shape", f"`{name}` must be one number a document (one axis); got {array.ndim} axes instead.")
    if array.size == 0:
        raise DataError("statistics/empty", f"`{name}` is empty; give at least one document (and at least five for a verdict).")
    if n is not None and array.size != n:
        raise DataError(
            "statistics/length", f"`{name}` has {array.size:,} documents where the others have {n:,}; give the same ones."
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        first = int(bad[0])
        raise DataError(
            "statistics/not-finite",
            f"`{name}` is {array[first]} at index {first} ({bad.size:,} of {array.size:,} are not finite); "
            "leave those documents out of both models, and say so.",
        )
    return array


def counts(name: str, values: npt.ArrayLike, n: int) -> FloatArray:
    """`values` as positive float64 of shape [n]: scored tokens or bytes; DataError otherwise."""
    array = numbers(name, values, n)
    bad = np.flatnonzero(array <= 0)
    if bad.size:
        first = int(bad[0])
        raise DataError(
            "statistics/no-tokens",
            f"`{name}` is {array[first]:g} at index {first}; a document without a scored token says nothing: leave it out.",
        )
    return array


def plausible(name: str, nll_nats: FloatArray, sizes: FloatArray) -> None:
    """DataError if the mean is no likelihood of text: a sign that sums and counts are in other units than nats and tokens."""
    mean = float(nll_nats.sum() / sizes.sum())
    if abs(mean) > LARGEST_NATS_PER_TOKEN:
        raise DataError(
            "statistics/units",
            f"`{name}` is {mean:.4g} nats a token on average, which no model gives; give sums in nats and token counts.",
        )


def margin_of(margin: float) -> float:
    """The margin in nats a token; DataError unless it is positive and finite."""
    if not (np.isfinite(margin) and margin > 0):
        raise DataError("statistics/margin", f"`margin` must be a positive number of nats a token; got {margin} instead.")
    return float(margin)


def codes(name: str, labels: Sequence[Hashable] | npt.NDArray[np.generic], n: int) -> IntArray:
    """Labels as integers 0, 1, ... in order of first appearance, shape [n]; DataError if there is not one for every document."""
    plain = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(plain) != n:
        raise DataError("statistics/length", f"`{name}` has {len(plain):,} labels for {n:,} documents; give one each.")
    seen: dict[Hashable, int] = {}
    try:
        return np.fromiter((seen.setdefault(label, len(seen)) for label in plain), dtype=np.int64, count=n)
    except TypeError:
        raise DataError("statistics/labels", f"`{name}` must be names or numbers (hashable labels), one a document.") from None
