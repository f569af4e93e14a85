"""What the curves of a run say: learning, under-trained, saturated, over-fitted, unstable, or not determined (METHODS S7.2).

Levels of a curve are noisy because documents differ; differences between checkpoints on the same documents are not. Every rule
here is a paired contrast with a jackknife interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.statistics.checks import FloatArray, counts, margin_of, numbers
from galvan.statistics.extrapolation import Extrapolation, extrapolate
from galvan.statistics.multiple import sign_flip_max_t
from galvan.statistics.paired import DEFAULT_MARGIN
from galvan.statistics.ratio import Interval, Ratio, ratio, t_quantile
from galvan.statistics.units import Grouping, group_documents
from galvan.statistics.verdict import FEWEST_UNITS

CurveClass = Literal["not learning", "under-trained", "saturated", "over-fitted", "unstable", "not determined"]

SPIKE = 10.0  # times the median gradient norm
CHECKPOINTS_ABOVE_START = 2
FEWEST_CHECKPOINTS = 3


class Curve(NamedTuple):
    """One document set over the run: `sums` [P, n_units] of NLL in nats at each checkpoint, `sizes` [n_units] in tokens."""

    sums: FloatArray
    sizes: FloatArray

    def fall(self, earlier: int, later: int) -> Ratio:
        """By how many nats a token the loss fell between two checkpoints, paired by document."""
        return ratio(self.sums[earlier] - self.sums[later], self.sizes)

    def levels(self) -> FloatArray:
        return np.asarray(self.sums.sum(axis=1) / self.sizes.sum(), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The checkpoint of lowest held-out loss before the last, and what stopping there would have given.

    `gain_over_last` is v(end) - v(best) in nats a token; its interval pays for having looked at every checkpoint (max-T).
    """

    index: int
    step: float
    gain_over_last: float
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class CurveFinding:
    """The class of a run's curves and the contrasts behind it, all in nats a token, positive = loss fell.

    `probe_total`: probe, start to end. `probe_late`, `held_out_late`: the last quarter of the steps. `probe_after_best`: from the
    best checkpoint to the end. Contrasts are None where the run is unstable by undefined numbers.
    """

    kind: CurveClass
    reason: str
    best: BestCheckpoint | None
    probe_total: Ratio | None
    probe_late: Ratio | None
    held_out_late: Ratio | None
    probe_after_best: Ratio | None
    extrapolation: Extrapolation | None


def classify_curves(
    steps: npt.ArrayLike,
    held_out_nll: Sequence[npt.ArrayLike],
    held_out_tokens: npt.ArrayLike,
    probe_nll: Sequence[npt.ArrayLike],
    probe_tokens: npt.ArrayLike,
    rng: np.random.Generator,
    margin: float = DEFAULT_MARGIN,
    *,
    learning_rates: npt.ArrayLike | None = None,
    gradient_norms: npt.ArrayLike | None = None,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    sources: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    positions: npt.ArrayLike | None = None,
) -> CurveFinding:
    """Classify a run from per-document NLL sums in nats at each checkpoint, step 0 first (METHODS S7.1, S7.2).

    `steps` [P] rising; `held_out_nll` P arrays [n], `held_out_tokens` [n]; `probe_nll` P arrays [m] on a fixed sample of training
    documents, `probe_tokens` [m]. `learning_rates` [P], `gradient_norms` of any length. `clusters`, `sources`, `positions`
    describe the held-out documents, as in `paired_gain`. NaN or infinite losses are a finding, not an error; other mismatches raise DataError.
    """
    margin, t = margin_of(margin), _rising(steps)
    undefined = _undefined(t, held_out_nll, probe_nll, gradient_norms)
    if undefined is not None:
        return CurveFinding("unstable", undefined, None, None, None, None, None, None)
    held_sizes, probe_sizes = (
        counts(name, v, np.size(v)) for name, v in (("held_out_tokens", held_out_tokens), ("probe_tokens", probe_tokens))
    )
    grouping = group_documents(held_sizes.size, clusters, sources, positions).coarsest
    held_out = _curve("held_out_nll", held_out_nll, held_sizes, grouping, t.size)
    probe = _curve("probe_nll", probe_nll, probe_sizes, group_documents(probe_sizes.size).fine, t.size)
    rates = None if learning_rates is None else numbers("learning_rates", learning_rates, t.size)
    return _classify(t, held_out, probe, margin, rates, rng)


def _rising(steps: npt.ArrayLike) -> FloatArray:
    t = numbers("steps", steps)
    if t.size < FEWEST_CHECKPOINTS or t[0] < 0 or (np.diff(t) <= 0).any():
        raise DataError(
            "statistics/steps", f"`steps` must rise over at least {FEWEST_CHECKPOINTS} checkpoints; got {t.size} instead."
        )
    return t


