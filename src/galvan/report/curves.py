"""A run's learning curves, from its files to the one classifier of curves (`galvan.statistics.curves`).

Validation documents choose; the verdict's test documents are not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from galvan.errors import DataError
from galvan.rundir import Document
from galvan.statistics.curves import FEWEST_CHECKPOINTS, CurveClass, CurveFinding, classify_curves, undetermined

_Sums = dict[str, tuple[float, int]]  # document to its NLL in nats and its tokens


@dataclass(frozen=True, slots=True)
class Point:
    """Mean NLL in nats a token after `step` steps; None where a set was not scored."""

    step: int
    validation: float | None
    probe: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """The class of a run's curves, and the evaluations behind it; `best_step` has the lowest validation NLL."""

    finding: CurveFinding
    points: tuple[Point, ...]
    best_step: int | None

    @property
    def kind(self) -> CurveClass:
        return self.finding.kind

    @property
    def reason(self) -> str:
        return self.finding.reason

    @property
    def twice_as_long(self) -> str | None:
        """What twice the steps would give, with its 80 % interval, or why that is not said; None where nothing was compared."""
        ahead = self.finding.extrapolation
        return None if ahead is None else ahead.reason


def curve(
    rows: Sequence[Mapping[str, Any]],
    trace: Sequence[Mapping[str, Any]],
    margin: float,
    seed: int = 0,
    validation: Sequence[Document] = (),
) -> Curve:
    """Classify a run from `curves.jsonl` and `training.jsonl`; `margin` in nats a token, `seed` for max-T and bootstrap.

    `validation` are the held-out documents, for their sources and places. DataError if a row is not one of ours.
    """
    try:
        held_out, probe, base = (_by_step(rows, name) for name in ("validation", "probe", "probe_base"))
        norms = [_number(row["gradient_norm"]) + 0 * _number(row["loss_nats"]) for row in trace]  # NaN if either is
        rates = [float(row["learning_rate"]) for row in trace]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            "run/damaged", "curves.jsonl or training.jsonl: a row lacks what the training loop writes; train again."
        ) from None
    steps = sorted(set(held_out) | set(probe))
    points = tuple(Point(step, _mean(held_out.get(step)), _mean(probe.get(step))) for step in steps)
    scored = [(point.validation, point.step) for point in points if point.validation is not None]
    missing = _missing(steps, held_out, probe)
    if missing is not None:
        finding = undetermined(missing)
    else:
        known = {d.id: d for d in validation}
        places = [known[name] for name in held_out[steps[0]] if name in known]
        under_base = [base[0][name][0] for name in probe[steps[0]]] if base.get(0, {}).keys() == probe[steps[0]].keys() else None
        placed = len(places) == len(held_out[steps[0]])
        finding = classify_curves(
            steps, *_arrays(steps, held_out), *_arrays(steps, probe), np.random.default_rng(seed), margin,
            learning_rates=rates or None, gradient_norms=norms,
            sources=[d.source for d in places] if placed else None, positions=[d.position for d in places] if placed else None,
            probe_base_nll=under_base,
        )  # fmt: skip
    return Curve(finding, points, min(scored)[1] if scored else None)


def _number(value: float | None) -> float:
    """JSON has no NaN: the loop writes null."""
    return float("nan") if value is None else float(value)


def _by_step(rows: Sequence[Mapping[str, Any]], name: str) -> dict[int, _Sums]:
    found: dict[int, _Sums] = {}
    for row in rows:
        if row["set"] == name:
            found.setdefault(int(row["step"]), {})[str(row["document"])] = (float(row["nll_nats"]), int(row["n_tokens"]))
    return found


def _mean(sums: _Sums | None) -> float | None:
    return sum(nll for nll, _ in sums.values()) / sum(n for _, n in sums.values()) if sums else None


def _missing(steps: Sequence[int], held_out: Mapping[int, _Sums], probe: Mapping[int, _Sums]) -> str | None:
    """What the classifier would have to compare and cannot, in a sentence."""
    if len(steps) < FEWEST_CHECKPOINTS:
        return f"Fewer than {FEWEST_CHECKPOINTS} evaluations were made."
    for name, found in (("validation", held_out), ("training", probe)):
        if not found:
            return f"No {name} documents were followed."
        if set(found) != set(steps) or any(found[step].keys() != found[steps[0]].keys() for step in steps):
            return f"Not the same {name} documents were scored at every evaluation."
    return None


def _arrays(steps: Sequence[int], found: Mapping[int, _Sums]) -> tuple[list[list[float]], list[int]]:
    """NLL sums by step and document, and the documents' tokens, in the order of the first evaluation."""
    first = found[steps[0]]
    return [[found[step][name][0] for name in first] for step in steps], [n for _, n in first.values()]
