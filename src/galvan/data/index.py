"""Which documents share text with held-out text, however much of that there is: one pass over every part, and a file for each.

A part's windows of words go through a sieve, two bytes for each window of held-out text, which lets all of these through and of the
others about one in a hundred. What passes is written down, 16 bytes a window, and then compared exactly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galvan.data.overlap import SEED_WORDS, Corpus, Table, different
from galvan.data.spoken import Hashes, Places
from galvan.data.store import folder_of
from galvan.rundir import Document, writing

if TYPE_CHECKING:
    from galvan.data.shared import Block

Mask = NDArray[np.bool_]
Blocks = Callable[[Sequence[Document]], Iterator["Block"]]
Span = tuple[int, str, tuple[str, str]]
_BITS_A_WINDOW, _MOST_BITS = 16, 31  # at most 256 MiB
_AT_ONCE = 1 << 20  # windows


class Sieve:
    """Lets through all hashes that were added and few others: a Bloom filter whose two functions are the hash's own top and low bits."""

    def __init__(self, n: int) -> None:
        bits = min(_MOST_BITS, max(16, (_BITS_A_WINDOW * n).bit_length()))
        self._shift, self._mask = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
        self._bits = np.zeros(1 << (bits - 3), dtype=np.uint8)

    def add(self, hashes: Hashes) -> None:
        for place in (hashes >> self._shift, hashes & self._mask):
            np.bitwise_or.at(self._bits, place >> np.uint64(3), _bit(place))

    def passing(self, hashes: Hashes) -> Places:
        """Indices of those that it lets through."""
        left = np.arange(len(hashes))
        for place in (hashes >> self._shift, hashes & self._mask):
            left = left[self._bits[place[left] >> np.uint64(3)] & _bit(place[left]) > 0]
        return left


def _bit(place: Hashes) -> NDArray[np.uint8]:
    return np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)


class _Windows:
    """Hashes of windows, each with the number of its document, in a file without a name."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        with writing(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115

    def append(self, hashes: Hashes, numbers: Places) -> None:
        with writing(self._folder):
            self._file.write(np.stack([hashes, numbers.astype(np.uint64)], axis=1).tobytes())

    def __iter__(self) -> Iterator[tuple[Hashes, Places]]:
        with writing(self._folder):
            self._file.seek(0)
        while found := self._read():
            columns = np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)
            yield columns[:, 0], columns[:, 1].astype(np.int64)

    def _read(self) -> bytes:
        with writing(self._folder):
            return self._file.read(16 * _AT_ONCE)


class Index:
    """The windows of every part that may stand in a part that is held out in one of `pairs` (before, held out).

    `characters` says how large each of these is. `wholes` says for each pair which documents of the second the first has whole. `see` is
    shown each block once.
    """

    def __init__(
        self, parts: Mapping[str, Sequence[Document]], pairs: Sequence[tuple[str, str]], characters: Mapping[str, int], blocks: Blocks,
        see: Callable[[str, Block], None],
    ) -> None:  # fmt: skip
        self._parts, self._blocks, self._characters = parts, blocks, characters
        self._folder = folder = folder_of(next(iter(parts.values())))
        sieve, whole = self._sieve(list(characters), SEED_WORDS)
        self.wholes: dict[tuple[str, str], Mask] = {(a, b): np.zeros(len(whole[b]), dtype=np.bool_) for a, b in pairs}
        self._windows = {name: _Windows(folder) for name in parts}
        for name, documents in parts.items():
            begin = 0
            for block in blocks(documents):
                see(name, block)
                own = Table(np.sort(block.corpus.whole()))
                for (a, b), mask in self.wholes.items():
                    if a == name:
                        mask[own.found(whole[b])] = True
                _sift(sieve, block.corpus, SEED_WORDS, begin, self._windows[name])
                begin += len(block.documents)

    def _sieve(self, names: Sequence[str], length: int) -> tuple[Sieve, dict[str, Hashes]]:
        """A sieve for the windows of these parts, and a hash of each document."""
        sieve = Sieve(sum(self._characters[name] for name in names) // 5)
        whole = {name: [np.empty(0, dtype=np.uint64)] for name in names}
        for name in names:
            for block in self._blocks(self._parts[name]):
                sieve.add(block.corpus.windows(length)[1])
                whole[name].append(block.corpus.whole())
        return sieve, {name: np.concatenate(hashes) for name, hashes in whole.items()}

    def sharing(self, name: str, hashes: Hashes) -> Places:
        """The documents of a part, by number, that have a window of eight words with one of these hashes (sorted)."""
        table, found = Table(hashes), [np.empty(0, dtype=np.int64)]
        for own, numbers in self._windows[name]:
            found.append(different(numbers[table.found(own)]))
        return different(np.concatenate(found))

    def short_span(self, a: str, b: str) -> Span | None:
        """The longest run of words, shorter than eight, that `a` and `b` share: the first one in `b`, and the first in `a` of these."""
        for length in range(SEED_WORDS - 1, 0, -1):
            windows, sieve, begin = _Windows(self._folder), self._sieve([b], length)[0], 0
            for block in self._blocks(self._parts[a]):
                _sift(sieve, block.corpus, length, begin, windows)
                begin += len(block.documents)
            for block in self._blocks(self._parts[b]):
                starts, hashes = block.corpus.windows(length)
                at = _first_known(hashes, (own for own, _ in windows))
                if at is not None:
                    number = next(int(numbers[own == hashes[at]][0]) for own, numbers in windows if (own == hashes[at]).any())
                    start = int(starts[at])
                    ids = self._parts[a][number].id, block.documents[int(block.corpus.owner[start])].id
                    return length, " ".join(block.corpus.words(start, length)), ids
        return None


def _sift(sieve: Sieve, corpus: Corpus, length: int, begin: int, windows: _Windows) -> None:
    """Write down the windows of a block that pass; its first document is number `begin` of its part."""
    starts, hashes = corpus.windows(length)
    passing = sieve.passing(hashes)
    windows.append(hashes[passing], corpus.owner[starts[passing]].astype(np.int64) + begin)


def _first_known(hashes: Hashes, known: Iterable[Hashes]) -> int | None:
    """The index of the first of `hashes` that is among the `known` ones."""
    table = Table(np.sort(hashes))
    firsts = [int(np.flatnonzero(np.isin(hashes, some[found]))[0]) for some in known if len(found := table.found(some))]
    return min(firsts, default=None)
