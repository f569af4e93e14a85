"""Collections on disk. Of a row or a document only its place in a file stays in memory, and what ordering and splitting go by.

The files have no name (they vanish with the process, however it ends) and lie in the folder that is given, or in the system's
temporary one.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from galvan.rundir import Document, cannot_write, writing

T = TypeVar("T")
S = TypeVar("S")
Places = NDArray[np.int64]
Fields = tuple[Any, ...]  # of a Document, in order
TOGETHER = 64  # items that are written and read at once: the next is mostly asked for next
LARGE = 1 << 16  # characters; fewer items than that are together where they have so many


class OnDemand(Sequence[T]):
    """A sequence that makes its items when they are asked for."""

    def _item(self, number: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._item(index % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self._item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Spool(OnDemand[T]):
    """Items appended to a file and read back in any order; a byte of memory each. `unpack` makes an item from what `pack` gave.

    `size` says about how many characters some items have; large items are put down at once.
    """

    def __init__(
        self,
        pack: Callable[[T], Any],
        unpack: Callable[[Any], T],
        folder: Path | None = None,
        size: Callable[[Sequence[T]], int] | None = None,
    ) -> None:
        self._pack, self._unpack, self._size, self._folder = pack, unpack, size, folder or Path(tempfile.gettempdir())
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._ends, self._firsts = (
            array("Q", [0]),
            array("Q", [0]),
        )  # of each block the end in the file, and the number of the next's first
        self._waiting: list[Any] = []
        self._weight = 0
        self._first, self._block = 0, list[Any]()

    def append(self, item: T) -> None:
        self.extend([item])

    def extend(self, items: Sequence[T]) -> None:
        """All of `items`, in about the time that one would take."""
        self.extend_packed(map(self._pack, items), 0 if self._size is None else self._size(items))

    def extend_packed(self, packed: Iterable[Any], size: int) -> None:
        """As `extend`, with what `pack` gives and the size of all of it."""
        self._waiting += packed
        self._weight += size
        if len(self._waiting) >= TOGETHER or self._weight >= LARGE:
            self._put_down()

    def _put_down(self) -> None:
        packed = memoryview(pickle.dumps(self._waiting, pickle.HIGHEST_PROTOCOL))
        self._ends.append(self._ends[-1] + len(packed))
        try:
            while len(packed):
                packed = packed[self._file.write(packed) :]
        except OSError as error:
            raise cannot_write(self._folder, error, written=self._ends[-1]) from None
        self._firsts.append(self._firsts[-1] + len(self._waiting))
        self._waiting, self._weight = [], 0

    def __len__(self) -> int:
        return self._firsts[-1] + len(self._waiting)

    def _item(self, number: int) -> T:
        at = number - self._first
        if not 0 <= at < len(self._block):
            if number >= self._firsts[-1]:
                return self._unpack(self._waiting[number - self._firsts[-1]])
            at = number - self._take_up(bisect_right(self._firsts, number) - 1)
        return self._unpack(self._block[at])

    def _take_up(self, block: int) -> int:
        """Read a block; returns the number of its first item."""
        self._block, self._first = self._load(block), self._firsts[block]
        return self._first

    def _load(self, block: int) -> list[Any]:
        begin, end = self._ends[block], self._ends[block + 1]
        with writing(self._folder):
            found: list[Any] = pickle.loads(_read(self._file.fileno(), end - begin, begin))
        return found

    def packed(self, places: Iterable[int] | None = None) -> Iterator[Any]:
        """What was packed, of all items or of those at `places`, without making items of it."""
        if places is None:
            blocks = (self._load(block) for block in range(len(self._firsts) - 1))
            yield from chain.from_iterable(chain(blocks, [self._waiting]))
            return
        first, block = 0, list[Any]()
        for place in places:
            if not 0 <= place - first < len(block):
                if place >= self._firsts[-1]:
                    first, block = self._firsts[-1], self._waiting
                else:
                    number = bisect_right(self._firsts, place) - 1
                    first, block = self._firsts[number], self._load(number)
            yield block[place - first]

    def __iter__(self) -> Iterator[T]:
        return map(self._unpack, self.packed())

    def items(self, places: Iterable[int]) -> Iterator[T]:
        return map(self._unpack, self.packed(places))

    def take(self, places: Places) -> Taken[T]:
        return Taken(self, places)


def _read(file: int, size: int, begin: int) -> bytes:
    """One read gives no more than 2 GiB."""
    parts = [os.pread(file, size, begin)]
    while len(parts[-1]) > 0 and (have := sum(map(len, parts))) < size:
        parts.append(os.pread(file, size - have, begin + have))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def spool_of(kind: type[T], items: Iterable[T] = (), folder: Path | None = None) -> Spool[T]:
    """A spool of named tuples or of dataclass instances."""
    pack: Callable[[T], Any]
    unpack: Callable[[Any], T]
    if issubclass(kind, tuple):
        names, pack, unpack = list(kind._fields), cast(Any, tuple), partial(tuple.__new__, kind)  # type: ignore[attr-defined]
    else:
        names = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        pack, unpack = attrgetter(*names), lambda packed: kind(*packed)
    spool = Spool[T](pack, unpack, folder, characters_of if "text" in names else None)
    for item in items:
        spool.append(item)
    return spool


def characters_of(items: Sequence[Any]) -> int:
    return sum([len(item.text) for item in items])


def in_turns(items: Iterable[T], characters: Callable[[list[T]], int] = characters_of) -> Iterator[list[T]]:
    """`items`, about as many at once as lie together on disk; `characters` says how large some are."""
    rest, count = iter(items), 1
    while turn := list(islice(rest, count)):
        yield turn
        count = next_count(count, characters(turn))


def next_count(count: int, characters: int) -> int:
    """How many items to take next where `count` had so many characters: fewer if they are large, and soon more if they are small."""
    return max(1, min(TOGETHER, 4 * count, count * LARGE // max(1, characters)))


class Mapped(OnDemand[T]):
    """`function` of each of `items`, worked out when it is asked for."""

    def __init__(self, function: Callable[[S], T], items: Sequence[S]) -> None:
        self._function: Callable[[Any], T] = function
        self._items: Sequence[Any] = items

    def __len__(self) -> int:
        return len(self._items)

    def _item(self, number: int) -> T:
        return self._function(self._items[number])

    def __iter__(self) -> Iterator[T]:
        return map(self._function, self._items)


class Taken(OnDemand[T]):
    """Some of `items`, in the order of `places`."""

    def __init__(self, items: Sequence[T], places: Places) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def _item(self, number: int) -> T:
        return self._items[int(self._places[number])]

    def __iter__(self) -> Iterator[T]:
        if isinstance(self._items, (Spool, Documents)):
            if len(self._places) == len(self._items) and bool((np.diff(self._places) == 1).all()):  # all of them, as they lie
                return iter(self._items)
            found: Iterator[T] = self._items.items(whole_numbers(self._places))
            return found
        return map(self._items.__getitem__, whole_numbers(self._places))

    def take(self, places: Places) -> Taken[T]:
        return Taken(self._items, self._places[places])


def whole_numbers(values: NDArray[np.int64]) -> Iterator[int]:
    """`values` as Python's integers, which take five times the memory, a few thousand at a time."""
    return chain.from_iterable(values[begin : begin + 4096].tolist() for begin in range(0, len(values), 4096))


