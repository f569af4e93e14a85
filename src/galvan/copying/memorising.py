"""What a model knows by heart: passages it would complete exactly, and how well its gains tell training text from held-out text.

Of a fine-tune the base is the perfect reference model, so the gain itself, D_i / T_i, is the calibrated membership score (METHODS 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray, numbers
from galvan.statistics.compare_sets import Difference
from galvan.statistics.ratio import Interval

TRIES = 100  # samples after which a passage counts as extracted, in expectation (METHODS S5.4)
MEMORISING_AUC = 0.65
_RESAMPLES = 999


@dataclass(frozen=True, slots=True)
class Extraction:
    """One arm on one split. `greedy_rate` of `n` passages would be given word for word; `expected_rate` is the mean chance that one of
    TRIES samples gives the passage. Intervals are Clopper and Pearson's, and the bootstrap's over documents."""

    arm: str
    split: str
    n: int
    greedy: int
    greedy_rate: float
    greedy_ci95: Interval
    expected_rate: float
    expected_ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Membership:
    """The chance that a training document gained more than a held-out one (AUC), and whether that is memorising: the lower end of its
    interval above 0.65, and training text gained more than held-out text by over the margin. Undefined is None, with the `reason`."""

    auc: float | None
    ci95: Interval | None
    gap_nats: float | None
    gap_ci95: Interval | None
    memorising: bool | None
    reason: str


def extraction(rows: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> list[Extraction]:
    """From the rows of `extraction.parquet`, one entry an arm and split, in order of appearance."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["split"]), []).append(row)
    return [_extraction(arm, split, some, rng) for (arm, split), some in groups.items()]


def _extraction(arm: str, split: str, rows: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Extraction:
    greedy, n = sum(bool(row["greedy_match"]) for row in rows), len(rows)
    chances = expected_extraction([row["suffix_logprob_nats"] for row in rows])
    means = chances[rng.integers(0, n, (_RESAMPLES, n))].mean(axis=1) if n > 1 else None
    interval = None if means is None else Interval(*np.quantile(means, [0.025, 0.975]).tolist())
    return Extraction(arm, split, n, greedy, greedy / n, clopper_pearson(greedy, n), float(chances.mean()), interval)


def expected_extraction(log_probability_nats: Sequence[float], tries: int = TRIES) -> FloatArray:
    """The chance that at least one of `tries` samples is the passage: 1 - (1 - p)^tries (Hayes et al. 2025), [n]."""
    p = np.exp(np.minimum(numbers("suffix_logprob_nats", log_probability_nats), 0.0))
    with np.errstate(divide="ignore"):
        chances: FloatArray = -np.expm1(tries * np.log1p(-p))
    return chances


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval for a share of k in n (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    return Interval(low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail)))


def auc(members: FloatArray, others: FloatArray) -> float:
    """The chance that one of `members` is larger than one of `others`; ties count half (Mann & Whitney 1947)."""
    ordered = np.sort(others)
    below, upto = np.searchsorted(ordered, members, side="left"), np.searchsorted(ordered, members, side="right")
    return float((below + upto).mean() / (2 * len(others)))


def membership(
    train_gains: FloatArray, held_out_gains: FloatArray, gap: Difference | None, margin: float, rng: np.random.Generator
) -> Membership:
    """From gains in nats a token, one a document; the interval of the AUC is a bootstrap over the documents of both sets."""
    if len(train_gains) < 2 or len(held_out_gains) < 2:
        return Membership(None, None, None, None, None, "Fewer than two documents of a kind were scored.")
    draws = [
        auc(rng.choice(train_gains, len(train_gains)), rng.choice(held_out_gains, len(held_out_gains))) for _ in range(_RESAMPLES)
    ]
    value, ci95 = auc(train_gains, held_out_gains), Interval(*np.quantile(draws, [0.025, 0.975]).tolist())
    if gap is None or not math.isfinite(gap.value):
        return Membership(value, ci95, None, None, None, "The gap between training and held-out gain is not known.")
    memorising = ci95.low > MEMORISING_AUC and gap.value > margin
    reason = (
        f"A training document gained more than a held-out one with probability {value:.2f} (95 % {ci95.low:.2f} to {ci95.high:.2f}); "
        f"memorising would be a lower end above {MEMORISING_AUC} and a gap above {margin:g} nats a token (it is {gap.value:+.4f})."
    )
    return Membership(value, ci95, gap.value, gap.ci95, memorising, reason)


def read_extraction(path: Path) -> list[dict[str, Any]]:
    """The rows of `extraction.parquet`; DataError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = ["arm", "document", "split", "greedy_match", "suffix_logprob_nats"]
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise DataError("run/damaged", f"{path.name}: not readable; delete the file and run again.") from None
    return rows
