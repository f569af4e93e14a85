"""The style of a run for people: one section of analysis.md, one line of the terminal. Every text shown passes through `md`."""

from __future__ import annotations

from galvan.report.evidence import Evidence
from galvan.report.markdown import md, table
from galvan.report.prose import bullets, sentence
from galvan.style.explain import Moved, Value
from galvan.style.judge import Style
from galvan.style.normalise import unlike
from galvan.style.run import Shown

HEADLINES = {
    "yes": "closer to the author than the base",
    "no": "farther from the author than the base",
    "not shown": "not shown to be closer to the author",
    "not measurable": "not measurable here",
}
MOST_SHOWN = 900  # characters of a text beside another


def style_line(found: Style) -> str:
    """The answer, its figures and its vetoes in one line."""
    closed, score = found.gap_closed, found.author_score
    figures = []
    if closed is not None and closed.value is not None:
        figures.append(f"gap closed {100 * closed.value:.0f} %{_percent_interval(closed.ci95)}")
    if score is not None and score.value is not None:
        floor = "" if score.noise is None else f" (within {score.noise:.2f} by chance)"
        figures.append(f"author score {score.value:.2f}{_interval(score.ci95)}, where 0 is the base{floor} and 1 the author")
    vetoed = [f"vetoed for {' and '.join(found.vetoes)}"] if found.vetoes else []
    return f"{sentence('; '.join([HEADLINES[found.closer], *figures, *vetoed]))} {sentence(found.reason)}"


def style_section(e: Evidence) -> str:
    """`## Style`, or nothing where nothing was generated or the comparison is refused."""
    if e.style is None or e.refusal is not None:
        return ""
    found = e.style.style
    parts = [f"## Does it write like the author?\n\n**{md(sentence(HEADLINES[found.closer]))}** {md(style_line(found), 1500)}"]
    parts += [f"Caution: {md(caution)}" for caution in found.cautions]
    if e.style.own is not None:
        parts.append(f"At the recipe's own sampling settings: {md(style_line(e.style.own), 1500)}")
    if found.validity:
        parts.append(
            "Known answers, asked of the measure on these very texts first:\n\n"
            + bullets([_word(c.ok, "passed", "FAILED") + c.says for c in found.validity])
        )
        parts.append("Guards:\n\n" + bullets([f"{g.name}: {_word(g.ok, 'passed', 'VETO')}{g.says}" for g in found.guards]))
    if marks := unlike(found.typography):
        parts.append(
            "Type that differs between the sets, in marks per 1,000 words; it was made equal and is not scored:\n\n"
            + bullets(marks)
        )
    if found.delta is not None:
        parts.append(
            f"Cosine Delta to the author's pooled text ({found.delta.words:,} words a set): base {found.delta.base:.2f}, tuned {found.delta.tuned:.2f}."
        )
    if found.moved:
        parts.append(
            "What moved most from base to tuned (means with 95 % intervals; p adjusted for all features looked at):\n\n"
            + moved_table(found.moved)
        )
    parts += [_pair(pair) for pair in e.style.pairs]
    return "\n\n".join(parts)


def moved_table(moved: tuple[Moved, ...]) -> str:
    """The features that moved most, as a Markdown table."""
    rows = [
        [
            md(m.phrase),
            _value(m.author),
            _value(m.base),
            _value(m.tuned),
            f"{m.shift_sd:+.2f}",
            "toward" if m.toward_author else "away",
            f"{m.p_adjusted:.3f}",
        ]
        for m in moved
    ]
    return table(["Feature", "Author", "Base", "Tuned", "Shift, sd", "Author lies", "p"], rows)


def _pair(pair: Shown) -> str:
    """Texts as quoted paragraphs: the prompt, then who wrote what after it."""
    told = [("Author", pair.author), ("Base", pair.base), ("Tuned", pair.tuned)]
    quoted = "\n>\n".join(f"> **{who}:** {md(text, MOST_SHOWN)}" for who, text in told if text)
    return (
        f"### Side by side: the {pair.rank} tuned text by author score\n\nAfter \u201c{md(pair.prompt[-200:])}\u201d:\n\n{quoted}"
    )


def _word(ok: bool | None, yes: str, no: str) -> str:
    return {True: f"{yes}; ", False: f"{no}; ", None: "not asked; "}[ok]


def _value(value: Value) -> str:
    return f"{value.mean:.2f} ({value.ci95.low:.2f} to {value.ci95.high:.2f})"


def _interval(ci95: tuple[float, float] | None) -> str:
    return "" if ci95 is None else f" ({ci95[0]:.2f} to {ci95[1]:.2f})"


def _percent_interval(ci95: tuple[float, float] | None) -> str:
    return "" if ci95 is None else f" ({100 * ci95[0]:.0f} to {100 * ci95[1]:.0f} %)"
