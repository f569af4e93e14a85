"""Which of very many texts came before: a table of 64-bit hashes, at most 36 bytes for each different text."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable

import numpy as np

_SMALLEST = 1 << 10
_FREE = 0


class Seen:
    """Numbers different keys as they come. Two of ten million different keys are taken for one with probability 3e-6."""

    def __init__(self) -> None:
        self._count = 0
        self._clear(_SMALLEST)

    def _clear(self, size: int) -> None:
        self._mask = size - 1
        self._keys, self._numbers = array("q", bytes(8 * size)), array("I", bytes(4 * size))

    def number(self, key: Hashable) -> tuple[int, bool]:
        """The number of `key`, from 0, and whether it is new."""
        return self.numbers([key])[0]

    def numbers(self, some: Iterable[Hashable]) -> list[tuple[int, bool]]:
        """The same of some keys, in order."""
        found = []
        for hashed in map(hash, some):
            slot = self._slot(hashed or 1)
            is_new = self._keys[slot] == _FREE
            if is_new:
                self._keys[slot], self._numbers[slot] = hashed or 1, self._count
                self._count += 1
            found.append((self._numbers[slot], is_new))
            if 3 * self._count > 2 * self._mask:
                self._grow()
        return found

    def _slot(self, hashed: int) -> int:
        """Where `hashed` stands or would stand."""
        keys, mask = self._keys, self._mask
        slot = hashed & mask
        while keys[slot] not in (hashed, _FREE):
            slot = slot + 1 & mask
        return slot

    def _grow(self) -> None:
        """Twice the table: each key behind the one before it, or in its own slot where that is further on."""
        keys, numbers = np.frombuffer(self._keys, dtype=np.int64), np.frombuffer(self._numbers, dtype=np.uint32)
        used = np.flatnonzero(keys)
        self._clear(2 * len(keys))
        used = used[np.argsort(keys[used] & self._mask)]
        slots = keys[used] & self._mask
        slots = np.maximum.accumulate(slots - np.arange(len(slots))) + np.arange(len(slots))
        inside = slots <= self._mask
        np.frombuffer(self._keys, dtype=np.int64)[slots[inside]] = keys[used[inside]]
        np.frombuffer(self._numbers, dtype=np.uint32)[slots[inside]] = numbers[used[inside]]
        for place in used[~inside].tolist():  # behind the end is the beginning
            slot = self._slot(int(keys[place]))
            self._keys[slot], self._numbers[slot] = int(keys[place]), int(numbers[place])
