"""From rows to documents: long texts are cut at sentence ends so that each part fits a token budget and nothing is lost."""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galvan.data.rows import Row
from galvan.data.store import Fields, Places, Taken, in_turns, spool_of, whole_numbers
from galvan.rundir import Document
from galvan.text import sentence_ends

# The tokens of a text as character spans (begin, end), without special tokens: `lambda text: tokenizer.encode(text).offsets`.
Offsets = Callable[[str], Sequence[tuple[int, int]]]

_WINDOW_CHARACTERS = 200_000  # a book is tokenised in parts of this size; a list of all its tokens would need gigabytes
_PARAGRAPH = re.compile(r"\n\s*\n\s*")


class Piece(NamedTuple):
    """A row, or the `number`-th part of it (from 1; 0: the row was not cut), with its length in tokens."""

    row: Row
    text: str
    number: int
    n_tokens: int


_PIECE: Callable[[Iterable[object]], Piece] = partial(tuple.__new__, Piece)  # three times as fast as `Piece(...)`


def in_order(rows: Iterable[Row], folder: Path | None = None) -> Sequence[Row]:
    """Rows by source, in order of first appearance, and by position within it; they are put down in `folder` until they are asked for.

    Where two rows of a source claim one position, positions say nothing about neighbours: rows are then numbered as they come.
    """
    spool = spool_of(Row, folder=folder)
    numbers: dict[str, int] = {}
    of_source, claimed = array("q"), array("q")
    for turn in in_turns(rows):
        spool.extend(turn)
        of_source.extend([numbers.setdefault(row.source, len(numbers)) for row in turn])
        claimed.extend([row.position for row in turn])
    source, position = np.array(of_source, dtype=np.int64), np.array(claimed, dtype=np.int64)
    order = np.lexsort((position, source))
    twins = (np.diff(source[order]) == 0) & (np.diff(position[order]) == 0)
    if not twins.any():
        return spool.take(order)
    renumbered = np.isin(source, source[order[1:][twins]])
    as_they_come = np.lexsort((np.arange(len(source)), source))
    begins = np.searchsorted(source[as_they_come], np.arange(len(numbers)))
    number = np.empty(len(source), dtype=np.int64)
    number[as_they_come] = np.arange(len(source)) - begins[source[as_they_come]] + 1
    position = np.where(renumbered, number, position)
    return Ordered(spool, np.lexsort((position, source)), position)


def _at(row: Row, position: int) -> Row:
    return row if row.position == position else row._replace(position=position)


class Ordered(Taken[Row]):
    """Rows on disk, with the positions that they have now; 16 bytes of memory each."""

    def __init__(self, rows: Sequence[Row], places: Places, positions: Places) -> None:
        super().__init__(rows, places)
        self._positions = positions

    def _item(self, number: int) -> Row:
        place = int(self._places[number])
        return _at(self._items[place], int(self._positions[place]))

    def __iter__(self) -> Iterator[Row]:
        return map(_at, super().__iter__(), whole_numbers(self._positions[self._places]))

    def take(self, places: Places) -> Ordered:
        return Ordered(self._items, self._places[places], self._positions)


def cut(rows: Iterable[Row], budget_tokens: int, offsets: Offsets) -> Iterator[Piece]:
    """Every row whole if it has at most `budget_tokens` tokens, in pieces if it has more; only plain text can be cut."""
    for row in rows:
        text = row.text
        is_whole = row.payload is not None or len(text) <= _WINDOW_CHARACTERS
        tokens = len(offsets(text)) if is_whole else budget_tokens + 1
        if tokens <= budget_tokens or row.payload is not None:
            yield _PIECE((row, text, 0, tokens))
        else:
            for number, (part, n_tokens) in enumerate(pieces(text, budget_tokens, offsets), 1):
                yield Piece(row, part, number, n_tokens)


