"""Text that two collections have in common, exactly: the longest shared run of words and the n-grams of one found in the other.

Windows of words are compared by 64-bit polynomial hashes, all at once in NumPy, so that a book against a book takes a second and
no pair of documents is compared with another. Two different windows of a million collide with probability below 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from galvan.data.spoken import BASE, INVERSE, Hashes, Places, Spoken, powers, spoken_of_words

Owners = NDArray[np.int32]
N = TypeVar("N", bound=np.generic)

SEED_WORDS = 8


class Corpus:
    """Documents as one row of hashed words; windows never cross from one document into the next."""

    def __init__(self, spoken: Spoken | Sequence[Sequence[str]]) -> None:
        self._spoken = spoken if isinstance(spoken, Spoken) else spoken_of_words(spoken)
        self.counts = self._spoken.counts
        n = int(self.counts.sum())
        self.owner: Owners = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        self.begin: Places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.counts)])
        self._inverses = powers(INVERSE, n)
        self._sums: Hashes = np.zeros(n + 1, dtype=np.uint64)
        if n:
            np.cumsum(self._spoken.hashes * powers(BASE, n), out=self._sums[1:])
        self._seeds: tuple[Places, Hashes] | None = None

    def places(self, length: int, among: Places | None = None) -> Places:
        """Where a window of `length` words begins that lies in one document."""
        n = len(self.owner)
        if among is None:
            return np.flatnonzero(self.owner[: max(0, n - length + 1)] == self.owner[length - 1 :])
        starts = among[among + length <= n]
        inside: Places = starts[self.owner[starts] == self.owner[starts + length - 1]]
        return inside

    def hashes(self, starts: Places, length: int) -> Hashes:
        result: Hashes = (self._sums[starts + length] - self._sums[starts]) * self._inverses[starts]
        return result

    def windows(self, length: int, among: Places | None = None) -> tuple[Places, Hashes]:
        """Starts and hashes of the windows of `length` words; a whole corpus keeps the seeds, for they are asked for again."""
        if among is not None:
            starts = self.places(length, among)
            return starts, self.hashes(starts, length)
        if length == SEED_WORDS and self._seeds is not None:
            return self._seeds
        n = max(0, len(self.owner) - length + 1)
        inside = self.owner[:n] == self.owner[length - 1 :]
        every = self._sums[length:] - self._sums[:-length]
        every *= self._inverses[:n]
        found = np.flatnonzero(inside), every[inside]
        if length == SEED_WORDS:
            self._seeds = found
        return found

    def forget_seeds(self) -> None:
        """Free the memory of what is kept."""
        self._seeds = None

    def whole(self) -> Hashes:
        """One hash for each document, of all its words and their number: the same for the same words."""
        spans = self._sums[self.begin[1:]] - self._sums[self.begin[:-1]]
        inverses = np.append(self._inverses, np.uint64(0))[self.begin[:-1]]
        mixed: Hashes = (spans * inverses ^ self.counts.astype(np.uint64)) * np.uint64(BASE)
        return mixed ^ mixed >> np.uint64(32)

    def words(self, start: int, length: int) -> list[str]:
        return self._spoken.words(start, start + length)


@lru_cache(maxsize=1 << 17)  # 20 MB
def hash_word(word: str) -> int:
    """FNV-1a and a final mix, for Python's own hash of a string differs from run to run."""
    value = 0xCBF29CE484222325
    for byte in word.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 32


@dataclass(frozen=True, slots=True)
class Shared:
    """A run of `length` words that begins at `a_start` in one corpus and at `b_start` in the other."""

    length: int
    a_start: int
    b_start: int


def matches(
    a: Corpus, b: Corpus, length: int, a_among: Places | None = None, b_among: Places | None = None
) -> tuple[Places, Places]:
    """Starts in `a` and in `b` of the windows of `length` words that both have."""
    (a_starts, a_hashes), (b_starts, b_hashes) = a.windows(length, a_among), b.windows(length, b_among)
    in_a = _found_in(a_hashes, b_hashes)
    return a_starts[in_a], b_starts[_found_in(b_hashes, a_hashes[in_a])]


