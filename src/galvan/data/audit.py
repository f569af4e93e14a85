"""What the data is, as plain facts for `audit.json`: counts, lengths, what was removed, what the splits have in common."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
from numpy.typing import NDArray

from galvan.data import shared, warn
from galvan.data.clean import Log
from galvan.data.facts import Audit, Lengths, Overlap, Part, Typography
from galvan.data.overlap import different
from galvan.data.rows import one_line
from galvan.data.shared import COPY_WORDS
from galvan.data.split import TRAIN, Splits, run_begins
from galvan.data.spoken import Hashes
from galvan.data.store import sources, tokens_of
from galvan.data.together import are_usual, beyond_ascii, codes_of
from galvan.rundir import Document
from galvan.text import shown

NEUTRAL = "neutral"
Counts = tuple[int, int, int, int, int, int, int, int, int, int, int]
_LISTED = 10
_TOGETHER = 256  # texts; their marks are counted in the processor's cache


def audit(
    source: str,
    column: str,
    splits: Splits,
    n_tokens: Mapping[str, int],
    cut: tuple[int, int],
    log: Log,
    neutral: Sequence[Document] = (),
    leaks: str = "refuse",
) -> Audit:
    """The facts about `splits`. `n_tokens` is each document's length by id where the documents do not know it, `cut` the texts that were cut and their pieces.

    `neutral` are the documents on which forgetting is measured, `leaks` what the recipe says about text that splits share.
    """
    parts = dict(splits.items())
    names = [name for name, documents in parts.items() if documents]
    pairs = list(combinations(names, 2))
    summaries = {name: _Summary() for name in parts}
    asked, of_all = dict(parts), pairs
    if neutral and splits.train:
        asked, of_all = {**parts, NEUTRAL: neutral}, [*pairs, (TRAIN, NEUTRAL)]
    found = shared.found(asked, of_all, list(parts), lambda name, block: summaries[name].add(block) if name in summaries else None)
    tokens = {name: tokens_of(documents, n_tokens) for name, documents in parts.items()}
    facts = Audit(
        source=one_line(source),
        column=column,
        rows_read=log.rows_read,
        rows_tidied=log.rows_tidied,
        gutenberg_stripped=log.gutenberg_stripped,
        cut_texts=cut[0],
        cut_documents=cut[1],
        documents=sum(map(len, parts.values())),
        sources=len({source for documents in parts.values() for source in sources(documents)}),
        words=lengths(np.concatenate([summary.words() for summary in summaries.values()])),
        tokens=lengths(np.concatenate(list(tokens.values()))),
        removed=log.removed,
        splits={name: _part(documents, summaries[name], tokens[name]) for name, documents in parts.items()},
        overlaps=[_overlap(a, b, parts[b], found[a, b]) for a, b in pairs],
        typography=sum((summary.marks for summary in summaries.values()), Marks()).typography(),
        changed=log.changed,
        reported=log.reported,
        repeated=dict(sorted(log.repeated.items(), key=lambda pair: -pair[1].copies)[:_LISTED]),
        neutral=_overlap(TRAIN, NEUTRAL, neutral, found[TRAIN, NEUTRAL]) if (TRAIN, NEUTRAL) in found else None,
        leaks=leaks,
    )
    facts.warnings.extend(warn.notices(facts))
    return facts


def lengths(values: Sequence[int] | NDArray[np.int64]) -> Lengths:
    if not len(values):
        return Lengths(0, None, None, None, None, None)
    low, middle, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return Lengths(int(np.sum(values)), int(np.min(values)), low, middle, high, int(np.max(values)))


class _Summary:
    """What is told of a part beside what it shares with others: 16 bytes for each document."""

    def __init__(self) -> None:
        self.marks = Marks()
        self._counts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        self._whole: list[Hashes] = [np.empty(0, dtype=np.uint64)]

    def add(self, block: shared.Block) -> None:
        self._counts.append(block.corpus.counts)
        self._whole.append(block.corpus.whole())
        for begin in range(0, len(block.texts), _TOGETHER):
            self.marks += Marks.of_all(block.texts[begin : begin + _TOGETHER])

    def words(self) -> NDArray[np.int64]:
        return np.concatenate(self._counts)

    def duplicates(self) -> int:
        hashes = np.concatenate(self._whole)
        return len(hashes) - len(different(hashes))


def _part(documents: Sequence[Document], summary: _Summary, tokens: NDArray[np.int64]) -> Part:
    named = sources(documents)
    return Part(
        documents=len(documents),
        sources=len(set(named)),
        runs=len(run_begins(documents)),
        words=lengths(summary.words()),
        tokens=lengths(tokens),
        duplicates=summary.duplicates(),
    )


def _overlap(a: str, b: str, documents: Sequence[Document], found: shared.Found) -> Overlap:
    length, span, span_in = found.span or (0, "", None)
    return Overlap(
        a=a,
        b=b,
        longest_span_words=length,
        longest_span=shown(span, 300),
        longest_span_in=span_in,
        leaking=len(found.leaking),
        leaking_documents=[documents[index].id for index in found.leaking[:_LISTED]],
        contained_13_grams=found.containment,
        duplicates=len(found.whole),
        long_duplicates=len(found.long_whole),
        near_duplicates=len(found.near),
        copied_words=found.copied_share(COPY_WORDS),
        copied_runs=found.copied_share(shared.NGRAM_WORDS),
        documents=len(documents),
    )


def leaking_ids(splits: Splits) -> set[str]:
    """Ids of the held-out documents that training has in part or (of validation) that test has, by any of the measures that refuse."""
    parts = {name: documents for name, documents in splits.items() if documents}
    return {
        parts[b][index].id
        for (_, b), pair in shared.found(parts, list(combinations(parts, 2)), list(parts)).items()
        for index in {*pair.leaking, *pair.near, *pair.long_whole}
    }


@dataclass(frozen=True, slots=True)
class Marks:
    """Counts from which habits of the type are told, in the order of `Typography`; those of several texts can be added."""

    counts: Counts = (0,) * 11
    lines: int = 0
    wrapped: int = 0
    characters: int = 0
    ascii_characters: int = 0

    @classmethod
    def of(cls, text: str) -> Marks:
        lines = text.split("\n")
        sizes = np.fromiter(map(len, lines), dtype=np.int64)
        is_break = (sizes > 0) & ~np.fromiter(map(str.isspace, lines), dtype=np.bool_)
        return cls(
            (
                text.count('"'), text.count("“") + text.count("”"), text.count("'"), text.count("‘") + text.count("’"), text.count("—"),
                _dashes(text), text.count("…"), _dots(text), _italics(text), _tags(text), text.count("\ufffd"),
            ),
            int(is_break.sum()), int((is_break & (sizes >= 55) & (sizes <= 80)).sum()), len(text),
            len(text) if text.isascii() else len(text.encode("ascii", "ignore")),
        )  # fmt: skip

    @classmethod
    def of_all(cls, texts: Sequence[str]) -> Marks:
        """Those of the texts with blank lines between them; of English ten times as fast, by what stands where."""
        text = "\n\n".join(texts)
        codes = codes_of([text])
        others = beyond_ascii(codes)
        if not are_usual(others):
            return cls.of(text)
        hyphens, stops, breaks = (np.flatnonzero(codes == ord(mark)) for mark in "-.\n")
        begins = np.append(0, breaks[:-1] + 1)
        sizes = breaks - begins
        is_break = sizes > 0
        for number in np.flatnonzero(is_break & (codes[begins] <= 32)).tolist():
            is_break[number] = not text[begins[number] : breaks[number]].isspace()
        return cls(
            (
                int(np.count_nonzero(codes == 34)), others.count("“") + others.count("”"), int(np.count_nonzero(codes == 39)),
                others.count("‘") + others.count("’"), others.count("—"), _dashes(text) if (np.diff(hyphens) == 1).any() else 0,
                others.count("…"), _dots(text) if (stops[2:] - stops[:-2] <= 4).any() else 0, _italics(text), _tags(text), 0,
            ),
            int(is_break.sum()), int((is_break & (sizes >= 55) & (sizes <= 80)).sum()), len(text), len(text) - len(others),
        )  # fmt: skip

    def __add__(self, other: Marks) -> Marks:
        """Those of both texts with a blank line between them."""
        between = 2 if self.characters and other.characters else 0
        return Marks(
            cast(Counts, tuple(map(operator.add, self.counts, other.counts))), self.lines + other.lines,
            self.wrapped + other.wrapped, self.characters + other.characters + between,
            self.ascii_characters + other.ascii_characters + between,
        )  # fmt: skip

    def typography(self) -> Typography:
        share = 1 - self.ascii_characters / self.characters if self.characters else None
        return Typography(*self.counts, share, self.wrapped / self.lines if self.lines else None)


def _dashes(text: str) -> int:
    return len(re.findall(r"--(?!-)(?<!---)", text)) if "--" in text else 0


def _dots(text: str) -> int:
    return text.count("...") + text.count(". . .")


def _italics(text: str) -> int:
    return len(re.findall(r"_(?<![\w_]_)[^_\s][^_\n]{0,80}_(?![\w_])", text)) if "_" in text else 0


def _tags(text: str) -> int:
    return len(re.findall(r"</?[a-zA-Z][^<>\n]{0,80}>", text)) if "<" in text else 0


def typography(text: str) -> Typography:
    return Marks.of(text).typography()
