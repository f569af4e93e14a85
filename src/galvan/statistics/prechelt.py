"""The classical early-stopping figures (Prechelt 1998), for people who know them; galvan's own classes are in `curves`.

They take levels without noise: a generalisation loss of 2 % on 25 documents may be nothing at all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray, numbers


def generalization_loss(validation: npt.ArrayLike) -> FloatArray:
    """GL(t) = 100 (E(t) / min E up to t - 1) in percent, [P] for validation losses [P]."""
    losses = numbers("validation", validation)
    best = np.minimum.accumulate(losses)
    return np.asarray(100 * (losses / np.abs(best) - np.sign(best)), dtype=np.float64)


def training_progress(strip: npt.ArrayLike) -> float:
    """P_k = 1000 (mean / min - 1) of the training losses of one strip, in per mille."""
    losses = numbers("strip", strip)
    return float(1000 * (losses.mean() / losses.min() - 1))


def productivity_quotient(validation: npt.ArrayLike, strip: npt.ArrayLike) -> float | None:
    """PQ = GL / P_k at the last validation loss; None where training makes no progress at all."""
    progress = training_progress(strip)
    return None if progress <= 0 else float(generalization_loss(validation)[-1]) / progress


def successive_rises(validation: npt.ArrayLike) -> int:
    """How often in a row the validation loss has risen up to now: UP_s stops when this reaches s."""
    rises = np.diff(numbers("validation", validation)) > 0
    return int(rises[::-1].cumprod().sum())
