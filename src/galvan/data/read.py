"""Whatever people have, as rows: one function, `read`, for files, folders, bundled collections and Project Gutenberg."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from galvan.data import gutenberg
from galvan.data.files import kind_of, unreadable, whole
from galvan.data.rows import Columns, Row, check_text, make_row, one_line, writable
from galvan.data.tables import READERS
from galvan.errors import DataError

BUNDLED = {"galvan/letters": "letters.csv", "galvan/plain": "plain.jsonl"}


def read(source: str, column: str = "text", *, group: str | None = None, offline: bool = False) -> Iterator[Row]:
    """The rows of `source`, in its own order, one at a time.

    `source` is a csv, tsv, jsonl, json, parquet or txt file (all but parquet also with .gz), a folder of txt files,
    `gutenberg:84`, `galvan/letters` or `galvan/plain`. `column` holds the text; the columns `source` and `position` are
    used where they are found. `group` names one more column whose value is kept (None or "source": none is).

    Raises DataError with file and line, ResourceError when Project Gutenberg cannot be reached.
    """
    columns = Columns(column, None if group == "source" else group)
    found = False
    for row in _rows(source, columns, offline):
        found = True
        yield row
    if not found:
        raise DataError("data/empty", f"{one_line(source)}: no row of text was found in it.")


def _rows(source: str, columns: Columns, offline: bool) -> Iterator[Row]:
    if source in BUNDLED:
        with resources.as_file(resources.files("galvan") / "assets" / BUNDLED[source]) as path:
            yield from _table(path, source, columns, Path(source).name)
    elif source.startswith("galvan/") and not Path(source).exists():
        raise DataError("data/missing", f"{one_line(source)}: there is no such bundled text; there are {' and '.join(BUNDLED)}.")
    elif source.startswith(gutenberg.PREFIX):
        path = gutenberg.fetch(source, offline=offline)
        yield _book(path, source, columns, source.replace(":", "-"))
    else:
        path, name = Path(source).expanduser(), one_line(source)
        yield from (_folder if kind_of(path, name) == "folder" else _file)(path, name, columns)


def _file(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix = bare.suffix.lower()
    if suffix == ".txt":
        yield _book(path, name, columns, writable(bare.stem))
    elif suffix in READERS and (bare is path or suffix != ".parquet"):
        yield from _table(path, name, columns, writable(bare.stem), suffix)
    else:
        known = ", ".join(sorted({*READERS, ".txt"}))
        raise DataError("data/unsupported", f"{name}: galvan reads {known}, these with .gz, and folders of .txt; save it as one.")


def _table(path: Path, name: str, columns: Columns, stem: str, suffix: str | None = None) -> Iterator[Row]:
    for number, record in enumerate(READERS[suffix or path.suffix](path, name, columns), 1):
        yield make_row(record.values, columns, f"{name} {record.place}", stem, number)


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
