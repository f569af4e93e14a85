"""What the splits have in common, pair by pair, in memory that does not grow with them.

Texts are taken in blocks. A block of held-out text is held while all that comes before it in a pair streams past. Where held-out text
is more than `HELD` characters it is held in turns; then all text streams past once to leave behind which windows of words it has that
held-out text may have too (`index`), and in each turn only those documents are read again that share a window with what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from galvan.data import index, near, overlap
from galvan.data.index import Mask
from galvan.data.overlap import Corpus
from galvan.data.spoken import Hashes, Places, spoken
from galvan.data.store import take, texts
from galvan.rundir import Document

SPAN_WORDS = 20  # a run of so many words that train and test share is a leak
NGRAM_WORDS = 13  # the usual unit of contamination reports
COPY_WORDS = overlap.SEED_WORDS  # a run of so many words is a copy rather than a phrase (METHODS S5.6)
FORMULA = 4  # a run that more documents have is a formula rather than a copy: a greeting, a refrain
NEAR = 0.8  # Jaccard similarity of five-word runs from which two documents are the same text
BLOCK, HELD = 3_000_000, 6_000_000  # characters


@dataclass(frozen=True, slots=True)
class Block:
    """Some neighbouring documents of a part with their texts and words."""

    documents: Sequence[Document]
    texts: list[str]
    corpus: Corpus


def blocks(documents: Sequence[Document], characters: int = 0) -> Iterator[Block]:
    """`documents` in turns of about that many characters (0: `BLOCK`)."""
    begin, size, own = 0, 0, list[str]()
    most = characters or BLOCK
    for text in texts(documents):
        own.append(text)
        size += len(text)
        if size >= most:
            yield Block(take(documents, range(begin, begin + len(own))), own, Corpus(spoken(own)))
            begin, size, own = begin + len(own), 0, []
    if own:
        yield Block(take(documents, range(begin, begin + len(own))), own, Corpus(spoken(own)))


@dataclass(slots=True)
class Found:
    """What part `b` shares with part `a`; documents of `b` by number."""

    span: tuple[int, str, tuple[str, str]] | None = None  # words, the run itself, the ids of its documents
    leaking: list[int] = field(default_factory=list)  # documents that share a run of `SPAN_WORDS`
    whole: list[int] = field(default_factory=list)  # documents that `a` has whole
    long_whole: list[int] = field(default_factory=list)  # those of `COPY_WORDS` words or more
    near: list[int] = field(default_factory=list)
    words: int = 0
    copied: dict[int, int] = field(default_factory=lambda: {COPY_WORDS: 0, NGRAM_WORDS: 0})  # words of `b` in copies so long
    ngrams: int = 0
    contained: int = 0

    @property
    def containment(self) -> float | None:
        return self.contained / self.ngrams if self.ngrams else None

    def copied_share(self, length: int) -> float | None:
        return self.copied[length] / self.words if self.words else None


def found(
    parts: Mapping[str, Sequence[Document]],
    pairs: Sequence[tuple[str, str]],
    counted: Sequence[str],
    see: Callable[[str, Block], None] = lambda name, block: None,
) -> dict[tuple[str, str], Found]:
    """What each pair (a, b) of `parts` shares. Formulas are runs of many documents of the parts `counted`; `see` is shown each block once."""
    results = {pair: Found() for pair in pairs}
    held_out = {b: sum(map(len, texts(parts[b]))) for b in dict.fromkeys(b for _, b in pairs)}
    if sum(held_out.values()) <= HELD:
        group = [held for turn in _in_turns(parts, pairs, True) for held in turn]
        for name, documents in parts.items():
            at_hand = [held.block for held in group if held.name == name]
            for block in at_hand or blocks(documents):
                see(name, block)
                _meet(group, name, block, name in counted)
        for held in group:
            held.finish(results)
        return results
    known = index.Index(parts, pairs, held_out, blocks, see)
    for group in _in_turns(parts, pairs, False):
        hashes = overlap.different(np.concatenate([held.hashes() for held in group]))
        for name, documents in parts.items():
            for block in blocks(take(documents, known.sharing(name, hashes).tolist())):
                _meet(group, name, block, name in counted)
        for held in group:
            held.finish(results, known.wholes)
    for pair, result in results.items():
        result.span = result.span or known.short_span(*pair)
    return results


def _meet(group: Sequence[_Held], name: str, block: Block, counts: bool) -> None:
    for held in group:
        held.meet(name, block, counts)
    block.corpus.forget_seeds()


def _in_turns(parts: Mapping[str, Sequence[Document]], pairs: Sequence[tuple[str, str]], short: bool) -> Iterator[list[_Held]]:
    group: list[_Held] = []
    size = 0
    for b in dict.fromkeys(b for _, b in pairs):
        begin = 0
        for block in blocks(parts[b]):
            group.append(_Held(b, block, begin, [a for a, other in pairs if other == b], short))
            begin += len(block.documents)
            size += sum(map(len, block.texts))
            if size >= HELD:
                yield group
                group, size = [], 0
    if group:
        yield group


class _Seen:
    """What of one held block one earlier part has."""

    def __init__(self, corpus: Corpus) -> None:
        words, documents = len(corpus.owner), len(corpus.counts)
        self.starts = {length: np.zeros(words, dtype=np.bool_) for length in (COPY_WORDS, NGRAM_WORDS)}
        self.leaking, self.whole, self.near = (np.zeros(documents, dtype=np.bool_) for _ in range(3))
        self.span: tuple[int, int, list[str], str] | None = None  # words, start, the run itself, the id of the other document


class _Held:
    """A block of held-out text, and what has been seen of it so far; with `short` also runs that are shorter than a copy."""

    def __init__(self, name: str, block: Block, begin: int, befores: Sequence[str], short: bool) -> None:
        self.name, self.block, self.begin, self._short = name, block, begin, short
        self._whole = block.corpus.whole()
        self._lengths = {length: _Windows(block.corpus, length) for length in (COPY_WORDS, NGRAM_WORDS)}
        self._seen = {before: _Seen(block.corpus) for before in befores}

    def hashes(self) -> Hashes:
        """Of the different windows of a copy's length, sorted."""
        hashes: Hashes = self._lengths[COPY_WORDS].different
        return hashes

    def meet(self, name: str, block: Block, counts: bool) -> None:
        here = self._lengths[COPY_WORDS].met(block.corpus, None, counts)
        self._lengths[NGRAM_WORDS].met(block.corpus, here, counts)
        if name in self._seen:
            self._update(self._seen[name], block, here)

    def _update(self, seen: _Seen, block: Block, in_a: Places) -> None:
        a, b = block.corpus, self.block.corpus
        seen.whole |= np.isin(self._whole, a.whole())
        in_b = self._lengths[COPY_WORDS].starts_in(a, in_a)
        seen.starts[COPY_WORDS][in_b] = True
        if len(in_b):
            in_both = overlap.matches(a, b, NGRAM_WORDS, in_a, in_b)
            seen.starts[NGRAM_WORDS][in_both[1]] = True
            seen.leaking[overlap.documents_sharing(a, b, SPAN_WORDS, in_both)] = True
            seen.near[self._near(block, in_a, in_b)] = True
        if len(in_b) or (self._short and (seen.span is None or seen.span[0] < COPY_WORDS)):
            least = min(COPY_WORDS, 1 if seen.span is None else seen.span[0])
            span = overlap.longest(a, b, (in_a, in_b), least)
            if span is not None and (seen.span is None or (span.length, -span.b_start) > (seen.span[0], -seen.span[1])):
                words, other = b.words(span.b_start, span.length), block.documents[int(a.owner[span.a_start])].id
                seen.span = span.length, span.b_start, words, other

    def _near(self, block: Block, in_a: Places, in_b: Places) -> list[int]:
        """Two texts so similar share a run of eight words, unless they are shorter than a copy."""
        some, others = np.unique(block.corpus.owner[in_a]).tolist(), np.unique(self.block.corpus.owner[in_b]).tolist()
        alike = near.across([block.texts[index] for index in some], [self.block.texts[index] for index in others], NEAR)
        return [others[index] for index in alike]

    def finish(self, results: Mapping[tuple[str, str], Found], wholes: Mapping[tuple[str, str], Mask] | None = None) -> None:
        """Put what was seen into `results`; `wholes` says of each document of a pair whether the other part has it whole."""
        corpus = self.block.corpus
        for before, seen in self._seen.items():
            result = results[before, self.name]
            if wholes is not None:
                seen.whole |= wholes[before, self.name][self.begin : self.begin + len(seen.whole)]
            result.leaking += (np.flatnonzero(seen.leaking) + self.begin).tolist()
            result.whole += (np.flatnonzero(seen.whole) + self.begin).tolist()
            result.long_whole += (np.flatnonzero(seen.whole & (corpus.counts >= COPY_WORDS)) + self.begin).tolist()
            result.near += (np.flatnonzero(seen.near) + self.begin).tolist()
            result.words += len(corpus.owner)
            result.ngrams += len(self._lengths[NGRAM_WORDS].starts)
            result.contained += int(np.count_nonzero(seen.starts[NGRAM_WORDS]))
            for length, windows in self._lengths.items():
                result.copied[length] += windows.copied(corpus, np.flatnonzero(seen.starts[length]))
            if seen.span is not None and (result.span is None or seen.span[0] > result.span[0]):
                length, start, words, other = seen.span
                result.span = length, " ".join(words), (other, self.block.documents[int(corpus.owner[start])].id)


