"""What the curves of a run say: learning, under-trained, saturated, over-fitted, unstable, or not determined (METHODS S7.2).

Levels of a curve are noisy because documents differ; differences between checkpoints on the same documents are not. Every rule
here is a paired contrast with a jackknife interval, and a rule that looks at every checkpoint pays for all of them (max-T).
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

    `probe_total`: probe, start (or base) to end. `probe_late`, `held_out_late`: the last quarter of the steps. `probe_after_best`: from the
    best checkpoint to the end. All but the class and its reason are None where there are no curves to contrast.
    """

    kind: CurveClass
    reason: str
    best: BestCheckpoint | None
    probe_total: Ratio | None
    probe_late: Ratio | None
    held_out_late: Ratio | None
    probe_after_best: Ratio | None
    extrapolation: Extrapolation | None

    def falling_by(self, margin: float) -> bool:
        """True if both losses fell in the last quarter by their 95 % intervals, the held-out one by more than `margin` nats.

        A reason to train longer even where nothing allows to say how much that would give.
        """
        late = self.held_out_late
        return late is not None and late.value > margin and _falls(late) and self.probe_late is not None and _falls(self.probe_late)


def undetermined(reason: str, kind: CurveClass = "not determined") -> CurveFinding:
    """A finding without a contrast: what would have been compared is not there, or is not a number."""
    return CurveFinding(kind, reason, None, None, None, None, None, None)


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
    probe_base_nll: npt.ArrayLike | None = None,
) -> CurveFinding:
    """Classify a run from per-document NLL sums in nats at each checkpoint, step 0 first (METHODS S7.1, S7.2).

    `steps` [P] rising; `held_out_nll` P arrays [n], `held_out_tokens` [n]; `probe_nll` P arrays [m] on a fixed sample of training
    documents, `probe_tokens` [m]. `learning_rates` and `gradient_norms`, one each optimizer step, NaN where one was none. `clusters`, `sources`, `positions`
    describe the held-out documents, as in `paired_gain`. `probe_base_nll` [m]: where training went on from an adapter, the probe documents
    under the base, from which learning is then counted; nothing is extrapolated from such a curve. NaN or infinite losses are a finding, not an error; other mismatches raise DataError.
    """
    margin, t = margin_of(margin), _rising(steps)
    norms = np.asarray([] if gradient_norms is None else gradient_norms, dtype=np.float64)
    undefined = _undefined(t, held_out_nll, probe_nll, norms)
    if undefined is not None:
        return undetermined(undefined, "unstable")
    held_sizes, probe_sizes = (
        counts(name, v, np.size(v)) for name, v in (("held_out_tokens", held_out_tokens), ("probe_tokens", probe_tokens))
    )
    grouping = group_documents(held_sizes.size, clusters, sources, positions).coarsest
    held_out = _curve("held_out_nll", held_out_nll, held_sizes, grouping, t.size)
    probe = _curve("probe_nll", probe_nll, probe_sizes, group_documents(probe_sizes.size).fine, t.size)
    rates = None if learning_rates is None else numbers("learning_rates", learning_rates)
    base = None
    if probe_base_nll is not None:
        base = ratio(
            numbers("probe_base_nll", probe_base_nll, probe_sizes.size) - np.asarray(probe_nll[-1], dtype=np.float64), probe_sizes
        )
    return _classify(t, held_out, probe, margin, rates, _spike(norms), rng, base)


def _rising(steps: npt.ArrayLike) -> FloatArray:
    t = numbers("steps", steps)
    if t.size < FEWEST_CHECKPOINTS or t[0] < 0 or (np.diff(t) <= 0).any():
        raise DataError(
            "statistics/steps", f"`steps` must rise over at least {FEWEST_CHECKPOINTS} checkpoints; got {t.size} instead."
        )
    return t


def _undefined(
    t: FloatArray, held_out: Sequence[npt.ArrayLike], probe: Sequence[npt.ArrayLike], gradient_norms: FloatArray
) -> str | None:
    """The sentence for a loss or gradient that is not a number; None if all are."""
    for name, curve in (("held-out", held_out), ("probe", probe)):
        for step, losses in zip(t, curve, strict=False):
            if not np.isfinite(np.asarray(losses, dtype=np.float64)).all():
                return f"The {name} loss is not a number at step {step:g}."
    bad = np.flatnonzero(~np.isfinite(gradient_norms))
    return f"The loss or its gradient is not a number at step {bad[0] + 1}." if bad.size else None


def _spike(gradient_norms: FloatArray) -> str | None:
    if not gradient_norms.size:
        return None
    largest, median = float(gradient_norms.max()), float(np.median(gradient_norms))
    return f"A gradient norm of {largest:.3g} is {largest / median:.0f} times the median." if largest > SPIKE * median > 0 else None


