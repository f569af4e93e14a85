"""Tables as streams of records: csv, tsv, jsonl, json and parquet. A record is a mapping from column to value, with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from galvan.data.columns import Columns
from galvan.data.files import expands, line_turns, most_unpacked, whole
from galvan.data.rows import ROW_LIMIT, one_line, require_columns, too_long
from galvan.errors import DataError

Record = tuple[str, Mapping[str, object]]  # its place, as in "line 7", and the values by column
Reader = Callable[[Path, str, Columns], Iterator[Record]]


def csv_records(path: Path, name: str, columns: Columns, delimiter: str = ",") -> Iterator[Record]:
    """Records of a csv file with a header; a row's line is the one on which it begins.

    Strict: an open quote or a row of another width would silently change the text, so each is refused.
    """
    csv.field_size_limit(ROW_LIMIT)  # process-wide, and 128 KB by default
    reader = csv.reader(chain.from_iterable(line_turns(path, name)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _bad_csv(error, f"{name} line {line}") from None
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if header is None:
            header, columns = cells, columns.settled(cells)
            require_columns(columns, header, f"{name} line {line}")
            _refuse_twins(header, columns, f"{name} line {line}")
        elif len(cells) != len(header):
            raise DataError(
                "data/ragged",
                f"{name} line {line}: {len(cells)} fields, but the header has {len(header)}; "
                "put a text that holds the separator or a line break in double quotes.",
            )
        else:
            yield f"line {line}", dict(zip(header, cells, strict=True))


def _bad_csv(error: csv.Error, where: str) -> DataError:
    if "field limit" in str(error):
        return too_long(where)
    reason = "a quote is not closed" if "unexpected end" in str(error) else one_line(str(error), 100)
    return DataError("data/csv", f"{where}: not well-formed csv: {reason}; inside a quoted field, write a quote twice.")


def _refuse_twins(header: list[str], columns: Columns, where: str) -> None:
    for column in (*columns.required, "source", "position"):
        if header.count(column) > 1:
            twins = header.count(column)
            raise DataError(
                "data/twin-columns", f"{where}: there are {twins} columns `{one_line(column, 80)}`; rename all but one."
            )


def tsv_records(path: Path, name: str, columns: Columns) -> Iterator[Record]:
    return csv_records(path, name, columns, "\t")


def jsonl_records(path: Path, name: str, columns: Columns) -> Iterator[Record]:
    """One JSON object (or one string) a line; blank lines are passed over."""
    decode = json.JSONDecoder().raw_decode
    for number, line in enumerate(chain.from_iterable(line_turns(path, name)), 1):
        try:
            value, end = decode(line)
        except (ValueError, RecursionError):
            value, end = None, -1
        if isinstance(value, dict) and line[end:] in _LINE_ENDS:
            yield f"line {number}", value
        elif not line.isspace():
            yield _record(_parse(line.rstrip(), f"{name} line {number}", name_line=False), f"line {number}", name, columns)


_LINE_ENDS = frozenset(["\n", "", "\r\n", "\r"])


def json_records(path: Path, name: str, columns: Columns) -> Iterator[Record]:
    """A list of objects or of strings, bare or under the key `data`; the place is the item's number, from 1."""
    text = whole(path, name)
    if not text.strip():
        return
    value = _parse(text, name, name_line=True)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise DataError(
            "data/json-shape", f'{name}: must be a list of objects or of texts, or {{"data": [...]}}; found {_kind(value)}.'
        )
    for number, item in enumerate(value, 1):
        yield _record(item, f"item {number}", name, columns)


def _parse(text: str, where: str, name_line: bool) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where} line {error.lineno}" if name_line else where
        raise DataError("data/json", f"{place}: not valid JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise DataError("data/json", f"{where}: not usable JSON: nested too deep.") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise DataError("data/json", f"{where}: not usable JSON: {one_line(str(error), 100)}.") from None


def _record(value: object, place: str, name: str, columns: Columns) -> Record:
    if isinstance(value, str):
        value = {columns.text: value}
    if not isinstance(value, dict):
        raise DataError("data/json-shape", f"{name} {place}: must be an object or a text, found {_kind(value)}.")
    return place, value


def _kind(value: object) -> str:
    if isinstance(value, dict):
        keys = ", ".join(f"`{one_line(str(key), 40)}`" for key in list(value)[:10])
        return f"an object with the keys {keys}" if keys else "an empty object"
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def parquet_records(path: Path, name: str, columns: Columns) -> Iterator[Record]:
    """Rows of a parquet file, a few at a time, only the columns that are used."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            columns = columns.settled(found)
            require_columns(columns, found, name)
            _refuse_twins(found, columns, name)
            wanted = [column for column in columns.wanted if column in found]
            _require_bounded(path, file, wanted)
            for batch in file.iter_batches(batch_size=64, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        if isinstance(error, DataError):
            raise
        after = f" after row {number}" if number else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError("data/parquet", f"{name}{after}: not readable as parquet: {one_line(reason, 120).rstrip('.')}.") from None


def _require_bounded(path: Path, file: Any, wanted: list[str]) -> None:
    """DataError if more would be unpacked than any text of that size holds, by what the file says and by what its dictionaries hold: there one
    value may stand for a million rows. Values are left folded while they are counted."""
    import pyarrow.parquet

    most, metadata = most_unpacked(path), file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > most:
        raise expands(path)
    columns = [file.schema.column(number) for number in range(len(file.schema.names))]
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.path.partition(".")[0] in wanted]
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as folded:
        total = 0
        for batch in folded.iter_batches(batch_size=1024, columns=wanted):
            total += sum(map(_unpacked_bytes, batch.columns))
            if total > most:
                raise expands(path)


def _unpacked_bytes(array: Any) -> int:
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_dictionary(array.type):
        return pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0
    if types.is_struct(array.type):
        return sum(map(_unpacked_bytes, array.flatten()))
    if types.is_list(array.type) or types.is_large_list(array.type):
        return _unpacked_bytes(array.flatten())
    return int(array.nbytes)


READERS: dict[str, Reader] = {
    ".csv": csv_records,
    ".tsv": tsv_records,
    ".jsonl": jsonl_records,
    ".ndjson": jsonl_records,
    ".json": json_records,
    ".parquet": parquet_records,
}
