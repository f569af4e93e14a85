"""Text that two collections have in common, exactly: the longest shared run of words and the n-grams of one found in the other.

Windows of words are compared by 64-bit polynomial hashes, all at once in NumPy, so that a book against a book takes a second and
no pair of documents is compared with another. Two different windows of a million collide with probability below 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_SEED_WORDS = 8


class Corpus:
    """Documents as one row of hashed words; windows never cross from one document into the next."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        self.documents = documents
        lengths = np.array([len(words) for words in documents], dtype=np.int64)
        self.owner: Places = np.repeat(np.arange(len(documents)), lengths)
        self.begin: Places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        hashes = _hash_all(documents, int(self.begin[-1]))
        self._powers = _powers(_BASE, len(hashes))
        self._inverses = _powers(_INVERSE, len(hashes))
        self._sums: Hashes = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(hashes * self._powers, dtype=np.uint64)])

    def places(self, length: int, among: Places | None = None) -> Places:
        """Where a window of `length` words begins that lies in one document."""
        n = len(self.owner)
        starts = np.arange(max(0, n - length + 1)) if among is None else among[among + length <= n]
        inside: Places = starts[self.owner[starts] == self.owner[starts + length - 1]]
        return inside

    def hashes(self, starts: Places, length: int) -> Hashes:
        result: Hashes = (self._sums[starts + length] - self._sums[starts]) * self._inverses[starts]
        return result

    def words(self, start: int, length: int) -> list[str]:
        document = int(self.owner[start])
        inside = start - int(self.begin[document])
        return list(self.documents[document][inside : inside + length])


class _Numbers(dict[str, int]):
    """Numbers words as they are first seen."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def _hash_all(documents: Sequence[Sequence[str]], n_words: int) -> Hashes:
    """The hash of every word in turn; each different word is hashed once."""
    numbers = _Numbers()
    places = np.fromiter(map(numbers.__getitem__, chain.from_iterable(documents)), dtype=np.int64, count=n_words)
    table = np.array([hash_word(word) for word in numbers], dtype=np.uint64)
    hashes: Hashes = table[places]
    return hashes


@lru_cache(maxsize=1_000_000)
def hash_word(word: str) -> int:
    """FNV-1a and a final mix, for Python's own hash of a string differs from run to run."""
    value = 0xCBF29CE484222325
    for byte in word.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 32


def _powers(base: int, n: int) -> Hashes:
    steps = np.full(n, base, dtype=np.uint64)
    steps[:1] = 1
    return np.cumprod(steps, dtype=np.uint64)


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
    a_starts, b_starts = a.places(length, a_among), b.places(length, b_among)
    a_hashes, b_hashes = a.hashes(a_starts, length), b.hashes(b_starts, length)
    in_a = _found_in(a_hashes, b_hashes)
    return a_starts[in_a], b_starts[_found_in(b_hashes, a_hashes[in_a])]


def _found_in(some: Hashes, known: Hashes) -> Places:
    """Indices of those of `some` that are in `known`. A table of their top bits sorts out most before anything is compared."""
    bits = min(26, max(8, len(known).bit_length() + 4))
    table = np.zeros(1 << bits, dtype=np.bool_)
    shift = np.uint64(64 - bits)
    table[known >> shift] = True
    maybe = np.flatnonzero(table[some >> shift])
    if not len(maybe):
        return maybe
    ordered = np.sort(known)
    nearest = ordered[np.minimum(np.searchsorted(ordered, some[maybe]), len(ordered) - 1)]
    found: Places = maybe[nearest == some[maybe]]
    return found


def seeds(a: Corpus, b: Corpus) -> tuple[Places, Places]:
    """Starts in `a` and in `b` of shared windows of 8 words: every longer shared window begins at one of them."""
    return matches(a, b, _SEED_WORDS)


def longest(a: Corpus, b: Corpus, known_seeds: tuple[Places, Places] | None = None) -> Shared | None:
    """The longest run of words that stands in both, or None if they have no word in common.

    A shared window of n + 1 words holds one of n at the same start, so the length is found by doubling and bisection, each
    time only among the starts that are still in play.
    """
    begun = known_seeds or seeds(a, b)
    known = 0
    found: tuple[Places, Places] | None = None
    if len(begun[1]):
        known, found, step = _SEED_WORDS, begun, _SEED_WORDS
        while len((longer := matches(a, b, known + step, *found))[1]):
            known, found, step = known + step, longer, 2 * step
        ceiling = known + step
    else:
        ceiling = _SEED_WORDS
    while ceiling - known > 1:
        middle = (known + ceiling) // 2
        tried = matches(a, b, middle, *(found or (None, None)))
        if len(tried[1]):
            known, found = middle, tried
        else:
            ceiling = middle
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
    return [int(document) for document in np.unique(b.owner[matches(a, b, length, *(among or (None, None)))[1]])]


def holders(collection: Sequence[Corpus], hashes: Hashes, length: int) -> Places:
    """In how many documents of the collection each of the sorted `hashes` of windows of `length` words stands."""
    counts = np.zeros(len(hashes), dtype=np.int64)
    for corpus in collection:
        starts = corpus.places(length)
        found = corpus.hashes(starts, length)
        here = _found_in(found, hashes)
        each = np.searchsorted(hashes, found[here]) * np.int64(len(corpus.documents) + 1) + corpus.owner[starts[here]]
        counts += np.bincount(np.unique(each) // np.int64(len(corpus.documents) + 1), minlength=len(hashes))
    return counts


def copied_share(b: Corpus, starts: Places, length: int, collection: Sequence[Corpus], most_documents: int) -> float | None:
    """Share of the words of `b` that lie in a shared window (of `length` words, beginning at one of `starts`); None if `b` has no word.

    A window that stands in more than `most_documents` of the collection is a formula, a greeting or a refrain, and its words do not count.
    """
    if not len(b.owner):
        return None
    hashes = b.hashes(starts, length)
    known, which = np.unique(hashes, return_inverse=True)
    formula = holders(collection, known, length)[which] > most_documents
    copied = _covered(b, starts[~formula], length) & ~_covered(b, starts[formula], length)
    return float(np.count_nonzero(copied) / len(b.owner))


def _covered(corpus: Corpus, starts: Places, length: int) -> NDArray[np.bool_]:
    edges = np.zeros(len(corpus.owner) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return np.cumsum(edges[:-1]) > 0