def pieces(text: str, budget_tokens: int, offsets: Offsets) -> Iterator[tuple[str, int]]:
    """Parts of `text` with their lengths in tokens, each at most `budget_tokens` when encoded alone.

    Put together they are the text but for white space at the seams. A part ends at a paragraph if one ends in the last quarter
    of the budget, else at the last sentence end that fits, else at white space, else anywhere. The last two parts share what is
    left evenly, so that no stump remains.
    """
    begin, size = 0, _WINDOW_CHARACTERS
    while begin < len(text):
        window = _Window(text[begin : begin + size], offsets)
        final = begin + size >= len(text)
        if not final and len(window.starts) <= 2 * budget_tokens:
            size *= 2
            continue
        at = 0
        while at < len(window.text) and (final or window.tokens_from(at) > 2 * budget_tokens):
            end, part, n_tokens = _next_piece(window, at, budget_tokens, offsets)
            if part:
                yield part, n_tokens
            at = end
        begin += at


class _Window:
    """A stretch of text with the places where its tokens, sentences and paragraphs begin or end."""

    def __init__(self, text: str, offsets: Offsets) -> None:
        self.text = text
        self.starts = [start for start, _ in offsets(text)]
        self.sentences = list(sentence_ends(text))
        self.paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]

    def tokens_from(self, at: int) -> int:
        return len(self.starts) - bisect_left(self.starts, at)

    def cut_after(self, at: int, tokens: int) -> int:
        """Where the piece that begins at `at` ends if it may have `tokens` tokens."""
        token = bisect_left(self.starts, at)
        furthest = self._start(token + tokens)
        if furthest == len(self.text):
            return furthest
        paragraph = _last(self.paragraphs, furthest)
        if paragraph > at and paragraph >= self._start(token + tokens * 3 // 4):
            return paragraph
        sentence = _last(self.sentences, furthest)
        if sentence > at:
            return sentence
        space = furthest
        while space > at and not self.text[space - 1].isspace():
            space -= 1
        return space if self.text[at:space].strip() else max(furthest, at + 1)

    def _start(self, token: int) -> int:
        return self.starts[token] if token < len(self.starts) else len(self.text)


def _last(places: list[int], limit: int) -> int:
    """The last of the sorted `places` that is at most `limit`, or -1."""
    index = bisect_right(places, limit)
    return places[index - 1] if index else -1


def _next_piece(window: _Window, at: int, budget_tokens: int, offsets: Offsets) -> tuple[int, str, int]:
    """End, text and length of the piece at `at`. Alone it may have more tokens than in its context: then it shrinks."""
    left = window.tokens_from(at)
    allowed = budget_tokens if left <= budget_tokens or left >= budget_tokens * 5 // 4 else max(1, left * 5 // 8)
    while True:
        end = window.cut_after(at, allowed)
        part = window.text[at:end].strip()
        n_tokens = len(offsets(part)) if part else 0
        if n_tokens <= budget_tokens or end <= at + 1:
            return end, part, n_tokens
        inside = bisect_left(window.starts, end) - bisect_left(window.starts, at)
        allowed = max(1, min(allowed, inside) - (n_tokens - budget_tokens))


def to_documents(parts: Iterable[Piece]) -> Iterator[tuple[Document, Piece]]:
    """Documents with ids `source-slug:position` or `source-slug:position.part`, numbered from 1 within their source."""
    return ((Document(*fields), piece) for fields, piece in document_fields(parts))


def document_fields(parts: Iterable[Piece]) -> Iterator[tuple[Fields, Piece]]:
    """The same in fields: to make a Document of them takes as long as all else together."""
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for part in parts:
        row, text, number, _ = part
        _, source, position, _, group, payload = row
        if source not in slugs:
            slugs[source], counts[source] = _slug(source, taken), 0
        counts[source] += 1
        name = f"{slugs[source]}:{position}.{number}" if number else f"{slugs[source]}:{position}"
        yield (name, text, source, counts[source], group, payload, None), part


def _slug(source: str, taken: set[str]) -> str:
    """`source` as a short name of a-z, 0-9 and -, different from all `taken` so far."""
    plain = unicodedata.normalize("NFKD", source).encode("ascii", "ignore").decode("ascii").lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(base) > 40:
        base = base[:41].rsplit("-", 1)[0][:40]
    base = base or "source"
    slug, number = base, 1
    while slug in taken:
        number += 1
        slug = f"{base}-{number}"
    taken.add(slug)
    return slug
