"""Near duplicates: texts that share most of their five-word shingles.

Up to 20,000 texts an index of all shingles gives every pair's Jaccard similarity; above, MinHash with locality-sensitive hashing
proposes pairs, and their exact similarity decides. The bands are sorted in NumPy: datasketch, the reference in the tests, keeps a
Python set for each text and band, which for a million texts is more than the 4 GB that they may take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galvan.data.overlap import hash_word
from galvan.text import words

SHINGLE_WORDS = 5
EXACT_UP_TO = 20_000
PERMUTATIONS = 64
_COMMON = 1_000  # a shingle of more texts than this proposes no pair: it would propose all of them
_LARGEST_INDEX = 30_000_000  # characters; the index of more would need gigabytes
_NEIGHBOURS = 4
_RNG = np.random.default_rng(0x6A1)
_MULTIPLIERS = _RNG.integers(0, 2**64, (PERMUTATIONS, 1), dtype=np.uint64) | np.uint64(1)
_OFFSETS = _RNG.integers(0, 2**64, (PERMUTATIONS, 1), dtype=np.uint64)

Shingles = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Near:
    """Text `number` is nearly text `first`, which comes before it; `similarity` is the Jaccard similarity of their shingles."""

    number: int
    first: int
    similarity: float


def shingles(text: str) -> Shingles:
    """Sorted hashes of the different runs of five words; a text of fewer words is one shingle, an empty one has none."""
    hashes = np.fromiter(map(hash_word, words(text)), dtype=np.uint64)
    if not len(hashes):
        return hashes
    length = min(SHINGLE_WORDS, len(hashes))
    mixed = np.zeros(len(hashes) - length + 1, dtype=np.uint64)
    for place in range(length):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + len(mixed)]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared shingles by all shingles; 0 where there is none."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def near_duplicates(texts: Sequence[str], threshold: float, exact_up_to: int = EXACT_UP_TO) -> list[Near]:
    """Every text that is at least `threshold` similar to an earlier one that stays. The first of a kind is kept."""
    indexed = len(texts) <= exact_up_to and sum(map(len, texts)) <= _LARGEST_INDEX
    return _exact(map(shingles, texts), threshold) if indexed else minhashed(texts, threshold)


def _exact(collection: Iterable[Shingles], threshold: float) -> list[Near]:
    """By an index from shingle to the texts that hold it: no pair without a common shingle is looked at."""
    holders: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    found: list[Near] = []
    for number, own in enumerate(collection):
        shared: Counter[int] = Counter()
        listed = own.tolist()
        for shingle in listed:
            shared.update(holders.get(shingle, ()))
        best = max(((count / (len(listed) + sizes[first] - count), -first) for first, count in shared.items()), default=None)
        if best is not None and best[0] >= threshold:
            found.append(Near(number, -best[1], best[0]))
            continue
        sizes[number] = len(listed)
        for shingle in listed:
            members = holders.setdefault(shingle, [])
            if len(members) < _COMMON:
                members.append(number)
    return found


def minhashed(texts: Sequence[str], threshold: float) -> list[Near]:
    """By MinHash and bands. Texts whose signatures agree in a whole band are compared exactly, so nothing is removed by an estimate."""
    signatures = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint32)
    spoken = np.zeros(len(texts), dtype=np.bool_)
    for number, text in enumerate(texts):
        own = shingles(text)
        if len(own):
            signatures[number], spoken[number] = signature(own), True
    found: list[Near] = []
    gone: set[int] = set()
    for number, firsts in _proposed(signatures, np.flatnonzero(spoken), band_rows(threshold)):
        own = shingles(texts[number])
        best = max(((jaccard(own, shingles(texts[first])), -first) for first in firsts if first not in gone), default=None)
        if best is not None and best[0] >= threshold:
            found.append(Near(number, -best[1], best[0]))
            gone.add(number)
    return found


def signature(own: Shingles) -> NDArray[np.uint32]:
    """The minimum of each of 64 hash functions (odd multiplier, upper half of the product) over the shingles."""
    least: NDArray[np.uint32] = ((own[None, :] * _MULTIPLIERS + _OFFSETS) >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return least


def band_rows(threshold: float) -> int:
    """Rows of a band: the most for which two texts of similarity `threshold` still meet in some band with probability 0.99."""
    return max((r for r in range(1, 17) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= 0.99), default=1)


def _proposed(signatures: NDArray[np.uint32], among: NDArray[np.int64], rows: int) -> list[tuple[int, list[int]]]:
    """Each text with the earlier ones that share a band with it (in each band the first and the nearest ones), in order."""
    pairs = []
    for begin in range(0, PERMUTATIONS - rows + 1, rows):
        key = np.zeros(len(among), dtype=np.uint64)
        for column in range(begin, begin + rows):
            key = (key ^ signatures[among, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
        order = np.argsort(key, kind="stable")
        ordered, number = key[order], among[order]
        starts = (
            np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.empty(0, dtype=np.int64)
        )
        first = np.repeat(number[starts], np.diff(np.append(starts, len(ordered))))
        pairs.append(np.stack([number, first], axis=1)[number != first])
        for back in range(1, _NEIGHBOURS + 1):
            same = np.flatnonzero(ordered[back:] == ordered[:-back]) + back
            pairs.append(np.stack([number[same], number[same - back]], axis=1))
    proposals: dict[int, list[int]] = {}
    for later, earlier in np.unique(np.concatenate(pairs), axis=0).tolist():
        proposals.setdefault(later, []).append(earlier)
    return sorted(proposals.items())


def across(a: Sequence[str], b: Sequence[str], threshold: float) -> list[int]:
    """Indices of the texts of `b` that are at least `threshold` similar to a text of `a`, exactly."""
    holders: dict[int, list[int]] = {}
    sizes = []
    for number, text in enumerate(a):
        own = shingles(text)
        sizes.append(len(own))
        for shingle in own.tolist():
            holders.setdefault(shingle, []).append(number)
    found = []
    for number, text in enumerate(b):
        own = shingles(text)
        shared: Counter[int] = Counter()
        for shingle in own.tolist():
            shared.update(holders.get(shingle, ())[:_COMMON])
        if any(count >= threshold * (len(own) + sizes[other] - count) for other, count in shared.items()):
            found.append(number)
    return found
