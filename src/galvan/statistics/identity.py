"""Are these two models or one measured twice? Asked of single tokens, before any statistics (METHODS S1.6, topic 8).

Equal to two decimals is not equal, and a perplexity of 7.95 twice is the sign of an adapter that is not in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray

CLEARLY_DIFFERENT = 10.0  # noise floors
_TOGETHER = 1024  # documents


@dataclass(frozen=True, slots=True)
class Identity:
    """`identical`: no token differs by more than the noise floor. `different`: one does by over ten floors. Between: undetermined."""

    status: Literal["identical", "different", "undetermined"]
    largest_difference_nats: float
    noise_floor_nats: float
    n_tokens: int
    n_tokens_above_floor: int
    document: int
    reason: str


def identical(base_tokens: Sequence[npt.ArrayLike], tuned_tokens: Sequence[npt.ArrayLike], noise_floor: float) -> Identity:
    """Compare per-token NLLs in nats, one array a document, the same tokens in both.

    `noise_floor` is how far the same model may differ from itself, batched or not, in nats (0 where that is exact). `document` is
    the index where the largest difference lies. DataError if the arrays do not pair token by token or are not finite.
    """
    if not (np.isfinite(noise_floor) and noise_floor >= 0):
        raise DataError(
            "statistics/noise-floor", f"`noise_floor` must be 0 or a positive number of nats; got {noise_floor} instead."
        )
    if len(base_tokens) != len(tuned_tokens):
        raise DataError(
            "statistics/length", f"base has {len(base_tokens):,} documents and tuned {len(tuned_tokens):,}; give the same ones."
        )
    if not len(base_tokens):
        raise DataError("statistics/empty", "There is no document to compare; give at least one.")
    pairs = zip(map(_flat, base_tokens), map(_flat, tuned_tokens), strict=True)
    largest, document, above, n_tokens, first = -1.0, 0, 0, 0, 0
    while some := list(islice(pairs, _TOGETHER)):
        lengths = np.array([base.size for base, _ in some])
        unpaired = np.flatnonzero(lengths != np.array([tuned.size for _, tuned in some]))
        if unpaired.size:
            base, tuned = some[unpaired[0]]
            raise DataError(
                "statistics/length", f"Document {first + unpaired[0]} has {base.size:,} tokens in base and {tuned.size:,} in tuned; score the same."
            )  # fmt: skip
        difference = np.abs(np.concatenate([base for base, _ in some]) - np.concatenate([tuned for _, tuned in some]))
        if not np.isfinite(difference).all():
            raise DataError(
                "statistics/not-finite", "A token's NLL is not finite; one of the models overflows, which is a finding of its own."
            )
        if difference.size and difference.max() > largest:
            worst = int(difference.argmax())
            largest, document = float(difference[worst]), first + int(np.searchsorted(np.cumsum(lengths), worst, side="right"))
        n_tokens += difference.size
        above += int((difference > noise_floor).sum())
        first += len(some)
    if not n_tokens:
        raise DataError("statistics/empty", "No document has a scored token; there is nothing to compare.")
    return _judge(largest, above, n_tokens, float(noise_floor), document)


def _flat(tokens: npt.ArrayLike) -> FloatArray:
    return np.asarray(tokens, dtype=np.float64).ravel()


def _judge(largest: float, above: int, n: int, floor: float, document: int) -> Identity:
    if largest <= floor:
        reason = f"All {n:,} tokens have the same likelihood to within {floor:.2g} nats: this is one model, measured twice."
        return Identity("identical", largest, floor, n, above, document, reason)
    if largest > CLEARLY_DIFFERENT * floor:
        reason = (
            f"Document {document} has a token that differs by {largest:.3g} nats, over ten times the noise floor of {floor:.2g}."
        )
        return Identity("different", largest, floor, n, above, document, reason)
    reason = f"The largest difference, {largest:.3g} nats, is one to ten times the noise floor of {floor:.2g}: score in float32."
    return Identity("undetermined", largest, floor, n, above, document, reason)
