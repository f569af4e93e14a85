"""Does generated text copy its training text more than a person's text does: three sets under one measure, and the spans themselves.

Spans are counted in lower-case words without punctuation and shown as they stand (METHODS S5.1). The floor is held-out text by the same
author, cut into passages as long as the generated ones: set phrases are no copies. Human figures: a shared run of 10 words lies beyond
the 99th percentile in each of six novels (METHODS 5); McCoy et al. 2023 judge novelty in the same way.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from galvan.copying.spans import Places, Statistics, matching_statistics
from galvan.data import leak
from galvan.data.audit import audit
from galvan.data.clean import Log
from galvan.data.split import Splits
from galvan.errors import DataError
from galvan.rundir import SCHEMA_VERSION, Document, to_json
from galvan.text import shown, word_places, words

HUMAN, TUNED, BASE = "held-out", "tuned", "base"
COPY_WORDS = 8  # words in a shared span of so many are copied (METHODS S5.2)
LONG_WORDS = 10  # a set is judged by texts with a span above this, or above the held-out 99th percentile (METHODS S5.3)
FLAG_WORDS, FLAG_MORE = 20, 5  # one text is flagged from 20 words, or five more than the longest held-out span
NOVELTY = range(2, 11)
ALPHA = 0.05
FEWEST_PASSAGES = 10
_LISTED, _LISTED_WORDS = 10, 4  # spans shown; runs of fewer words are everyone's
_CONTEXT_CHARACTERS = 60

Answer = Literal["excess copying", "the base already knows this text", "not shown", "not measurable"]


@dataclass(frozen=True, slots=True)
class Text:
    """A text under the name that people will look for."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text (of held-out text: one passage of it). `copied_words` lie in shared spans of at least 8 words; `flagged` is None
    where there is no held-out text to say what is usual."""

    set: str
    id: str
    n_words: int
    longest_span_words: int
    copied_words: int
    flagged: bool | None


@dataclass(frozen=True, slots=True)
class SetFigures:
    """One set. The figures are of `n_compared` texts, as many in every set, so that the largest of them may be compared; `longest_of_all`
    is the largest of all `n_texts`. `novelty[n]` is the share of runs of n words that the training text lacks, None where there is no run."""

    set: str
    n_texts: int
    n_compared: int
    n_words: int
    longest_median: float | None
    longest_95th: float | None
    longest_max: int | None
    longest_of_all: int | None
    copied_share: float | None
    novelty: dict[int, float | None]


@dataclass(frozen=True, slots=True)
class Excess:
    """Do more texts than held-out passages hold a span above `threshold_words`? One-sided Fisher tests of counts (long, of all) by set."""

    answer: Answer
    reason: str
    threshold_words: int | None = None
    long_texts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    p_against_held_out: dict[str, float] = dataclasses.field(default_factory=dict)
    p_against_base: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A shared span beside its source: exact characters, and what stands around it there. Positions count words from 0."""

    set: str
    id: str
    n_words: int
    position: int
    text: str
    document: str
    document_position: int
    document_text: str
    before: str
    after: str
    n_texts: int


@dataclass(frozen=True, slots=True)
class Originality:
    """`originality.json` and what `galvan originality` prints: nothing of it needs a model."""

    schema_version: int
    training_documents: int
    training_words: int
    sets: list[SetFigures]
    excess: Excess
    flagged: list[str]
    longest_spans: list[Span]
    cautions: list[str]
    rows: list[TextRow]

    def of(self, name: str) -> SetFigures | None:
        return next((figures for figures in self.sets if figures.set == name), None)

    def to_json(self) -> str:
        return to_json(self)

    def to_text(self) -> str:
        lines = [f"{self.training_documents:,} training documents, {self.training_words:,} words."]
        lines += [_line(figures) for figures in self.sets]
        lines += [f"Copying: {self.excess.answer}. {self.excess.reason}", *(f"Caution: {caution}" for caution in self.cautions)]
        if self.flagged:
            lines.append(f"Single texts with a copy: {', '.join(self.flagged[:_LISTED])}")
        for span in self.longest_spans:
            lines.append(f"{span.n_words:4} words, {span.id} word {span.position} = {span.document} word {span.document_position}:")
            lines.append(f'       "{" ".join(shown(span.text, 300).split())}"')
        return "\n".join(shown(line) for line in lines)


def _line(s: SetFigures) -> str:
    if s.longest_median is None or s.copied_share is None:
        return f"{s.set}: no word"
    new = ", ".join(f"{n} {100 * share:.1f} %" for n in (3, 5, 8) if (share := s.novelty[n]) is not None)
    return (
        f"{s.set}: {s.n_texts:,} texts; longest shared span {s.longest_of_all} words (median {s.longest_median:g}, 95th {s.longest_95th:g}); "
        f"{100 * s.copied_share:.2f} % of the words in copies of {COPY_WORDS} or more; new runs of n words: {new}"
    )


