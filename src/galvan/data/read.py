"""Whatever people have, as rows: one function, `read`, for files, folders, bundled collections and Project Gutenberg."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import islice
from pathlib import Path

from galvan.data import gutenberg, hub, shapes
from galvan.data.columns import BY_NAME, SHAPES, TEXT, Columns
from galvan.data.files import PACKED, kind_of, unreadable, whole
from galvan.data.rows import Row, check_text, make_row, make_rows, one_line, require_columns, writable
from galvan.data.store import next_count
from galvan.data.tables import READERS, Record
from galvan.errors import DataError

BUNDLED = {"galvan/letters": "letters.csv", "galvan/plain": "plain.jsonl"}


def read(
    source: str, column: str = "text", *, group: str | None = None, offline: bool = False, mapping: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """The rows of `source`, in its own order, one at a time.

    `source` is a csv, tsv, jsonl, json, parquet or txt file (all but parquet also with .gz or .zst), a folder of txt files, a pattern
    such as `letters/*.jsonl`, a Hub data set `hub:org/name@revision:split`, `gutenberg:84`, `galvan/letters` or `galvan/plain`.
    `column` holds the text; where it is not there, the shape of the rows is detected by their keys (see `columns.SHAPES`), and `mapping`
    says in which column a part stands. The columns `source` and `position` are used where they are found. `group` names one more column
    whose value is kept (None or "source": none is).

    Raises DataError with file and line, ResourceError when Project Gutenberg cannot be reached.
    """
    columns = Columns(column, None if group == "source" else group, _known_parts(mapping or {}))
    found = False
    for row in _rows(source, columns, offline):
        found = True
        yield row
    if not found:
        raise DataError("data/empty", f"{one_line(source)}: no row of text was found in it.")


def _known_parts(mapping: Mapping[str, str]) -> Mapping[str, str]:
    if mapping and not any(set(mapping) <= set(shape.parts) for shape in SHAPES):
        known = "; ".join(f"{shape.name}: {', '.join(shape.parts)}" for shape in BY_NAME.values())
        raise DataError(
            "data/columns",
            f"data.columns: no kind of row has the parts {', '.join(f'`{one_line(p, 40)}`' for p in mapping)}; there are {known}.",
        )
    return mapping


def _rows(source: str, columns: Columns, offline: bool) -> Iterator[Row]:
    if source in BUNDLED:
        with resources.as_file(resources.files("galvan") / "assets" / BUNDLED[source]) as path:
            yield from _table(path, source, columns, Path(source).name)
    elif source.startswith("galvan/") and not Path(source).exists():
        raise DataError("data/missing", f"{one_line(source)}: there is no such bundled text; there are {' and '.join(BUNDLED)}.")
    elif source.startswith(gutenberg.PREFIX):
        path = gutenberg.fetch(source, offline=offline)
        yield _book(path, source, columns, source.replace(":", "-"))
    elif source.startswith(hub.PREFIX):
        for path in hub.fetch(source, offline=offline):
            yield from _file(path, f"{source} {path.name}", columns)
    elif glob.has_magic(source) and not Path(source).expanduser().exists():
        for path in matching(source):
            yield from _file(path, one_line(str(path)), columns)
    else:
        path, name = Path(source).expanduser(), one_line(source)
        yield from (_folder if kind_of(path, name) == "folder" else _file)(path, name, columns)


def matching(pattern: str) -> list[Path]:
    """The files that `pattern` names, sorted; DataError if there is none."""
    found = sorted(Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207
    files = [path for path in found if path.is_file()]
    if not files:
        raise DataError("data/missing", f"{one_line(pattern)}: no file matches this pattern; check data.source.")
    return files


def _file(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    kind_of(path, name)
    bare = path.with_suffix("") if path.suffix.lower() in PACKED else path
    suffix = bare.suffix.lower()
    if suffix == ".txt":
        yield _book(path, name, columns, writable(bare.stem))
    elif suffix in READERS and (bare is path or suffix != ".parquet"):
        yield from _table(path, name, columns, writable(bare.stem), suffix)
    else:
        known = ", ".join(sorted({*READERS, ".txt"}))
        raise DataError(
            "data/unsupported", f"{name}: galvan reads {known}, these with .gz or .zst, and folders of .txt; save it as one."
        )


def _table(path: Path, name: str, columns: Columns, stem: str, suffix: str | None = None) -> Iterator[Row]:
    number = 0
    for turn in _turns(READERS[suffix or path.suffix](path, name, columns), columns.text):
        if number == 0:
            columns = columns.settled(turn[0][1])
        is_plain = columns.shape.name == TEXT and columns.group is None and columns.text not in ("source", "position")
        rows = make_rows(turn, columns, name, stem, number) if is_plain else None
        yield from rows or (_row(record, columns, name, stem, n) for n, record in enumerate(turn, number + 1))
        number += len(turn)


def _row(record: Record, columns: Columns, name: str, stem: str, number: int) -> Row:
    place, values = record
    where = f"{name} {place}"
    if columns.shape.name != TEXT:
        require_columns(columns, values, where)
    return make_row(values, columns, where, stem, number, shapes.payload(values, columns, where))


def _turns(records: Iterator[Record], text: str) -> Iterator[list[Record]]:
    """`records`, some at a time; those before a damaged one are given before it is said."""
    count, turn = 1, list[Record]()
    try:
        while True:
            turn.extend(islice(records, count))
            if not turn:
                return
            yield turn
            count = next_count(count, sum([len(str(values.get(text, ""))) for _, values in turn]))
            turn = []
    except DataError:
        if turn:  # it keeps what it was given before the error
            yield turn
        raise


def _book(path: Path, name: str, columns: Columns, source: str) -> Row:
    """A whole txt file is one text, however long; it is cut later."""
    if columns.group is not None:
        raise DataError(
            "data/no-column", f"{name}: txt has no column `{one_line(columns.group, 80)}`; set data.split.group to source."
        )
    return Row(check_text(whole(path, name), name), source, 1, name)


def _folder(folder: Path, name: str, columns: Columns) -> Iterator[Row]:
    """Every .txt below `folder`, sorted by path; each file is a source of its own, named by its path without the suffix."""
    found = False
    for path in _walk(folder, name, set()):
        if path.suffix.lower() == ".txt":
            found = True
            inner = path.relative_to(folder)
            yield _book(
                path, f"{name.rstrip('/')}/{one_line(inner.as_posix())}", columns, writable(inner.with_suffix("").as_posix())
            )
    if not found:
        others = sorted(one_line(path.name, 40) for path in _walk(folder, name, set()))[:5]
        held = f"it holds {', '.join(others)}" if others else "it is empty"
        raise DataError("data/no-txt", f"{name}: the folder has no .txt file ({held}); give the file itself, or a folder of .txt.")


def _walk(folder: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder` in sorted order; hidden ones are passed over, and a folder linked into itself is entered once."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        for path in sorted(folder.iterdir()):
            if not path.name.startswith("."):
                if path.is_dir():
                    yield from _walk(path, name, seen)
                else:
                    yield path
    except OSError as error:
        raise unreadable(name, error) from None
