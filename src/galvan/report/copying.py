"""Copying for people: one section of analysis.md, one line of the terminal. Every text shown passes through `md`."""

from __future__ import annotations

from galvan.copying.memorising import TRIES, Extraction
from galvan.copying.originality import COPY_WORDS, HUMAN, NOVELTY, TUNED, Originality, SetFigures, Span
from galvan.copying.run import Copying
from galvan.report.evidence import Evidence
from galvan.report.markdown import code, md, table
from galvan.report.prose import bullets, plural, sentence

NOT_SHOWN = "no more copying than is usual was shown"
_SPLITS = {"train": "training", "test": "held-out"}


def copying_line(found: Copying) -> str:
    """The answer and the longest spans, in one line."""
    spans = found.originality
    if spans is None:
        return sentence(found.reason or "not measured")
    longest_of = {s.set: s.longest_max if s.set == HUMAN else s.longest_of_all for s in spans.sets}  # held-out text is plenty
    longest = ", ".join(f"{name} {words} words" for name, words in longest_of.items() if words is not None)
    flagged = f"; {plural(len(spans.flagged), 'single text')} with a copy" if spans.flagged else ""
    known = found.membership
    recognised = f"; training text is recognised (AUC {known.auc:.2f} against held-out text)" if known and known.memorising else ""
    answer = NOT_SHOWN if spans.excess.answer == "not shown" else spans.excess.answer
    return f"{sentence(answer + recognised + flagged)} Longest run shared with the training text: {longest}."


def copying_section(e: Evidence) -> str:
    """`## Does it copy?`, or nothing where nothing was measured or the comparison is refused."""
    found = e.copying
    if found is None or e.refusal is not None or (found.originality is None and not found.extraction):
        return ""
    parts = [f"## Does it copy?\n\n{md(copying_line(found), 800)}"]
    if found.originality is not None:
        parts += _spans(found.originality)
    if found.extraction:
        parts.append(_extraction(found.extraction))
    if found.membership is not None:
        parts.append(md(found.membership.reason, 600))
    return "\n\n".join(parts)


def _spans(found: Originality) -> list[str]:
    head = ["Text", "Number", "Longest span, median", "95 %", "largest", f"Words in copies of {COPY_WORDS} or more"]
    rows = [_row(s) for s in found.sets]
    novelty = [[md(s.set), *(_share(s.novelty[n]) for n in NOVELTY)] for s in found.sets]
    parts = [
        md(found.excess.reason, 600),
        "Longest run of words shared with the training text, in as many texts of each kind:\n\n" + table(head, rows),
        "Share of runs of n words that the training text does not have:\n\n" + table(["n", *map(str, NOVELTY)], novelty),
    ]
    if found.flagged:
        parts.append(f"Single texts with a copy: {md(', '.join(found.flagged), 600)}")
    if not any(span.n_words >= COPY_WORDS for span in found.longest_spans) and any(s.set == TUNED for s in found.sets):
        parts.append(f"No run of {COPY_WORDS} words or more of the tuned model stands in the training text.")
    if found.longest_spans:
        parts.append("The longest shared runs, beside their source:\n\n" + "\n".join(_span(span) for span in found.longest_spans))
    if not any(s.set == HUMAN for s in found.sets):
        parts.append("There is no held-out text to say what is usual.")
    return [*parts, *(f"Caution: {md(caution)}" for caution in found.cautions)]


def _row(s: SetFigures) -> list[str]:
    if s.longest_median is None or s.longest_95th is None:
        return [md(s.set), f"{s.n_compared:,}", "-", "-", "-", "-"]
    return [
        md(s.set), f"{s.n_compared:,}", f"{s.longest_median:g}", f"{s.longest_95th:.1f}", str(s.longest_max), _share(s.copied_share),
    ]  # fmt: skip


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _span(span: Span) -> str:
    more = f", in {span.n_texts} texts" if span.n_texts > 1 else ""
    return (
        f"- {span.n_words} words{more}: {code(span.id)} from word {span.position}: “{md(span.text, 300)}”  \n"
        f"  {code(span.document)} from word {span.document_position}: “{md(span.before, 80)} **{md(span.document_text, 300)}** {md(span.after, 80)}”"
    )


def _extraction(rows: list[Extraction]) -> str:
    said = [
        f"{row.arm}, {_SPLITS.get(row.split, row.split)} text: {row.greedy} of {row.n} passages ({100 * row.greedy_ci95.low:.1f} to "
        f"{100 * row.greedy_ci95.high:.1f} %) word for word after their first tokens; chance that one of {TRIES} samples does: {100 * row.expected_rate:.2f} %"
        for row in rows
    ]
    return "Passages that are said by heart:\n\n" + bullets(said)