def _undefined(
    t: FloatArray, held_out: Sequence[npt.ArrayLike], probe: Sequence[npt.ArrayLike], gradient_norms: npt.ArrayLike | None
) -> str | None:
    """The sentence for a loss or gradient that is not a number, or a gradient spike; None if all is well."""
    for name, curve in (("held-out", held_out), ("probe", probe)):
        for step, losses in zip(t, curve, strict=False):
            if not np.isfinite(np.asarray(losses, dtype=np.float64)).all():
                return f"The {name} loss is not a number at step {step:g}."
    if gradient_norms is None or not np.size(gradient_norms):
        return None
    norms = np.asarray(gradient_norms, dtype=np.float64)
    if not np.isfinite(norms).all():
        return "A gradient norm is not a number."
    largest, median = float(norms.max()), float(np.median(norms))
    return f"A gradient norm of {largest:.3g} is {largest / median:.0f} times the median." if largest > SPIKE * median > 0 else None


def _curve(name: str, nll: Sequence[npt.ArrayLike], sizes: FloatArray, grouping: Grouping, n_checkpoints: int) -> Curve:
    if len(nll) != n_checkpoints:
        raise DataError(
            "statistics/length", f"`{name}` has {len(nll)} checkpoints where `steps` has {n_checkpoints}; give one array for each."
        )
    rows = np.stack([numbers(f"{name}[{k}]", row, sizes.size) for k, row in enumerate(nll)])
    return Curve(grouping.sums(rows), grouping.sums(sizes))


def best_checkpoint(t: FloatArray, held_out: Curve, rng: np.random.Generator) -> BestCheckpoint:
    """The best checkpoint but the last, and the simultaneous interval of its lead over the last."""
    best = int(held_out.levels()[:-1].argmin())
    lead = held_out.fall(-1, best)
    if lead.se is None or lead.df is None:
        return BestCheckpoint(best, float(t[best]), lead.value, None)
    looked = sign_flip_max_t(held_out.sums[-1] - held_out.sums[:-1], held_out.sizes, rng)
    half = max(looked.critical95, t_quantile(0.975, lead.df)) * lead.se
    return BestCheckpoint(best, float(t[best]), lead.value, Interval(lead.value - half, lead.value + half))


def _classify(
    t: FloatArray, held_out: Curve, probe: Curve, margin: float, rates: FloatArray | None, rng: np.random.Generator
) -> CurveFinding:
    best = best_checkpoint(t, held_out, rng)
    quarter = int(np.flatnonzero(t <= t[0] + 0.75 * (t[-1] - t[0]))[-1])
    total, late, held_late = probe.fall(0, -1), probe.fall(quarter, -1), held_out.fall(quarter, -1)
    after_best = probe.fall(best.index, -1)
    over_fitted = _above(best.ci95) and _above(after_best.interval())
    ahead = extrapolate(t, held_out.sums, held_out.sizes, rng, learning_rates=rates, over_fitted=over_fitted)

    def finding(kind: CurveClass, reason: str) -> CurveFinding:
        return CurveFinding(kind, reason, best, total, late, held_late, after_best, ahead)

    whole = total.interval()
    fewest = min(total.n_effective, held_late.n_effective) + 1e-9
    if fewest < FEWEST_UNITS or whole is None:
        return finding(
            "not determined", f"Too few documents: a curve is read from at least {FEWEST_UNITS} independent ones in each set."
        )
    if over_fitted:
        return finding(
            "over-fitted",
            f"Held-out loss was {best.gain_over_last:.4f} nats lower at step {best.step:g}, while training loss fell on.",
        )
    risen = _risen(held_out)
    if len(risen) >= CHECKPOINTS_ABOVE_START:
        return finding(
            "unstable",
            f"Held-out loss is above where it started at {len(risen)} checkpoints, and training loss does not fall instead.",
        )
    if whole.high < 2 * margin:
        return finding(
            "not learning", f"Loss on training text itself fell by at most {whole.high:.4f} nats, under twice the margin."
        )
    kind, reason = _late(late, held_late, ahead, margin)
    return finding(kind, reason)


def _above(interval: Interval | None) -> bool:
    return interval is not None and interval.low > 0


def _risen(held_out: Curve) -> list[int]:
    """Checkpoints whose held-out loss is above the start by its 95 % interval."""
    return [k for k in range(1, len(held_out.sums)) if _above(held_out.fall(k, 0).interval())]


def _late(late: Ratio, held_late: Ratio, ahead: Extrapolation, margin: float) -> tuple[CurveClass, str]:
    """Under-trained, saturated or not determined, from the last quarter of the steps."""
    if _above(late.interval()) and _above(held_late.interval()) and ahead.change_nats is not None and -ahead.change_nats > margin:
        return "under-trained", f"Both losses were still falling in the last quarter. {ahead.reason}"
    ci95, ci90 = held_late.interval(), held_late.interval(0.90)
    assert ci95 is not None and ci90 is not None
    if -margin / 2 < ci90.low and ci90.high < margin / 2:
        return "saturated", f"Held-out loss changed by less than {margin / 2:g} nats in the last quarter of the steps."
    if ci95.high < margin:
        return "saturated", f"Held-out loss fell by less than {margin:g} nats in the last quarter of the steps."
    open_point = "may still be falling" if ci95.low <= 0 else f"is still falling, but not how far it would go: {ahead.reason}"
    return "not determined", f"Held-out loss {open_point}" + ("." if not open_point.endswith(".") else "")
