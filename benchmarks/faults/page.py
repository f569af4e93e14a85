"""The tables, on stdout and between the markers of docs/diagnosis.md; and the counts that bind galvan's words of certainty."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.faults import scoring
from benchmarks.faults.cases import registered
from benchmarks.faults.ground import DEVELOPMENT, HELD_OUT
from benchmarks.faults.not_injected import NOT_INJECTED
from benchmarks.faults.remedies import Mended
from benchmarks.faults.runner import Result
from benchmarks.faults.scoring import Rate, rate
from galvan.rundir import write_json, write_text

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "diagnosis.md"
CERTAINTY = ROOT / "src" / "galvan" / "assets" / "certainty.json"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
PARTS = (DEVELOPMENT, HELD_OUT)


def markdown(results: Sequence[Result], mended: Sequence[Mended], planned: int | None = None) -> str:
    """All tables; `planned` is the number of runs of the whole benchmark, said where fewer were made."""
    absent, results = [r for r in results if not r.in_force], [r for r in results if r.in_force]
    faults, healthy = scoring.faults(results), scoring.healthy(results)
    crashed = [r for r in results if r.crash]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    minutes = sum(r.seconds for r in results) / 60
    head = (
        f"{len(faults)} runs with a fault ({len({r.case for r in faults})} ways, {len({r.code for r in faults})} causes or pairs), {len(healthy)} healthy "
        f"runs ({len({r.case for r in healthy})} kinds); {platform.machine()}, one thread, {minutes:.0f} minutes; {packages}. "
        f"{len(crashed)} runs ended without an answer. Intervals are 95 %, Clopper and Pearson."
    )
    run = len(results) + len(absent)
    if planned is not None and planned > run:
        head += f" **Not all of it:** {run} of {planned} planned runs, on {', '.join(sorted({r.setting for r in results}))}."
    if absent:
        cases = ", ".join(f"{r.case} on {r.setting}" for r in absent)
        head += f" {len(absent)} more count nowhere, since what they mean to put in was not there: {cases}."
    parts = [
        head,
        _acceptance(results),
        _causes(results),
        _healthy(results),
        _words(results),
        _baselines(results, mended),
        _wrong(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _by_part(rows: Sequence[Result], measure: Callable[[Sequence[Result]], Rate]) -> list[str]:
    return [str(measure([r for r in rows if r.part == part])) for part in PARTS]


def _acceptance(results: Sequence[Result]) -> str:
    """The figures that the acceptance asks for, thresholds frozen on the first of the two columns."""

    def share(hit: Callable[[Result], bool]) -> Callable[[Sequence[Result]], Rate]:
        return lambda rows: rate(rows, hit)

    lines: list[list[object]] = []
    for group, wanted in (("decisive", "99 %"), ("others", "70 %"), ("pairs", ""), ("unrecorded", "")):
        rows = [r for r in results if r.group == group]
        what = {
            "decisive": "A, B, C, D01-D04",
            "others": "the other causes",
            "pairs": "two causes at once",
            "unrecorded": "what only a record could prove, without one",
        }[group]
        lines.append([f"{what}: right first", wanted, *_by_part(rows, share(scoring.right_first))])
        lines.append(
            [f"{what}: nothing named", "" if group != "others" else "at most 30 %", *_by_part(rows, share(scoring.abstained))]
        )
    lines.append(["wrong and confident", "at most 5 %", *_by_part(scoring.faults(results), share(scoring.wrong_and_confident))])
    lines.append(["false alarms on healthy runs", "at most 1 of 93", *_by_part(scoring.healthy(results), share(scoring.alarmed))])
    lines.append(
        [
            "anything named on healthy runs, what they came to (G10, I02) included",
            "",
            *_by_part(scoring.healthy(results), share(scoring.accused)),
        ]
    )
    return "### Acceptance\n\n" + _table(["", "wanted", *PARTS], lines)


def _causes(results: Sequence[Result]) -> str:
    rows = []
    by_part = [scoring.recall_by_cause([r for r in results if r.part == part]) for part in PARTS]
    for code in sorted({code for one in by_part for code in one}):
        cells = [one.get(code, (Rate(0, 0), Rate(0, 0))) for one in by_part]
        rows.append([code, *(f"{named.hits}/{named.of} named, {first.hits}/{first.of} first" for named, first in cells)])
    left_out = _table(["not put in", "why"], sorted(NOT_INJECTED.items()))
    return "### By cause\n\n" + _table(["cause", *PARTS], rows) + "\n\n" + left_out


def _healthy(results: Sequence[Result]) -> str:
    lines = {case.name: case.line for case in registered()}
    rows = []
    for name in dict.fromkeys(r.case for r in scoring.healthy(results)):
        mine = [r for r in results if r.case == name]
        alarms = sorted({code for r in mine for code, _ in scoring.said(r)})
        counts = len(mine), sum(map(scoring.alarmed, mine)), sum(map(scoring.accused, mine))
        rows.append([name.removeprefix("healthy-"), lines[name], *counts, ", ".join(alarms)])
    return "### Healthy runs\n\n" + _table(["kind", "", "runs", "false alarms", "anything named", "what"], rows)


def _words(results: Sequence[Result]) -> str:
    rows = [
        [word, *(str(scoring.reliability([r for r in results if r.part == part])[word]) for part in PARTS)]
        for word in scoring.WORDS
    ]
    return "### What the words came to\n\nHow often the cause that was named first, with this word, was right.\n\n" + _table(
        ["word", *PARTS], rows
    )


def _baselines(results: Sequence[Result], mended: Sequence[Mended]) -> str:
    faults, healthy = scoring.faults(results), scoring.healthy(results)
    fell = [[r for r in rows if r.loss_fell is not None] for rows in (faults, healthy)]
    peft = [[r for r in rows if r.peft_content is not None] for rows in (faults, healthy)]
    rows: list[list[object]] = [
        ["galvan", "names the cause first", rate(faults, scoring.right_first), rate(healthy, scoring.alarmed)],
        ["the commonest cause", "names the cause first", scoring.majority(results), "all"],
        ["truths dealt out anew", "names the cause first", f"{scoring.chance(results):.1%} expected", ""],
        [
            "galvan",
            "says that something is wrong",
            rate(faults, lambda r: not scoring.abstained(r)),
            rate(healthy, scoring.alarmed),
        ],
        ["did validation loss go down?", "says that something is wrong", *(rate(some, lambda r: not r.loss_fell) for some in fell)],
        ["PEFT's get_model_status", "says that something is wrong", *(rate(some, lambda r: not r.peft_content) for some in peft)],
    ]
    text = "### Beside simpler means\n\n" + _table(["who", "what", "of the faults", "of the healthy runs"], rows)
    if mended:
        tried = [m for m in mended if m.remedy is not None]
        won, lost = sum(bool(m.won) for m in tried), sum(bool(m.lost) for m in tried)
        text += (
            f"\n\nThe remedy of the cause named first, beside another drawn at random from the same list, on {len(mended)} runs that a changed recipe mends: "
            f"held-out text is surely likelier in {Rate(won, len(tried))}, surely less likely in {lost}; in {len(mended) - len(tried)} no remedy of the list was named."
        )
    return text


def _wrong(results: Sequence[Result]) -> str:
    """Every wrong first answer, so that nobody has to take a percentage on trust."""
    rows = [
        [r.case, r.setting, r.code, " ".join(f"{code} ({word})" for code, word in scoring.said(r)[:3]) or (r.error or "nothing")]
        for r in scoring.faults(results)
        if not scoring.right_first(r)
    ]
    return "### Not right first\n\n" + _table(["case", "on", "put in", "named"], rows) if rows else ""


def write(text: str) -> None:
    """Put `text` between the page's markers; what stands around them stays."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} lacks the markers {BEGIN} and {END}; the tables were not written.")
    write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")


def freeze(results: Sequence[Result]) -> None:
    """assets/certainty.json: how often each cause was right with each word, on the development part."""
    write_json(CERTAINTY, scoring.certainty_table(results))