class _Windows:
    """The windows of one length of a held block, and in how many documents each of them was met."""

    def __init__(self, corpus: Corpus, length: int) -> None:
        self.length, self._corpus = length, corpus
        starts, hashes = corpus.windows(length)
        self.starts = starts.astype(np.int32)
        order = np.argsort(hashes)
        hashes = hashes[order]
        new = np.append(np.ones(min(1, len(hashes)), dtype=np.bool_), hashes[1:] != hashes[:-1])
        self.different = hashes[new]
        self._place = np.empty(len(hashes), dtype=np.int32)  # of each window among the different ones
        self._place[order] = np.cumsum(new, dtype=np.int32) - 1
        self.documents = np.zeros(len(self.different), dtype=np.int32)
        self._table = overlap.Table(self.different)

    def met(self, other: Corpus, among: Places | None, counts: bool) -> Places:
        """Where `other` has one of these windows; where it counts, each of its documents is one more that has it."""
        if other is self._corpus:
            here, place = self.starts.astype(np.int64), self._place.astype(np.int64)
        else:
            starts, hashes = other.windows(self.length, among)
            found = self._table.found(hashes)
            here, place = starts[found], np.searchsorted(self.different, hashes[found]) if counts else found
        if counts and len(here):
            each = overlap.different(place * np.int64(len(other.counts)) + other.owner[here])
            self.documents += np.bincount(each // np.int64(len(other.counts)), minlength=len(self.documents)).astype(np.int32)
        return here

    def starts_in(self, other: Corpus, places: Places) -> Places:
        """Starts of the windows that `other` has at `places`, all of which are among these."""
        if not len(places):
            return places
        is_there = np.zeros(len(self.different), dtype=np.bool_)
        is_there[np.searchsorted(self.different, other.hashes(places, self.length))] = True
        return self.starts[is_there[self._place]].astype(np.int64)

    def copied(self, corpus: Corpus, starts: Places) -> int:
        """How many words lie in one of the windows at `starts` and in none that is a formula."""
        formula = self.documents[np.searchsorted(self.different, corpus.hashes(starts, self.length))] > FORMULA
        copied = overlap.covered(corpus, starts[~formula], self.length) & ~overlap.covered(corpus, starts[formula], self.length)
        return int(np.count_nonzero(copied))
