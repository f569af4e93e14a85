"""When a training has gone on too long: paired differences between evaluations on the same validation documents (METHODS 7).

Levels are noisy because documents differ; the difference between two evaluations of one document is not. The interval of the lead of the best
evaluation over the latest pays for having chosen the best (max-T). The test documents have no say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from galvan.statistics.curves import FEWEST_CHECKPOINTS, Curve, best_checkpoint
from galvan.statistics.ratio import kish_size
from galvan.statistics.verdict import FEWEST_UNITS


class Standing(NamedTuple):
    """`best` is the evaluated step after the start with the lowest validation loss; `too_long` says in a sentence why training should end."""

    best: int
    too_long: str | None


def standing(curves: Sequence[Mapping[str, Any]], seed: int) -> Standing | None:
    """Of all evaluations so far, rows as in `curves.jsonl`; None before the first one after the start, or without validation documents."""
    rows = [row for row in curves if row["set"] == "validation"]
    steps = list(dict.fromkeys(int(row["step"]) for row in rows))
    if len(steps) < 2:
        return None
    sums = np.array([row["nll_nats"] for row in rows], dtype=np.float64).reshape(len(steps), -1)
    sizes = np.array([row["n_tokens"] for row in rows[: sums.shape[1]]], dtype=np.float64)
    after = [k for k, step in enumerate(steps) if step > 0]
    best = steps[after[int(sums[after].sum(axis=1).argmin())]]
    return Standing(best, _too_long(steps, Curve(sums[:, sizes > 0], sizes[sizes > 0]), seed))


def enough(n_documents: int) -> bool:
    """Can so few documents ever be sure that training has gone on too long?"""
    return n_documents >= FEWEST_UNITS


def _too_long(steps: Sequence[int], curve: Curve, seed: int) -> str | None:
    if len(steps) < FEWEST_CHECKPOINTS or kish_size(curve.sizes) < FEWEST_UNITS:
        return None
    found = best_checkpoint(np.array(steps, dtype=np.float64), curve, np.random.default_rng([seed, steps[-1]]))
    if found.ci95 is None or found.ci95.low <= 0:
        return None
    return (
        f"Validation loss was {found.gain_over_last:.4f} nats a token lower at step {found.step:g} than now, at step {steps[-1]} "
        f"(95 % interval {found.ci95.low:.4f} to {found.ci95.high:.4f}, paired, paying for every evaluation)."
    )
