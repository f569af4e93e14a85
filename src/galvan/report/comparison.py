"""Several adapters side by side, for people: the same blocks as page, as Markdown and, shorter, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from galvan.report.blocks import Block, Bullets, Cell, Figure, Table, Text
from galvan.report.markdown import md, table
from galvan.report.names import data_name
from galvan.report.page import rendered
from galvan.report.prose import percent, plural
from galvan.report.sections import Section
from galvan.statistics.multiple import Candidate, Family

if TYPE_CHECKING:
    from rich.console import Console

    from galvan.side_by_side import Row, SideBySide

MOST_PAIRS, MOST_COLUMNS = 45, 9  # what people can still read

Parts = Sequence[tuple[Section, list[Block]]]


def parts(found: SideBySide, sentence: str) -> Parts:
    """All there is to say, in order."""
    told = [
        Text(f"Measured in {found.measure} on the {plural(found.n_documents, 'test document')} that all of them scored; {found.family.sentence}", "how"),
        Text(found.sentence, "how"),
    ]  # fmt: skip
    differs: list[Block] = [Text(f"Not the same in all: {line}", "caution") for line in found.differs]
    refused: list[Block] = [Text(f"{row.name} is left out: {row.refused}", "caution") for row in found.runs if row.refused]
    first: list[Block] = [Text(sentence, "lead"), *differs, *refused, _family("Gain over the base", found.family), *told]
    pages: list[tuple[str, str, list[Block]]] = [
        ("result", "Which gained most?", first),
        ("pairs", "Every one against every other", _pairs(found)),
        ("own", "What each says of itself", [_own(found), Text("Each on its own test documents, and with its own interval: not for choosing between them.", "how")]),
        ("recipes", "What was done differently", _recipes(found)),
    ]  # fmt: skip
    return [(Section(name, title, lambda _: []), blocks) for name, title, blocks in pages]


def _pairs(found: SideBySide) -> list[Block]:
    """All pairs, or of too many to read those of the adapter with the largest gain, which are what a choice rests on."""
    pairs, caption = found.pairs, "The first over the second; positive = the first is better"
    if len(pairs.candidates) <= MOST_PAIRS:
        return [_family(caption, pairs), Text(pairs.sentence, "how")]
    first = found.family.candidates[found.family.best].name
    its = replace(pairs, candidates=tuple(c for c in pairs.candidates if c.name.startswith(f"{first} over ")))
    rest = f"Of {len(pairs.candidates):,} pairs those of {first} are shown, with intervals that pay for all; compare.json has the others."
    return [_family(caption, its), Text(f"{pairs.sentence} {rest}", "how")]


def _family(caption: str, family: Family) -> Table:
    rows: list[list[Cell]] = [
        [c.name, c.verdict, f"{c.nats_per_token:+.4f}", _interval(c), _p(c.p_adjusted), _p(c.p_holm)] for c in family.candidates
    ]
    return Table(caption, ["Adapter", "Verdict", "Gain", "Simultaneous 95 % interval", "p, max-T", "p, Holm"], rows)


def _interval(c: Candidate) -> str:
    return "not defined" if c.ci95 is None else f"{c.ci95.low:+.4f} to {c.ci95.high:+.4f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _own(found: SideBySide) -> Table:
    head = ["Adapter", "Verdict", "Perplexity", "Style: gap closed", "Longest copy, words", "Neutral text", "Seconds", *([f"Cost, {found.currency}"] if found.currency else [])]  # fmt: skip
    return Table("By run", head, [_own_row(row, bool(found.currency)) for row in found.runs])


def _own_row(row: Row, priced: bool) -> list[Cell]:
    ends = row.perplexity_change_ci95
    change = "-" if row.perplexity_change_percent is None else percent(row.perplexity_change_percent) + ("" if ends is None else f" ({ends[0]:+.1f} to {ends[1]:+.1f})")  # fmt: skip
    style = "-" if row.style_gap_closed is None else f"{100 * row.style_gap_closed:.0f} %" + ("" if row.style_ci95 is None else f" ({100 * row.style_ci95[0]:.0f} to {100 * row.style_ci95[1]:.0f})")  # fmt: skip
    kept = (
        "-"
        if row.neutral_perplexity_change_percent is None
        else percent(row.neutral_perplexity_change_percent) + (", forgot" if row.forgot else "")
    )
    word = f"{row.verdict or '-'}{', vetoed: ' + ' and '.join(row.vetoes) if row.vetoes else ''}"
    cells: list[Cell] = [
        row.name, word, change, style, _count(row.longest_span_words), kept,
        "-" if row.seconds is None else f"{row.seconds:,.0f}",
    ]  # fmt: skip
    return [*cells, "-" if row.cost is None else f"{row.cost:.2f}"] if priced else cells


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _recipes(found: SideBySide) -> list[Block]:
    rows: list[list[Cell]] = [[name, *(_value(name, value) for value in values)] for name, values in found.recipe.items()]
    rows += [
        ["trained parameters", *(_count(row.trainable_parameters) for row in found.runs)],
        ["trained tokens", *(_count(row.tokens) for row in found.runs)],
    ]
    head: list[Cell] = ["Option", *(row.name for row in found.runs)]
    if len(head) > MOST_COLUMNS:  # an adapter a line
        head, *rows = [list(line) for line in zip(head, *rows, strict=True)]
        head[0] = "Adapter"
    return [Table("Options that are not the same, and what was trained", [str(cell) for cell in head], rows)]


def _value(name: str, value: Any) -> str:
    return data_name(str(value)) if name in ("data.source", "evaluation.neutral") else str(value)


def to_html(found: SideBySide, sentence: str) -> str:
    return rendered(f"{len(found.runs)} adapters", "compared", (), "Several adapters side by side", parts(found, sentence))


def to_markdown(found: SideBySide, sentence: str) -> str:
    return markdown_of("Several adapters side by side", parts(found, sentence))


def markdown_of(title: str, some: Parts) -> str:
    """The same blocks as Markdown; a drawing is told by its caption."""
    said = [f"## {md(part.title)}\n\n" + "\n\n".join(_markdown(block) for block in blocks) for part, blocks in some]
    return "\n\n".join([f"# {md(title)}", *said]) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        return f"{md(block.caption)}:\n\n" + table(
            [md(cell) for cell in block.head], [[md(cell) for cell in row] for row in block.rows]
        )
    if isinstance(block, Text):
        return {"lead": f"**{md(block.text, 1200)}**", "caution": f"Caution: {md(block.text, 1200)}"}.get(
            block.kind, md(block.text, 1200)
        )
    if isinstance(block, Figure):
        return md(block.caption, 1200)
    assert isinstance(block, Bullets)
    return "\n".join(f"- {md(line)}" for line in block.lines)


def show(found: SideBySide, sentence: str, console: Console | None = None) -> None:
    """The table of gains, what each says of itself, what differs, and the answer last."""
    from rich.box import ASCII2
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text as Plain

    from galvan.report.terminal import Page

    page = Page(console or Console(highlight=False))
    told = [block for _, blocks in parts(found, sentence) for block in blocks]
    for block in told:
        if isinstance(block, Table):
            grid = Grid(title=Plain(page.safe(block.caption)), title_justify="left", box=ASCII2, show_edge=False, pad_edge=False)
            for cell in block.head:
                grid.add_column(Plain(page.safe(cell)), overflow="fold")
            for row in block.rows:
                grid.add_row(*(Plain(page.safe(str(cell))) for cell in row))
            page.console.print(grid)
            page.line("")
    for block in told:
        if isinstance(block, Text) and block.kind == "caution":
            page.row("Caution", block.text, "yellow")
    page.row("Measured", f"in {found.measure} on {plural(found.n_documents, 'test document')} in common")
    page.row("Result", sentence, "bold")
