"""What the learning curves say (METHODS S7.2): paired differences between checkpoints on the same documents, never levels.

Validation documents choose; the verdict's test documents are not looked at here. Extrapolation (S7.3) is not done: in its place a
run counts as under-trained if its last quarter alone still gained more than the margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from galvan.errors import DataError
from galvan.statistics.paired import Gain, paired_gain
from galvan.statistics.ratio import Interval

Class = Literal["not learning", "under-trained", "saturated", "over-fitted", "unstable", "not determined"]
FEWEST_DOCUMENTS = 5
SPIKE = 10.0  # gradient norms above so many medians
DECAYED = 0.1  # of its peak


@dataclass(frozen=True, slots=True)
class Point:
    """Mean NLL in nats a token after `step` steps; None where a set was not scored."""

    step: int
    validation: float | None
    probe: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """`kind` and why. Gains are from step 0 to the end, in nats a token; `best_step` has the lowest validation NLL.

    `decayed`: the learning rate had all but gone when training ended, so that a level end need not be the end (METHODS S7.3).
    """

    kind: Class
    reason: str
    points: tuple[Point, ...]
    best_step: int | None
    validation_gain: Gain | None
    probe_gain: Gain | None
    decayed: bool


class _Set:
    """One set of documents at every evaluation: NLL sums and token counts by step."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], name: str, margin: float) -> None:
        self.at: dict[int, dict[str, tuple[float, int]]] = {}
        self.margin = margin
        for row in rows:
            if row["set"] == name:
                self.at.setdefault(int(row["step"]), {})[str(row["document"])] = (float(row["nll_nats"]), int(row["n_tokens"]))

    def mean(self, step: int) -> float | None:
        values = self.at.get(step)
        return None if not values else sum(nll for nll, _ in values.values()) / sum(n for _, n in values.values())

    def gain(self, start: int, end: int) -> Gain | None:
        """Paired gain from `start` to `end`, or None where the documents are too few to say."""
        first, last = self.at.get(start, {}), self.at.get(end, {})
        if set(first) != set(last) or len(first) < FEWEST_DOCUMENTS:
            return None
        names = sorted(first)
        return paired_gain(
            [first[d][0] for d in names], [last[d][0] for d in names], [first[d][1] for d in names], margin=self.margin
        )


def curve(rows: Sequence[Mapping[str, Any]], trace: Sequence[Mapping[str, Any]], margin: float) -> Curve:
    """Classify a run from `curves.jsonl` and `training.jsonl`; `margin` in nats a token. DataError if a row is not one of ours."""
    try:
        validation, probe = _Set(rows, "validation", margin), _Set(rows, "probe", margin)
        norms = [row["gradient_norm"] for row in trace]
        losses = [row["loss_nats"] for row in trace]
        rates = [float(row["learning_rate"]) for row in trace]
        steps = sorted(set(validation.at) | set(probe.at))
        points = tuple(Point(step, validation.mean(step), probe.mean(step)) for step in steps)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            "run/damaged", "curves.jsonl or training.jsonl: a row lacks what the training loop writes; train again."
        ) from None
    decayed = bool(rates) and rates[-1] < DECAYED * max(rates)
    if len(steps) < 2:
        return Curve("not determined", "Fewer than two evaluations were made.", points, None, None, None, decayed)
    v, p = validation.gain(steps[0], steps[-1]), probe.gain(steps[0], steps[-1])
    scored = [point for point in points if point.validation is not None]
    best = min(scored, key=lambda point: point.validation or 0.0).step if scored else None
    kind, reason = _kind(validation, probe, steps, norms, losses, margin)
    if kind == "saturated" and decayed:
        reason += f" But the learning rate ended at {100 * rates[-1] / max(rates):.1f} % of its peak, which levels any curve."
    return Curve(kind, reason, points, best, v, p, decayed)


def _kind(validation: _Set, probe: _Set, steps: list[int], norms: list[Any], losses: list[Any], margin: float) -> tuple[Class, str]:
    broken = [i + 1 for i, pair in enumerate(zip(losses, norms, strict=True)) if None in pair]
    if broken:
        return "unstable", f"The loss or gradient at step {broken[0]} is not a number."
    end, learned = steps[-1], probe.gain(steps[0], steps[-1])
    if learned is None or learned.ci95 is None:
        return "not determined", f"Fewer than {FEWEST_DOCUMENTS} training documents were followed."
    if learned.ci95.high < 2 * margin:
        return (
            "not learning",
            f"On training text the model gained {_span(learned.nats_per_token, learned.ci95)} from step 0 to step {end}: under twice the margin.",
        )
    earlier = [step for step in steps[:-1] if validation.mean(step) is not None]
    lost = _over_fitted(validation, probe, earlier, end)
    if lost:
        return "over-fitted", lost
    worse = [s for s in steps[1:] if (g := validation.gain(steps[0], s)) is not None and g.ci95 is not None and g.ci95.high < 0]
    if len(worse) >= 2:
        return "unstable", f"Held-out loss stood above its start at {len(worse)} evaluations, first at step {worse[0]}."
    if norms and max(norms) > SPIKE * median(norms):
        return "unstable", f"The gradient norm rose to {max(norms):.3g}, over {SPIKE:g} times its median of {median(norms):.3g}."
    return _ending(validation, probe, steps, margin)


def _over_fitted(validation: _Set, probe: _Set, earlier: list[int], end: int) -> str | None:
    """Why, or None. The best of several checkpoints is compared, so its interval is widened for their number (Bonferroni)."""
    if not earlier:
        return None
    best = min(earlier, key=lambda step: validation.mean(step) or 0.0)
    rise, fall = validation.gain(end, best), probe.gain(best, end)
    interval = rise.ratio.interval(1 - 0.05 / len(earlier)) if rise else None
    if rise is None or interval is None or interval.low <= 0 or fall is None or fall.nats_per_token <= 0:
        return None
    return (
        f"From step {best} to step {end} held-out loss rose by {_span(rise.nats_per_token, interval)}, "
        f"while on training text it still fell by {fall.nats_per_token:.4f}."
    )


def _ending(validation: _Set, probe: _Set, steps: list[int], margin: float) -> tuple[Class, str]:
    end = steps[-1]
    start = max((step for step in steps[:-1] if step <= 0.75 * end), default=steps[0])
    held, train = validation.gain(start, end), probe.gain(start, end)
    if held is None or held.ci95 is None or train is None or train.ci95 is None:
        return "not determined", f"Fewer than {FEWEST_DOCUMENTS} validation documents were followed."
    what = f"From step {start} to step {end} held-out loss fell by {_span(held.nats_per_token, held.ci95)}"
    if held.ci95.low > 0 and train.ci95.low > 0 and held.nats_per_token > margin:
        return "under-trained", f"{what}: it was still falling when training ended."
    if held.ci95.high < margin:
        return "saturated", f"{what}: less than the margin of {margin:g}, so it has levelled out."
    return "not determined", f"{what}: this fits both a level and a falling end."


def _span(value: float, interval: Interval) -> str:
    return f"{value:.4f} nats a token ({interval.low:.4f} to {interval.high:.4f})"
