"""Four answers, and why (METHODS S1.4, S1.5). "No effect" is not among them: what could not be seen is inconclusive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from galvan.statistics.ratio import Interval, percent_of_perplexity
from galvan.statistics.units import Unit

Verdict = Literal["improved", "worse", "equivalent", "inconclusive"]

FEWEST_UNITS = 5
FEW_UNITS = 10


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the sentence that gives its reason, and what to keep in mind with it."""

    verdict: Verdict
    reason: str
    cautions: tuple[str, ...]


def judge(
    ci95: Interval | None, ci90: Interval | None, margin: float, n_units: int, n_effective: float, unit: Unit = "document"
) -> Judgement:
    """The verdict on a gain in nats a token from its intervals, at alpha = 0.05.

    improved / worse: `ci95` lies above / below 0. equivalent: `ci90` lies within (-margin, margin), which is TOST at 5 %
    (Schuirmann 1987). Below 5 units, or 5 effective ones, there is no verdict; below 10 there is a caution.
    """
    effective = min(float(n_units), n_effective + 1e-9)
    if ci95 is None or ci90 is None or effective < FEWEST_UNITS:
        return Judgement("inconclusive", _too_few(n_units, n_effective, unit), ())
    if ci95.low == ci95.high == 0:
        return Judgement("inconclusive", "Base and tuned are exactly equal everywhere: one model measured twice, not a result.", ())
    cautions: tuple[str, ...] = ()
    if effective < FEW_UNITS:
        cautions = (
            f"The verdict rests on few {unit}s ({n_units}, weighing like {n_effective:.1f} equal ones): repeat it on more text.",
        )
    equivalent = -margin < ci90.low and ci90.high < margin
    smaller = f" by less than the margin you called meaningful ({margin:g} nats a token)"
    if ci95.low > 0:
        reason = f"Improved, but{smaller}." if equivalent else "The 95 % interval of the gain lies above zero."
        return Judgement("improved", reason, cautions)
    if ci95.high < 0:
        reason = f"Worse, but{smaller}." if equivalent else "The 95 % interval of the gain lies below zero."
        return Judgement("worse", reason, cautions)
    if equivalent:
        return Judgement("equivalent", f"Base and tuned differ{smaller}.", cautions)
    down, up = percent_of_perplexity(ci95.high), percent_of_perplexity(ci95.low)
    reason = f"The data fit anything from {down:+.2f} % to {up:+.2f} % of perplexity: both no change and one beyond the margin."
    return Judgement("inconclusive", reason, cautions)


def _too_few(n_units: int, n_effective: float, unit: Unit) -> str:
    weigh = f", weighing like {n_effective:.1f} equal ones" if n_units >= FEWEST_UNITS else ""
    noun = unit if n_units == 1 else f"{unit}s"
    return f"Too few {unit}s: {n_units} {noun}{weigh}; a verdict needs at least {FEWEST_UNITS}."
