"""docs/reliability.md: each command that measures how hard galvan is to break writes its own part between its markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from galvan.rundir import write_text

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def read(part: str) -> str:
    """What stands between the markers of `part`."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    found, _, _ = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)
    return found


def write(part: str, lines: Sequence[str]) -> None:
    """Replace what stands between the markers of `part`."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{PAGE.name} has no part {part}"
    write_text(PAGE, f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")