def _leaks(train: Sequence[Text], human: Sequence[Text]) -> list[str]:
    """Held-out text that training has seen is no floor (METHODS S5.6)."""

    def documents(some: Sequence[Text]) -> list[Document]:
        return [Document(one.id, one.text, "", number) for number, one in enumerate(some, 1)]

    splits = Splits(documents(train), [], documents(human))
    n_tokens = {document.id: 0 for part in (splits.train, splits.test) for document in part}
    found = leak.leaks(audit("train and test", "text", splits, n_tokens, (0, 0), Log()))
    return [f"The human text (test) is no measure of what is usual: {'; '.join(found)}."] if found else []


@dataclass(frozen=True, slots=True)
class _Passage:
    """A text, or of held-out text a part of it, with its matching statistics."""

    set: str
    text: Text
    begin: int
    lengths: Places

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))


def originality(
    train: Sequence[str], texts: Sequence[str], human: Sequence[str] | None = None, base: Sequence[str] | None = None
) -> Originality:
    """What `texts` share with `train`, word for word, beside `human` text by the same author that was not trained on, and beside `base`,
    what the untuned model wrote. DataError where there is no training text or no text."""

    def named(name: str, some: Sequence[str]) -> list[Text]:
        return [Text(f"{name} {number}", text) for number, text in enumerate(some, 1)]

    sets = {TUNED: named("text", texts)}
    if base is not None:
        sets[BASE] = named("base text", base)
    if human is not None:
        sets[HUMAN] = named("human text", human)
    return judge_texts(named("training text", train), sets)


def judge_texts(train: Sequence[Text], sets: Mapping[str, Sequence[Text]]) -> Originality:
    """`judge_sets` for texts from anywhere: their held-out text is searched for leaks first, as a run's was when it was prepared."""
    judged = judge_sets(train, sets)
    return dataclasses.replace(judged, cautions=_leaks(train, sets[HUMAN])) if sets.get(HUMAN) else judged


def judge_sets(train: Sequence[Text], sets: Mapping[str, Sequence[Text]]) -> Originality:
    """`sets` holds "tuned", and where they are at hand "base" and "held-out". Texts are without their prompts."""
    for name, some in (("training text", train), ("text to judge", sets[TUNED])):
        if not some:
            raise DataError("originality/empty", f"There is no {name}; give at least one text.")
    known = [words(one.text) for one in train]
    every = [(name, one) for name, some in sets.items() for one in some]
    spoken = [words(one.text) for _, one in every]
    if not any(known):
        raise DataError("originality/empty", "The training text has no word in it; give the text that was trained on.")
    found = list(zip(every, spoken, matching_statistics(known, spoken), strict=True))
    lengths = [len(said) for (name, _), said, _ in found if name == TUNED and said] or [1]
    passages: dict[str, list[_Passage]] = {name: [] for name in sets}
    for (name, one), said, statistics in found:
        for begin, end in _passages(len(said), lengths, len(passages[name])) if name == HUMAN else [(0, len(said))]:
            passages[name].append(_Passage(name, one, begin, statistics.within(begin, end)))
    flag = _flag(passages)
    rows = [row for some in passages.values() for row in _rows(some, flag)]
    equal = min(len(some) for some in passages.values())
    return Originality(
        SCHEMA_VERSION, len(train), sum(map(len, known)), [_figures(name, some, equal) for name, some in passages.items()],
        _excess(passages), [row.id for row in rows if row.flagged and row.set == TUNED],
        _longest(passages[TUNED], {one.id: statistics for (name, one), _, statistics in found if name == TUNED}, train), [], rows,
    )  # fmt: skip


def _passages(n_words: int, lengths: Sequence[int], so_far: int) -> Iterator[tuple[int, int]]:
    """A held-out text in passages with the lengths of the generated texts in turn; its end, if shorter, is left out."""
    begin, index = 0, so_far
    while begin + (wanted := lengths[index % len(lengths)]) <= n_words:
        yield begin, begin + wanted
        begin, index = begin + wanted, index + 1
    if begin == 0 and n_words:
        yield 0, n_words


def _flag(passages: Mapping[str, Sequence[_Passage]]) -> int | None:
    human = [p.longest for p in passages.get(HUMAN, ())]
    return max(FLAG_WORDS, max(human) + FLAG_MORE) if human else None


def _rows(passages: Sequence[_Passage], flag: int | None) -> list[TextRow]:
    return [
        TextRow(
            p.set, p.text.id, len(p.lengths), p.longest, int(_copied(p.lengths).sum()), None if flag is None else p.longest >= flag
        )
        for p in passages
    ]


