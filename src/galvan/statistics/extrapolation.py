"""What twice as many steps might give: v(t) = c + a t^-b, with an interval, or the reason why nothing is said (METHODS S7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray
from galvan.statistics.ratio import Interval, jackknife_se
from galvan.statistics.verdict import FEWEST_UNITS

B_RANGE = (0.05, 2.0)
BOOTSTRAP = 500
FEWEST_POINTS = 5
WIDEST_FLOOR = 5.0  # times the predicted gain
DECAYED = 0.05  # of the peak learning rate


class PowerLaw(NamedTuple):
    """c + a t^-b; each field has the shape [...] of the curves that were fitted."""

    c: FloatArray
    a: FloatArray
    b: FloatArray

    def at(self, t: float) -> FloatArray:
        return np.asarray(self.c + self.a * t**-self.b, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """`change_nats`: predicted v(2t) - v(t) in nats a token (negative = better), with its 80 % interval.

    `floor_nats` is c. All None, with the `reason`, where the curve does not support a prediction.
    """

    change_nats: float | None
    ci80: Interval | None
    floor_nats: float | None
    floor_ci80: Interval | None
    exponent: float | None
    until_step: float | None
    reason: str


def fit_power_law(steps: FloatArray, values: FloatArray, weights: FloatArray | None = None) -> PowerLaw:
    """Weighted least squares of c + a t^-b with b in [.05, 2] and a >= 0; `steps` [P] > 0, `values` [..., P], weights [P].

    For each b the best c and a have closed forms, so b alone is searched: a grid, then three refinements of it.
    """
    w = np.ones(steps.size) if weights is None else weights
    w = w / w.sum()
    curves = np.atleast_2d(values)
    scaled = np.log(steps / steps[-1])
    grid = np.broadcast_to(np.geomspace(*B_RANGE, 33), (len(curves), 33))
    for _ in range(4):
        best, c, a = _best_on_grid(grid, scaled, curves, w)
        rows = np.arange(len(curves))
        low = grid[rows, np.maximum(best - 1, 0)]
        high = grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
        b = grid[rows, best]
        grid = np.geomspace(low, high, 33, axis=1)
    a = a * steps[-1] ** b
    shape = values.shape[:-1]
    return PowerLaw(c.reshape(shape), a.reshape(shape), b.reshape(shape))


def _best_on_grid(
    grid: FloatArray, log_steps: FloatArray, curves: FloatArray, w: FloatArray
) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """Index of the best b, and its c and a, for every curve: grid [N, G], curves [N, P]."""
    x = np.exp(-grid[:, :, None] * log_steps)
    x_mean = x @ w
    y_mean = curves @ w
    centred = x - x_mean[:, :, None]
    slope = np.einsum("ngp,np->ng", centred * w, curves - y_mean[:, None]) / ((centred**2) @ w)
    slope = np.maximum(slope, 0.0)
    lost = ((curves - y_mean[:, None])[:, None, :] - slope[:, :, None] * centred) ** 2 @ w
    best = lost.argmin(axis=1)
    rows = np.arange(len(curves))
    a = slope[rows, best]
    return best, y_mean - a * x_mean[rows, best], a


def extrapolate(
    steps: FloatArray,
    sums: FloatArray,
    sizes: FloatArray,
    rng: np.random.Generator,
    *,
    learning_rates: FloatArray | None = None,
    over_fitted: bool = False,
    continued: bool = False,
    resamples: int = BOOTSTRAP,
) -> Extrapolation:
    """Fit the held-out curve and predict its change from now to twice the steps; documents (units) are bootstrapped.

    `steps` [P], `sums` [P, n] NLL in nats by unit, `sizes` [n] tokens. Step 0 has no place on a power law and is left out. Refused
    for under 5 points or 5 units, a run that went on from an adapter (`continued`), an over-fitted curve, a learning rate that has decayed to nothing, or a floor that the data leave open.
    """
    kept = steps > 0
    t, curve = steps[kept], sums[kept]
    if t.size < FEWEST_POINTS:
        return _refused(f"{t.size} evaluations after step 0 are too few to extrapolate; {FEWEST_POINTS} are needed.")
    if sizes.size < FEWEST_UNITS:
        return _refused(
            f"Too few documents to extrapolate from: {sizes.size} independent held-out; at least {FEWEST_UNITS} are needed."
        )
    if continued:
        return _refused("Training went on from an adapter, so that its steps are not counted from the base, as a power law needs.")
    if over_fitted:
        return _refused("The held-out curve has turned: more steps make it worse, and no power law says how fast.")
    if learning_rates is not None and learning_rates[-1] < DECAYED * learning_rates.max():
        return _refused(
            "The learning rate had decayed to almost nothing: the curve ends for that reason and says nothing about more steps."
        )
    total = sizes.sum()
    weights = _weights(curve, sizes)
    fit = fit_power_law(t, curve.sum(axis=1) / total, weights)
    if fit.a <= 0:
        return _refused("The held-out curve does not fall; there is nothing to extend.")
    drawn = rng.multinomial(sizes.size, np.full(sizes.size, 1 / sizes.size), size=resamples).astype(np.float64)
    fits = fit_power_law(t, drawn @ curve.T / (drawn @ sizes)[:, None], weights)
    change = float(fit.at(2 * t[-1]) - fit.at(t[-1]))
    ci80 = _middle80(fits.at(2 * t[-1]) - fits.at(t[-1]))
    # The floor is only of interest from where the curve is now: the level itself varies with the documents drawn.
    now = float(fit.at(t[-1]))
    floor = _middle80(fits.c - fits.at(t[-1]))
    if floor.high - floor.low > WIDEST_FLOOR * abs(change):
        width, gain = floor.high - floor.low, abs(change)
        return _refused(f"The data leave the curve's floor open ({width:.3g} nats wide, for a predicted gain of {gain:.3g}).")
    span = f"80 % interval {ci80.low:+.4f} to {ci80.high:+.4f}"
    reason = f"By step {2 * t[-1]:g} held-out loss would change by {change:+.4f} nats a token ({span})."
    return Extrapolation(
        change, ci80, float(fit.c), Interval(floor.low + now, floor.high + now), float(fit.b), float(2 * t[-1]), reason
    )


def _weights(curve: FloatArray, sizes: FloatArray) -> FloatArray:
    """Inverse variances of the points about the documents' own means: curve [P, n]. Equal where there is no such variance."""
    variances = np.square(jackknife_se(curve - curve.mean(axis=0), sizes))
    typical = float(np.median(variances))
    return np.ones(len(curve)) if typical == 0 else np.asarray(1 / np.maximum(variances, 0.01 * typical), dtype=np.float64)


def _middle80(values: FloatArray) -> Interval:
    low, high = np.quantile(values, [0.10, 0.90])
    return Interval(float(low), float(high))


def _refused(reason: str) -> Extrapolation:
    return Extrapolation(None, None, None, None, None, None, reason)
