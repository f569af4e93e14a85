"""The longest run of training words that begins at each word of a text: matching statistics, exact, through one suffix array.

Training documents and texts become one row of word numbers, each text closed by a number of its own, so that no match can cross an
end. In the suffix array the training suffix with the longest common start stands next to a text's suffix, before or behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one text of n words: `lengths[p]` is the number of words from word p on that stand in a row in the training text, and one
    such place is word `positions[p]` of training document `documents[p]` (-1 where the length is 0). Each [n]."""

    lengths: Places
    documents: Places
    positions: Places

    def within(self, begin: int, end: int) -> Places:
        """The lengths of the passage from word `begin` up to `end`, whose spans end with it."""
        return np.minimum(self.lengths[begin:end], np.arange(end - begin, 0, -1))


def suffix_array(ids: Places) -> Places:
    """Where the suffixes of `ids` (numbers >= 0) begin, in their order; a suffix that is the start of another comes before it.

    Prefix doubling (Manber & Myers 1993); a round sorts only what is still tied (Larsson & Sadakane 2007). As many words as fit into
    63 bits are compared in the first one, after which little of a natural text is tied.
    """
    n = len(ids)
    if not n:
        return np.zeros(0, dtype=np.int64)
    bits = (int(ids.max()) + 1).bit_length()
    depth = 63 // bits
    key = np.zeros(n, dtype=np.int64)
    for ahead in range(depth):
        key <<= bits
        key[: max(0, n - ahead)] += ids[ahead:] + 1
    order = np.argsort(key, kind="stable")
    slots, rank = np.arange(n), np.zeros(n, dtype=np.int64)
    key = key[order]
    while True:
        begins = np.concatenate([[True], key[1:] != key[:-1]])
        rank[order[slots]] = slots[np.maximum.accumulate(np.where(begins, np.arange(len(slots)), 0))]
        slots = slots[~(begins & np.concatenate([begins[1:], [True]]))]
        if not len(slots):
            return order
        tied = order[slots]
        behind = tied + depth
        second = np.where(behind < n, rank[np.minimum(behind, n - 1)] + 1, 0)
        key = rank[tied] * np.int64(n + 1) + second
        inner = np.argsort(key, kind="stable")
        order[slots], key = tied[inner], key[inner]
        depth *= 2


def matching_statistics(training: Iterable[Sequence[str]], texts: Iterable[Sequence[str]]) -> list[Statistics]:
    """One `Statistics` for each of `texts`; both are given as words. No word, or no training text, is nothing shared."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    known = [np.fromiter(map(numbers.__getitem__, words), dtype=np.int64) for words in training]
    asked = [np.fromiter(map(numbers.__getitem__, words), dtype=np.int64) for words in texts]
    begins = np.cumsum([0] + [len(part) + 1 for part in known])
    ids = np.concatenate([np.append(part, len(numbers) + end) for end, part in enumerate([*known, *asked])] or [begins[:0]])
    lengths, at = _nearest(ids, int(begins[-1]))
    owner = np.searchsorted(begins, at, side="right") - 1
    found, begin = [], 0
    for part in asked:
        here = slice(begin, begin + len(part))
        missing = lengths[here] == 0
        position = at[here] - begins[owner[here]]
        found.append(Statistics(lengths[here], np.where(missing, -1, owner[here]), np.where(missing, -1, position)))
        begin += len(part) + 1
    return found


def _nearest(ids: Places, n_known: int) -> tuple[Places, Places]:
    """For each place of `ids` from `n_known` on, the longest match with one before it, and where that begins."""
    order = suffix_array(ids)
    slot = np.empty_like(order)
    slot[order] = np.arange(len(order))
    is_known = order < n_known
    before = np.maximum.accumulate(np.where(is_known, np.arange(len(order)), -1))
    behind = np.minimum.accumulate(np.where(is_known, np.arange(len(order)), len(order))[::-1])[::-1]
    asked = slot[n_known:]
    ahead, after = before[asked], behind[asked]
    first = np.where(ahead >= 0, order[ahead], -1)
    second = np.where(after < len(order), order[np.minimum(after, len(order) - 1)], -1)
    lengths, others = _common(ids, n_known, first), _common(ids, n_known, second)
    return np.maximum(lengths, others), np.where(lengths >= others, first, second)


def _common(ids: Places, begin: int, neighbours: Places) -> Places:
    """How far each suffix from `begin` on agrees with its neighbour: one word less than the last at most, so that no word is compared
    twice (Kasai et al. 2001)."""
    view, found, length = ids.data, np.zeros(len(neighbours), dtype=np.int64), 0
    for index, other in enumerate(neighbours.tolist()):
        length = max(0, length - 1)
        if other < 0:
            length = 0
            continue
        mine = begin + index
        while view[mine + length] == view[other + length]:
            length += 1
        found[index] = length
    return found
