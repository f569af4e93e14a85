"""The course of a training run, summed up from its log: galvan's `training.jsonl`, or the history in a `trainer_state.json`.

Pure functions of the logged rows; no torch. A row has `step`, and where they are known `loss_nats`, `learning_rate`, `gradient_norm`;
galvan's first rows also have, by parameter, the gradient's norm, the norm of the step and the share of entries that the step changed;
its first and its evaluated rows have, by module, the gradient's norm and how far the update is from where it began.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

WINDOW = 4  # logged rows on either side of a jump
_B = ("lora_B", "lora_embedding_A")  # the factor that starts at zero: its gradient is not zero at the first step


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """The loss went back to where it began: means of the logged losses at the start, before `step` and from it on."""

    step: int
    first: float
    before: float
    after: float


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """What a log tells. Losses are in nats a token, as logged; rates are learning rates; None where nothing was logged.

    `integrated_rate` is the sum of the rates of all steps, `warmup_share` the part of the run before the highest rate. `not_finite` and
    `zero` are the steps whose loss or gradient norm is not finite, and whose loss is exactly 0. `last_drop` is how much the loss fell from
    the third to the last quarter of the log, `last_drop_se` its standard error.
    Of the `factors` that start at zero `silent` got no gradient at the first step. Of the `parameters` with a gradient `still` did not
    move in any watched step; `changed_share` is the part of their entries that a step changed. `gradient_left` is the largest norm of a
    gradient that was there before a step's own was added. `first_eval` is the first loss of an evaluation, after `first_eval_step` steps.
    Of the `adapted` modules `starved` had no gradient in any row that tells, and the update of `unmoved` is, in the last such row, what it was
    at the start; `delta_ratios` are the smallest and largest |dW|_F / |W|_F there.
    """

    steps: int
    first_loss: float | None = None
    last_loss: float | None = None
    highest_loss: float | None = None
    not_finite: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    last_drop: float | None = None
    last_drop_se: float | None = None
    peak_rate: float | None = None
    integrated_rate: float | None = None
    warmup_share: float | None = None
    first_norm: float | None = None
    median_norm: float | None = None
    largest_norm: float | None = None
    restart: Restart | None = None
    factors: int = 0
    silent: tuple[str, ...] = ()
    parameters: int = 0
    still: int = 0
    changed_share: float | None = None
    gradient_left: float | None = None
    first_step: int | None = None
    first_eval_step: int | None = None
    first_eval: float | None = None
    adapted: int = 0
    starved: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    delta_ratios: tuple[float, float] | None = None

    @property
    def stuck(self) -> tuple[str, ...]:
        """Adapted modules that had a gradient and never moved."""
        return tuple(name for name in self.unmoved if name not in self.starved)

    @property
    def moved_nothing(self) -> bool:
        """True if parameters had gradients and a learning rate, and no watched step changed any of them."""
        return 0 < self.parameters == self.still and (self.peak_rate is None or self.peak_rate > 0)


def course(rows: Sequence[Mapping[str, Any]]) -> Course | None:
    """Sum up the rows of a log, in order of step; None if there are none."""
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    if not rows:
        return None
    losses = [(row["step"], row["loss_nats"]) for row in rows if _number(row.get("loss_nats"))]
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    norms = [row["gradient_norm"] for row in rows if _number(row.get("gradient_norm")) and math.isfinite(row["gradient_norm"])]
    drop, error = _last_drop([loss for _, loss in finite])
    return Course(
        steps=int(rows[-1]["step"]),
        first_loss=finite[0][1] if finite else None,
        last_loss=fmean(loss for _, loss in finite[-max(1, len(finite) // 10) :]) if finite else None,
        highest_loss=max((loss for _, loss in finite[1:]), default=None),
        not_finite=tuple(row["step"] for row in rows if any(_broken(row, key) for key in ("loss_nats", "gradient_norm"))),
        zero=tuple(step for step, loss in losses if loss == 0),
        last_drop=drop,
        last_drop_se=error,
        **_rates(rows),
        first_norm=norms[0] if norms else None,
        median_norm=median(norms) if norms else None,
        largest_norm=max(norms, default=None),
        restart=_restart(finite),
        **_movement(rows),
        **_modules(rows),
        gradient_left=max((row["gradient_left"] for row in rows if _number(row.get("gradient_left"))), default=None),
        first_step=finite[0][0] if finite else None,
    )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _broken(row: Mapping[str, Any], key: str) -> bool:
    """Logged and not finite: as NaN, or as the null that JSON without NaN puts in its place."""
    return key in row and (row[key] is None or (_number(row[key]) and not math.isfinite(row[key])))


def _last_drop(losses: Sequence[float]) -> tuple[float | None, float | None]:
    quarter = len(losses) // 4
    if quarter < 2:
        return None, None
    third, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    return fmean(third) - fmean(last), math.sqrt((stdev(third) ** 2 + stdev(last) ** 2) / quarter)


def _rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rated = [(row["step"], float(row["learning_rate"])) for row in rows if _number(row.get("learning_rate"))]
    if not rated or max(rate for _, rate in rated) <= 0:
        return {"peak_rate": 0.0, "integrated_rate": 0.0} if rated else {}
    peak = max(rate for _, rate in rated)
    before, total = 0, 0.0
    for step, rate in rated:
        total += rate * (step - before)
        before = step
    first_peak = next(step for step, rate in rated if rate >= peak * (1 - 1e-9))
    return {"peak_rate": peak, "integrated_rate": total, "warmup_share": (first_peak - rated[0][0]) / max(1, rated[-1][0])}


def _restart(losses: Sequence[tuple[int, float]]) -> Restart | None:
    """The step at which the loss jumped back to where it began and stayed there; None if it nowhere did.

    The fall before and the jump must each be many times the scatter of neighbouring losses.
    """
    values = [loss for _, loss in losses]
    if len(values) < 3 * WINDOW:
        return None
    first, scatter = fmean(values[:2]), median(abs(b - a) for a, b in pairwise(values))
    for i in range(WINDOW, len(values) - WINDOW + 1):
        before, after = values[i - WINDOW : i], values[i : i + WINDOW]
        fall = first - fmean(before)
        if (
            fall > 0.1
            and fall > 5 * max(scatter, stdev(before))
            and min(after[:2]) > first - 0.25 * fall
            and abs(fmean(after[:2]) - first) < 0.25 * fall
        ):
            return Restart(losses[i][0], first, fmean(before), fmean(after[:2]))
    return None


def _movement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    watched = [row["parameters"] for row in rows if isinstance(row.get("parameters"), Mapping)]
    if not watched:
        return {}
    factors = [name for name in watched[0] if any(part in name for part in _B)]
    pulled = [name for name in watched[0] if any(seen.get(name, [0, 0, 0])[0] for seen in watched)]
    moves = {name: [seen[name] for seen in watched if name in seen and seen[name][0]] for name in pulled}
    return {
        "factors": len(factors),
        "silent": tuple(name for name in factors if not watched[0][name][0]),
        "parameters": len(pulled),
        "still": sum(not any(share for _, _, share in steps) for steps in moves.values()),
        "changed_share": fmean(share for steps in moves.values() for _, _, share in steps) if moves else None,
    }


def _modules(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    watched = [row["modules"] for row in rows if isinstance(row.get("modules"), Mapping)]
    ratios = (
        {name: seen["delta_ratio"] for name, seen in watched[-1].items() if _number(seen.get("delta_ratio"))} if watched else {}
    )
    if not ratios:
        return {}
    return {
        "adapted": len(ratios),
        "starved": tuple(name for name in ratios if not any(seen.get(name, {}).get("gradient_norm") for seen in watched)),
        "unmoved": tuple(name for name, ratio in ratios.items() if ratio == 0),
        "delta_ratios": (min(ratios.values()), max(ratios.values())),
    }
