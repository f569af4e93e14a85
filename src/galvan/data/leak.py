"""Held-out text that training has seen proves nothing: which overlaps are a leak, and the refusal."""

from __future__ import annotations

from galvan.data.facts import Audit, Overlap
from galvan.errors import DataError

COPIED_SHARE = 0.02  # of the words of a split in copies that are no formulas (METHODS S5.6)


def reasons(pair: Overlap) -> list[str]:
    """Why `pair` is a leak, most telling first; empty where it is none. Phrases and short sentences that recur are none."""
    said = []
    if pair.leaking:
        said.append(
            f"{pair.leaking} of {pair.documents} {pair.b} documents share 20 words or more in a row with {pair.a} "
            f"(longest {pair.longest_span_words}; {', '.join(pair.leaking_documents[:3])})"
        )
    if pair.long_duplicates:
        said.append(f"{pair.long_duplicates} of {pair.documents} {pair.b} documents stand whole in {pair.a}")
    if pair.near_duplicates:
        said.append(f"{pair.near_duplicates} of {pair.documents} {pair.b} documents are nearly one of {pair.a}")
    if said:
        return said
    if pair.copied_runs is not None and pair.copied_runs > COPIED_SHARE:
        said.append(f"{pair.copied_runs:.1%} of the words of {pair.b} stand in copies of 13 words or more from {pair.a}")
    return said


def leaks(facts: Audit) -> list[str]:
    """One sentence for each pair of splits that leaks, and for training and the neutral set."""
    pairs = [*facts.overlaps, *([facts.neutral] if facts.neutral is not None else [])]
    return ["; ".join(said) for said in map(reasons, pairs) if said]


def refuse(facts: Audit) -> None:
    """Raises DataError `data/leak` where splits share text and the recipe does not allow it."""
    found = leaks(facts)
    if found and facts.leaks != "allow":
        raise DataError(
            "data/leak",
            f"data.split: {'; '.join(found)}: what was trained on cannot judge. audit.json has the whole of it; remove the copies, "
            "split by block or group, or set data.split.leaks to remove or allow.",
        )
