"""The catalogue for people: what `galvan explain` prints."""

from __future__ import annotations

import dataclasses
import textwrap

from galvan.diagnosis.catalogue import Cause, causes, explain
from galvan.run import to_json

_PARTS = ("symptom", "proof", "remedy", "settle")


def explained(code: str | None, as_json: bool = False) -> str:
    """One cause, or all of them where `code` is None, as text or JSON. RecipeError if there is no such code."""
    rows = causes() if code is None else [explain(code)]
    if as_json:
        plain = [{**dataclasses.asdict(row), "family": row.family} for row in rows]
        return to_json(plain if code is None else plain[0])
    return "\n\n".join(_text(row) for row in rows)


def _text(row: Cause) -> str:
    lines = [f"{row.code} {row.title} ({row.family})"]
    for part in _PARTS:
        lines += textwrap.wrap(f"{part:8} {getattr(row, part)}", 100, initial_indent="  ", subsequent_indent=" " * 11)
    lines.append(f"  sources  {', '.join(row.sources)}")
    return "\n".join(lines)