def _curve(name: str, nll: Sequence[npt.ArrayLike], sizes: FloatArray, grouping: Grouping, n_checkpoints: int) -> Curve:
    if len(nll) != n_checkpoints:
        raise DataError(
            "statistics/length", f"`{name}` has {len(nll)} checkpoints where `steps` has {n_checkpoints}; give one array for each."
        )
    rows = np.stack([numbers(f"{name}[{k}]", row, sizes.size) for k, row in enumerate(nll)])
    return Curve(grouping.sums(rows), grouping.sums(sizes))


def _simultaneous(differences: FloatArray, sizes: FloatArray, rng: np.random.Generator) -> list[tuple[float, Interval | None]]:
    """Every row's fall in nats a token, with 95 % intervals that hold for all at once (max-T): `differences` [K, n_units]."""
    critical = sign_flip_max_t(differences, sizes, rng).critical95 if sizes.size > 1 else 0.0
    falls = [ratio(row, sizes) for row in differences]
    halves = [None if f.se is None or f.df is None else max(critical, t_quantile(0.975, f.df)) * f.se for f in falls]
    return [
        (f.value, None if half is None else Interval(f.value - half, f.value + half)) for f, half in zip(falls, halves, strict=True)
    ]


def best_checkpoint(t: FloatArray, held_out: Curve, rng: np.random.Generator) -> BestCheckpoint:
    """The best checkpoint but the last, and the simultaneous interval of its lead over the last."""
    best = int(held_out.levels()[:-1].argmin())
    lead, interval = _simultaneous(held_out.sums[-1] - held_out.sums[:-1], held_out.sizes, rng)[best]
    return BestCheckpoint(best, float(t[best]), lead, interval)


def _risen(held_out: Curve, rng: np.random.Generator) -> int:
    """At how many checkpoints held-out loss is above its start, by intervals that pay for looking at all of them."""
    rises = _simultaneous(held_out.sums[1:] - held_out.sums[0], held_out.sizes, rng)
    return sum(_above(interval) for _, interval in rises)


def _classify(
    t: FloatArray,
    held_out: Curve,
    probe: Curve,
    margin: float,
    rates: FloatArray | None,
    spike: str | None,
    rng: np.random.Generator,
    since_base: Ratio | None,
) -> CurveFinding:
    best = best_checkpoint(t, held_out, rng)
    quarter = int(np.flatnonzero(t <= t[0] + 0.75 * (t[-1] - t[0]))[-1])
    total, late, held_late = since_base or probe.fall(0, -1), probe.fall(quarter, -1), held_out.fall(quarter, -1)
    after_best = probe.fall(best.index, -1)
    over_fitted = _above(best.ci95) and _above(after_best.interval())
    continued = since_base is not None
    ahead = extrapolate(t, held_out.sums, held_out.sizes, rng, learning_rates=rates, over_fitted=over_fitted, continued=continued)

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
    risen = _risen(held_out, rng)
    if spike is not None or risen >= CHECKPOINTS_ABOVE_START:
        return finding("unstable", spike or f"Held-out loss is above where it started at {risen} checkpoints.")
    if whole.high < 2 * margin:
        return finding(
            "not learning", f"Loss on training text itself fell by at most {whole.high:.4f} nats, under twice the margin."
        )
    if whole.low <= 0:
        return finding("not determined", f"Loss on training text may have fallen by {whole.high:.4f} nats, or not at all.")
    return finding(*_late(late, held_late, ahead, margin))


def _above(interval: Interval | None) -> bool:
    return interval is not None and interval.low > 0


def _falls(fall: Ratio) -> bool:
    return _above(fall.interval())


def _late(late: Ratio, held_late: Ratio, ahead: Extrapolation, margin: float) -> tuple[CurveClass, str]:
    """Under-trained, saturated or not determined, from the last quarter of the steps."""
    ci95, ci90 = held_late.interval(), held_late.interval(0.90)
    assert ci95 is not None and ci90 is not None
    quarter = "in the last quarter of the steps"
    fell = f"Held-out loss fell by {held_late.value:.4f} nats ({ci95.low:.4f} to {ci95.high:.4f}) {quarter}"
    further = None if ahead.change_nats is None else -ahead.change_nats
    if ci95.low > 0 and _falls(late) and further is not None and further > margin:
        return "under-trained", f"{fell}, loss on training text fell as well, and more steps should gain more than the margin."
    if -margin / 2 < ci90.low and ci90.high < margin / 2:
        return "saturated", f"Held-out loss changed by less than {margin / 2:g} nats {quarter}."
    if ci95.high < margin:
        return "saturated", f"{fell}: by less than the margin of {margin:g}."
    if ci95.low <= 0:
        return "not determined", f"{fell}: this fits both a level and a falling end."
    if not _falls(late):
        return "not determined", f"{fell}, but loss on training text was not seen to fall."
    unknown = "how far it would go is not known" if further is None else "more steps are not expected to gain more than the margin"
    return "not determined", f"{fell}, but {unknown}."
