"""Enough documents to choose by and to judge by, without a document that chose before ever judging.

The splitter draws test documents first. So where the test share stays, more validation documents leave the test part what it was; and it
grows only where nothing was ever chosen, because there was no validation part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from galvan import recipe as recipes
from galvan.errors import DataError
from galvan.recipe import Recipe
from galvan.rundir import each_document

FEWEST_TO_CHOOSE, FEWEST_TO_JUDGE = 20, 40  # documents
SHARE = 0.2  # of all documents, for each part that has too few
MOST = 0.5  # for both together


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOut:
    """The recipe that the loop works with, and what was changed about the split, in a sentence; None where nothing was."""

    recipe: Recipe
    changed: str | None


def enough_held_out(asked: Recipe, run: Path) -> HeldOut:
    """The recipe with larger validation and test parts where the run's are too small and more can be had."""
    counts = {name: sum(1 for _ in each_document(run / "data" / f"{name}.jsonl")) for name in ("train", "validation", "test")}
    total, share = sum(counts.values()), asked.data.split
    wanted = {"validation": _share(counts["validation"], FEWEST_TO_CHOOSE, share.validation, total), "test": share.test}
    if not counts["validation"]:
        wanted["test"] = _share(counts["test"], FEWEST_TO_JUDGE, share.test, total)
    if sum(wanted.values()) > MOST:
        wanted["validation"] = max(share.validation, MOST - wanted["test"])
    if wanted["validation"] * total < 1:
        raise DataError("improve/no-validation", f"{total} documents are too few to hold some out for choosing; give more text.")
    values = {f"data.split.{part}": value for part, value in wanted.items() if value != getattr(share, part)}
    if not values:
        return HeldOut(asked, None)
    if share.leaks == "refuse":
        values["data.split.leaks"] = "remove"  # type: ignore[assignment]
    return HeldOut(recipes.with_values(asked, values, "galvan improve"), _sentence(counts, values))


def _share(found: int, fewest: int, share: float, total: int) -> float:
    if found >= fewest:
        return share
    return max(share, math.ceil(100 * max(SHARE, min(fewest / max(total, 1), MOST / 2))) / 100)


def _sentence(counts: Mapping[str, int], values: Mapping[str, object]) -> str:
    parts = [f"{name} ({counts[name]} documents)" for name in ("validation", "test") if f"data.split.{name}" in values]
    return f"Held out more for {' and '.join(parts)}: {', '.join(f'{k}={v}' for k, v in values.items())}. No document that chose now judges."