class Documents(OnDemand[Document]):
    """Documents on disk; source, group, position and number of tokens of each stay in memory (40 bytes)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = spool_of(Document, folder=folder)
        self.sources: list[str] = []
        self.groups: list[str] = []
        self.positions, self.n_tokens = array("q"), array("q")
        self._names: dict[str, str] = {}

    def append(self, document: Document, n_tokens: int) -> None:
        self.extend([document], [n_tokens])

    def extend(self, documents: Sequence[Document], n_tokens: Iterable[int]) -> None:
        self.extend_by_fields(list(map(_FIELDS, documents)), n_tokens)

    def extend_by_fields(self, documents: Sequence[Fields], n_tokens: Iterable[int]) -> None:
        """As `extend`, without making a Document of any."""
        _, texts, sources, positions, groups, *_ = zip(*documents, strict=True)
        self._spool.extend_packed(documents, sum(map(len, texts)))
        name = self._names.setdefault
        self.sources += map(name, sources, sources)
        labels = [source if group is None else group for source, group in zip(sources, groups, strict=True)]
        self.groups += map(name, labels, labels)
        self.positions.extend(positions)
        self.n_tokens.extend(n_tokens)

    def __len__(self) -> int:
        return len(self._spool)

    def _item(self, number: int) -> Document:
        return self._spool._item(number)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._spool)

    def items(self, places: Iterable[int]) -> Iterator[Document]:
        return self._spool.items(places)

    def texts(self, places: Iterable[int] | None = None) -> Iterator[str]:
        return map(_TEXT, self._spool.packed(places))

    def take(self, places: Places) -> Part:
        return Part(self, places)


_FIELDS: Callable[[Document], Fields] = attrgetter(*Document.__dataclass_fields__)
_TEXT = itemgetter(list(Document.__dataclass_fields__).index("text"))


class Part(Taken[Document]):
    """Some of the documents of a collection, in order."""

    def __init__(self, documents: Documents, places: Places) -> None:
        super().__init__(documents, places)
        self._documents = documents

    def take(self, places: Places) -> Part:
        return Part(self._documents, self._places[places])

    def texts(self) -> Iterator[str]:
        return self._documents.texts(whole_numbers(self._places))

    def column(self, name: str) -> list[Any]:
        values = getattr(self._documents, name)
        return [values[place] for place in self._places]


def take(items: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The items at `places`: on disk if `items` are."""
    if isinstance(items, (Taken, Spool, Documents)):
        taken: Sequence[Any] = items.take(np.fromiter(places, dtype=np.int64))
        return taken
    return [items[place] for place in places]


def texts(documents: Sequence[Document]) -> Iterator[str]:
    """Of each document the text; those on disk are not made for it."""
    return documents.texts() if isinstance(documents, (Documents, Part)) else (document.text for document in documents)


def folder_of(documents: Sequence[Document]) -> Path | None:
    """Where documents lie that are on disk."""
    whole = documents._documents if isinstance(documents, Part) else documents
    return whole._spool._folder if isinstance(whole, Documents) else None


def sources(documents: Sequence[Document]) -> list[str]:
    return _column(documents, "sources", lambda document: document.source)


def groups(documents: Sequence[Document]) -> list[str]:
    """The value of the group column, or the source where there is none."""
    return _column(documents, "groups", lambda document: document.source if document.group is None else document.group)


def positions(documents: Sequence[Document]) -> list[int]:
    return _column(documents, "positions", lambda document: document.position)


def tokens_of(documents: Sequence[Document], known: Mapping[str, int]) -> NDArray[np.int64]:
    """How many tokens each document has: as was counted when it was cut, else as `known` says by id."""
    return np.array(_column(documents, "n_tokens", lambda document: known[document.id]), dtype=np.int64)


def _column(documents: Sequence[Document], name: str, of: Callable[[Document], T]) -> list[T]:
    if isinstance(documents, Documents):
        return list(getattr(documents, name))
    return documents.column(name) if isinstance(documents, Part) else [of(document) for document in documents]
