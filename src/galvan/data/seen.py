"""Which of very many texts came before: a table of 64-bit hashes, at most 36 bytes for each different text."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from struct import Struct

_SMALLEST = 1 << 10
_FREE = 0
_UINT64 = Struct("<Q")


class Seen:
    """Numbers different keys as they come. Two of ten million different keys are taken for one with probability 3e-6."""

    def __init__(self) -> None:
        self._count = 0
        self._clear(_SMALLEST)

    def _clear(self, size: int) -> None:
        self._mask = size - 1
        self._keys, self._numbers = array("Q", bytes(8 * size)), array("I", bytes(4 * size))

    def number(self, key: bytes) -> tuple[int, bool]:
        """The number of `key`, from 0, and whether it is new."""
        return self.numbers([key])[0]

    def numbers(self, some: Iterable[bytes]) -> list[tuple[int, bool]]:
        """The same of some keys, in order."""
        found = []
        for key in some:
            (hashed,) = _UINT64.unpack(hashlib.blake2b(key, digest_size=8).digest())
            hashed = hashed or 1
            slot = self._slot(hashed)
            is_new = self._keys[slot] == _FREE
            if is_new:
                self._keys[slot], self._numbers[slot] = hashed, self._count
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
        keys, numbers = self._keys, self._numbers
        self._clear(2 * len(keys))
        for key, number in zip(keys, numbers, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._numbers[slot] = key, number
