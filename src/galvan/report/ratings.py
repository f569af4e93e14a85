"""What readers said, for people: one section of analysis.md."""

from __future__ import annotations

from galvan.report.evidence import Evidence
from galvan.report.markdown import md, table
from galvan.statistics.preference import SAME_WITHIN, WinRate

DECISIONS = {
    "preferred": "Readers prefer the tuned model's texts",
    "not preferred": "Readers prefer the base model's texts",
    "no clear preference": f"Readers prefer neither by more than {100 * SAME_WITHIN:.0f} points",
    "go on": "Not decided yet: more answers are needed",
}


def ratings_section(e: Evidence) -> str:
    """`## What did readers say?`, or nothing where nobody judged or the comparison is refused."""
    found = e.ratings
    if found is None or e.refusal is not None:
        return ""
    so_far = found.so_far
    parts = [
        f"## What did readers say?\n\n{DECISIONS[so_far.decision]}. After the first answer to each of {so_far.n} prompts the tuned model's "
        f"win rate lies in {so_far.low:.2f} to {so_far.high:.2f}, 95 %, however often one looked on the way."
    ]
    asked = (("Tuned preferred to base", found.tuned), ("The author preferred to tuned (control)", found.author))
    rows = [_row(question, rate) for question, rate in asked if rate is not None]
    parts.append(table(["Blind review, ties are half a win", "Share (95 % interval)", "Answers", "Prompts", "Raters"], rows))
    alpha = "not measurable: no pair has two answers that could differ" if found.alpha is None else f"{found.alpha:.2f}"
    parts.append(f"Agreement between raters, Krippendorff's alpha: {alpha}. {found.skipped} skipped, {found.undone} undone.")
    return "\n\n".join([*parts, *(f"Caution: {md(caution)}" for caution in found.cautions)])


def _row(question: str, rate: WinRate) -> list[str]:
    interval = "no interval" if rate.ci95 is None else f"{rate.ci95.low:.2f} to {rate.ci95.high:.2f}"
    return [question, f"{rate.value:.2f} ({interval})", f"{rate.n:,}", f"{rate.n_prompts:,}", f"{rate.n_raters:,}"]
