"""Collections on disk. Of a row or a document only its place in a file stays in memory, and what ordering and splitting go by.

The files have no name (they vanish with the process, however it ends) and lie in the folder that is given, or in the system's
temporary one.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from galvan.rundir import Document, cannot_write

T = TypeVar("T")
S = TypeVar("S")
Places = NDArray[np.int64]
_WINDOW = 1 << 18  # bytes read at a time: what comes next is mostly asked for next


class _OnDemand(Sequence[T]):
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


class Spool(_OnDemand[T]):
    """Items appended to a file and read back in any order; 8 bytes of memory each. `unpack` makes an item from what `pack` gave."""

    def __init__(self, pack: Callable[[T], Any], unpack: Callable[[Any], T], folder: Path | None = None) -> None:
        self._pack, self._unpack, self._folder = pack, unpack, folder or Path(tempfile.gettempdir())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=_WINDOW)  # noqa: SIM115
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        self._ends = array("Q", [0])
        self._window, self._begin, self._unwritten = b"", 0, False

    def append(self, item: T) -> None:
        packed = pickle.dumps(self._pack(item), pickle.HIGHEST_PROTOCOL)
        try:
            self._file.write(packed)
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        self._ends.append(self._ends[-1] + len(packed))
        self._unwritten = True

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, number: int) -> T:
        begin, end = self._ends[number], self._ends[number + 1]
        if not self._begin <= begin <= end <= self._begin + len(self._window) or self._unwritten:
            self._fill(begin, end - begin)
        return self._unpack(pickle.loads(memoryview(self._window)[begin - self._begin : end - self._begin]))

    def take(self, places: Places) -> Taken[T]:
        return Taken(self, places)

    def _fill(self, begin: int, least: int) -> None:
        try:
            if self._unwritten:
                self._file.flush()
                self._unwritten = False
            self._begin, self._window = begin, os.pread(self._file.fileno(), max(least, _WINDOW), begin)
        except OSError as error:
            raise cannot_write(self._folder, error) from None


def spool_of(kind: type[T], items: Iterable[T] = (), folder: Path | None = None) -> Spool[T]:
    """A spool of dataclass instances."""
    pack = attrgetter(*kind.__dataclass_fields__)  # type: ignore[attr-defined]
    spool = Spool[T](pack, lambda packed: kind(*packed), folder)
    for item in items:
        spool.append(item)
    return spool


class Mapped(_OnDemand[T]):
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


class Taken(_OnDemand[T]):
    """Some of `items`, in the order of `places`."""

    def __init__(self, items: Sequence[T], places: Places) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def _item(self, number: int) -> T:
        return self._items[int(self._places[number])]

    def __iter__(self) -> Iterator[T]:
        item = self._items._item if type(self)._item is Taken._item and isinstance(self._items, _OnDemand) else None
        return map(item, self._places.tolist()) if item else super().__iter__()

    def take(self, places: Places) -> Taken[T]:
        return Taken(self._items, self._places[places])


class Documents(_OnDemand[Document]):
    """Documents on disk; source, group, position and number of tokens of each stay in memory (40 bytes)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = spool_of(Document, folder=folder)
        self.sources: list[str] = []
        self.groups: list[str] = []
        self.positions, self.n_tokens = array("q"), array("q")
        self._names: dict[str, str] = {}

    def append(self, document: Document, n_tokens: int) -> None:
        self._spool.append(document)
        source = self._names.setdefault(document.source, document.source)
        self.sources.append(source)
        self.groups.append(source if document.group is None else self._names.setdefault(document.group, document.group))
        self.positions.append(document.position)
        self.n_tokens.append(n_tokens)

    def __len__(self) -> int:
        return len(self._spool)

    def _item(self, number: int) -> Document:
        return self._spool._item(number)

    def take(self, places: Places) -> Part:
        return Part(self, places)


class Part(Taken[Document]):
    """Some of the documents of a collection, in order."""

    def __init__(self, documents: Documents, places: Places) -> None:
        super().__init__(documents, places)
        self._documents = documents

    def take(self, places: Places) -> Part:
        return Part(self._documents, self._places[places])

    def column(self, name: str) -> list[Any]:
        values = getattr(self._documents, name)
        return [values[place] for place in self._places]


def take(items: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The items at `places`: on disk if `items` are."""
    if isinstance(items, (Taken, Spool, Documents)):
        taken: Sequence[Any] = items.take(np.fromiter(places, dtype=np.int64))
        return taken
    return [items[place] for place in places]


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