class Table:
    """Sorted hashes that can be looked for quickly: tables of their top and low bits sort out most before anything is compared."""

    def __init__(self, ordered: Hashes) -> None:
        bits = min(23, max(8, len(ordered).bit_length() + 2))
        self._ordered, self._shift, self._mask = ordered, np.uint64(64 - bits), np.uint64((1 << bits) - 1)
        self._top, self._low = np.zeros(1 << bits, dtype=np.bool_), np.zeros(1 << bits, dtype=np.bool_)
        self._top[ordered >> self._shift] = True
        self._low[ordered & self._mask] = True

    def found(self, some: Hashes) -> Places:
        """Indices of those of `some` that are among them."""
        maybe = np.flatnonzero(self._top[(some >> self._shift).view(np.int64)])
        maybe = maybe[self._low[(some[maybe] & self._mask).view(np.int64)]]
        if not len(maybe):
            return np.empty(0, dtype=np.int64)
        nearest = self._ordered[np.minimum(np.searchsorted(self._ordered, some[maybe]), len(self._ordered) - 1)]
        found: Places = maybe[nearest == some[maybe]]
        return found

    def place(self, some: Hashes) -> Places:
        """Where those that are among them stand."""
        return np.searchsorted(self._ordered, some)


def different(values: NDArray[N]) -> NDArray[N]:
    """The different `values`, sorted; for millions of hashes far faster than `numpy.unique`, which looks each up in a table."""
    ordered = np.sort(values)
    found: NDArray[N] = ordered[np.concatenate([np.ones(min(1, len(ordered)), dtype=np.bool_), ordered[1:] != ordered[:-1]])]
    return found


def _found_in(some: Hashes, known: Hashes) -> Places:
    return Table(np.sort(known)).found(some)


def seeds(a: Corpus, b: Corpus) -> tuple[Places, Places]:
    """Starts in `a` and in `b` of shared windows of 8 words: every longer shared window begins at one of them."""
    return matches(a, b, SEED_WORDS)


def longest(a: Corpus, b: Corpus, known_seeds: tuple[Places, Places] | None = None, least: int = 1) -> Shared | None:
    """The longest run of words that stands in both, or None if they have none of `least` words (1 to 8) in common.

    A shared window of n + 1 words holds one of n at the same start, so the length is found by doubling and bisection, each
    time only among the starts that are still in play.
    """
    begun = known_seeds or seeds(a, b)
    known, ceiling, middle = least - 1, SEED_WORDS, least if least > 1 else SEED_WORDS // 2
    found: tuple[Places, Places] | None = None
    if len(begun[1]):
        known, found, step = SEED_WORDS, begun, SEED_WORDS
        while len((longer := matches(a, b, known + step, *found))[1]):
            known, found, step = known + step, longer, 2 * step
        ceiling, middle = known + step, known + step // 2
    while ceiling - known > 1:
        tried = matches(a, b, middle, *(found or (None, None)))
        if len(tried[1]):
            known, found = middle, tried
        else:
            ceiling = middle
        middle = (known + ceiling) // 2
    if found is None:
        return None
    b_start = int(found[1][0])
    a_hashes, b_hash = a.hashes(found[0], known), b.hashes(found[1][:1], known)
    return Shared(known, int(found[0][np.flatnonzero(a_hashes == b_hash[0])[0]]), b_start)


def containment(a: Corpus, b: Corpus, length: int, among: tuple[Places, Places] | None = None) -> float | None:
    """Share of the n-grams of `b` (`length` words, counted as often as they stand there) that `a` has; None if `b` has none.

    `among` are the seeds of the pair, which may be given where `length` is at least theirs.
    """
    windows = len(b.places(length))
    return len(matches(a, b, length, *(among or (None, None)))[1]) / windows if windows else None


def documents_sharing(a: Corpus, b: Corpus, length: int, among: tuple[Places, Places] | None = None) -> list[int]:
    """The documents of `b` that share a run of at least `length` words with `a`; `among` as in `containment`."""
    return [int(document) for document in different(b.owner[matches(a, b, length, *(among or (None, None)))[1]])]


def covered(corpus: Corpus, starts: Places, length: int) -> NDArray[np.bool_]:
    """Which words lie in a window of `length` words that begins at one of `starts`."""
    edges = np.zeros(len(corpus.owner) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return np.cumsum(edges[:-1]) > 0