def _copied(lengths: Places) -> np.ndarray:
    """Which words lie in a shared span of at least 8 words, [n]."""
    starts = np.flatnonzero(lengths >= COPY_WORDS)
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths[starts], -1)
    return np.cumsum(edges[:-1]) > 0


def _figures(name: str, passages: Sequence[_Passage], equal: int) -> SetFigures:
    compared = [passages[i] for i in np.linspace(0, len(passages) - 1, equal).round().astype(int)] if equal else []
    longest, n_words = [p.longest for p in compared], sum(len(p.lengths) for p in compared)
    novelty = {}
    for n in NOVELTY:
        runs = [p.lengths[: max(0, len(p.lengths) - n + 1)] for p in compared]
        total = sum(map(len, runs))
        novelty[n] = sum(int((run < n).sum()) for run in runs) / total if total else None
    some = bool(longest)
    return SetFigures(
        name, len(passages), len(compared), n_words, float(np.median(longest)) if some else None,
        float(np.quantile(longest, 0.95)) if some else None, max(longest) if some else None, max((p.longest for p in passages), default=None),
        sum(int(_copied(p.lengths).sum()) for p in compared) / n_words if n_words else None, novelty,
    )  # fmt: skip


def _excess(passages: Mapping[str, Sequence[_Passage]]) -> Excess:
    human = [p.longest for p in passages.get(HUMAN, ())]
    if len(human) < FEWEST_PASSAGES or len(passages[TUNED]) < FEWEST_PASSAGES:
        lacking = HUMAN if len(human) < FEWEST_PASSAGES else TUNED
        return Excess(
            "not measurable",
            f"Too few {lacking} passages ({len(passages.get(lacking, ()))}) to say what is usual: {FEWEST_PASSAGES} are needed.",
        )
    threshold = max(LONG_WORDS, int(np.quantile(human, 0.99, method="higher")))
    long = {name: (sum(p.longest > threshold for p in some), len(some)) for name, some in passages.items() if some}
    p_human = {name: _more(long[name], long[HUMAN]) for name in long if name != HUMAN}
    p_base = _more(long[TUNED], long[BASE]) if BASE in long else None
    said = ", ".join(f"{k} of {n} {name}" for name, (k, n) in long.items())
    reason = f"Texts with a shared span of more than {threshold} words: {said} (one-sided Fisher p {p_human[TUNED]:.3g} against held-out)."
    answer: Answer = "not shown"
    if p_human[TUNED] <= ALPHA:
        known = p_human.get(BASE, 1.0) <= ALPHA and p_base is not None and p_base > ALPHA
        answer = "the base already knows this text" if known else "excess copying"
    return Excess(answer, reason, threshold, long, p_human, p_base)


def _more(first: tuple[int, int], second: tuple[int, int]) -> float:
    """One-sided Fisher p: is the share k/n of the first larger than that of the second?"""
    from scipy.stats import fisher_exact

    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _longest(passages: Sequence[_Passage], statistics: Mapping[str, Statistics], train: Sequence[Text]) -> list[Span]:
    """The longest spans, copies or not, each run of words once, however many texts have it."""
    starts = [
        (int(p.lengths[i]), number, int(i))
        for number, p in enumerate(passages)
        for i in np.flatnonzero((p.lengths >= _LISTED_WORDS) & (np.concatenate([[0], p.lengths[:-1]]) <= p.lengths))
    ]
    chosen: dict[tuple[str, ...], tuple[int, int, int]] = {}
    times: Counter[tuple[str, ...]] = Counter()
    said: dict[int, list[str]] = {}
    for length, number, begin in sorted(starts, key=lambda s: (-s[0], s[1], s[2])):
        if number not in said:
            said[number] = words(passages[number].text.text)
        run = tuple(said[number][begin : begin + length])
        times[run] += 1
        if run in chosen or len(chosen) < _LISTED:
            chosen.setdefault(run, (length, number, begin))
        elif length < min(s[0] for s in chosen.values()):
            break
    return [
        _span(passages[number], statistics[passages[number].text.id], begin, length, train, times[run])
        for run, (length, number, begin) in chosen.items()
    ]


def _span(p: _Passage, found: Statistics, begin: int, length: int, train: Sequence[Text], times: int) -> Span:
    document, position = train[int(found.documents[begin])], int(found.positions[begin])
    mine, theirs = word_places(p.text.text)[begin : begin + length], word_places(document.text)[position : position + length]
    start, end = theirs[0][0], theirs[-1][1]
    return Span(
        p.set, p.text.id, length, begin, p.text.text[mine[0][0] : mine[-1][1]], document.id, position, document.text[start:end],
        document.text[max(0, start - _CONTEXT_CHARACTERS) : start], document.text[end : end + _CONTEXT_CHARACTERS], times,
    )  # fmt: skip
