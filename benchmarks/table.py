"""The results as a table, on stdout and between the markers of docs/performance.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.timing import Row, stolen
from benchmarks.workload import Size
from galvan.rundir import write_text

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def markdown(rows: Sequence[Row], size: Size, seconds: float) -> str:
    """The table and, above it, what it was measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl", "lm_eval"))
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {packages}. {size.trained} letters trained on, "
        f"{size.scored} scored, {size.rounds} rounds in turns at S, {seconds:.0f} s in all. Stolen by the machine's host, a run: {_stolen()}.",
        "",
        "| what | who | median | smallest to largest | galvan is faster by |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _stolen() -> str:
    return f"{statistics.median(stolen):.0%} in the median, {max(stolen):.0%} at most" if stolen else "not known"


def _line(row: Row) -> str:
    form = "{:.2f}" if row.unit in ("s", "µs/token") else "{:,.0f}"
    median, low, high = (form.format(x) for x in (row.median, min(row.figures), max(row.figures)))
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return f"| {row.what} | {row.who} | {median} {row.unit} | {low} to {high} | {ratio} |"


def write(text: str) -> None:
    """Put `text` between the page's markers; what stands around them stays."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} lacks the markers {BEGIN} and {END}; the table was not written.")
    write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")
