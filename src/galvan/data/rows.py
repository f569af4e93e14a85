"""One row of what people bring: its text, its place in its source, and the file and line to name when it is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from galvan.data.columns import Columns
from galvan.data.together import codes_of
from galvan.errors import DataError
from galvan.payload import Payload, learned_text
from galvan.text import shown

ROW_LIMIT = 5_000_000  # characters; a longer table row is an open quote or not a table (whole txt files may be longer)
_POSITION_LIMIT = 2**53
_HALVES, _HALF = np.uint16(0xF800), np.uint16(0xD800)  # of characters that have two codes in UTF-16


class Row(NamedTuple):
    """One text as it stands in the file. `where` is "FILE line N", for messages; `group` only where a column is asked for."""

    text: str
    source: str
    position: int
    where: str
    group: str | None = None
    payload: Payload | None = None

    def with_text(self, text: str) -> Row:
        return Row(text, *self[1:])


def one_line(name: str, limit: int | None = None) -> str:
    """A name from outside (file, column, key) made safe for a message of one line."""
    return shown(writable(name).replace("\n", "\\n"), limit)


def writable(name: str) -> str:
    """`name` with what UTF-8 cannot say (bytes of a file name, half characters of a JSON key) spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def require_columns(columns: Columns, found: Iterable[str], where: str) -> None:
    """DataError that lists the columns found, and the nearest one, unless all that are asked for are there."""
    names = [str(name) for name in found]
    for column in columns.required:
        if column in names:
            continue
        near = difflib.get_close_matches(column.lower(), {name.strip().lower(): name for name in names}, 1, 0.6)
        nearest = next((name for name in names if near and name.strip().lower() == near[0]), None)
        listed = ", ".join(f"`{one_line(name, 40)}`" for name in names[:20]) or "none"
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        hint = f"did you mean `{one_line(nearest, 40)}`? " if nearest is not None else ""
        option = "data.column" if column == columns.text else "data.split.group"
        raise DataError(
            "data/no-column", f"{where}: there is no column `{one_line(column, 80)}`; found {listed}{more}; {hint}Set {option}."
        )


def make_rows(
    records: Sequence[tuple[str, Mapping[str, object]]], columns: Columns, name: str, source: str, before: int
) -> list[Row] | None:
    """`make_row` of plain texts in `columns.text`, looked at together: in a file `name` after `before` others.

    None where one of them is not plainly a text, or is none at all: only one by one can it be said which.
    """
    texts = [values.get(columns.text) for _, values in records]
    try:
        codes = codes_of(texts)  # type: ignore[arg-type]
    except TypeError:
        return None
    if len(codes) > ROW_LIMIT or not codes.all() or (codes & _HALVES == _HALF).any():
        return None
    rows = []
    for number, ((place, values), text) in enumerate(zip(records, texts, strict=True), before + 1):
        where, own, position = f"{name} {place}", source, number
        if "source" in values:
            own = _label(values["source"], "source", where) or source
        if "position" in values and (said := _position(values["position"], where)) is not None:
            position = said
        rows.append(_ROW((text, own, position, where, None, None)))
    return rows


_ROW: Callable[[Iterable[object]], Row] = partial(tuple.__new__, Row)  # three times as fast as `Row(...)`


def make_row(
    record: Mapping[str, object], columns: Columns, where: str, name: str, number: int, payload: Payload | None = None
) -> Row:
    """The row that `record` stands for; `name` and `number` are its source and position where it does not say.

    Where it is more than a text, `payload` says what. Raises DataError when a column is missing or a value is not what the column promises.
    """
    if any(column not in record for column in columns.required):
        require_columns(columns, record, where)
    text = _text(record[columns.text], columns.text, where) if payload is None else learned_text(payload)
    if len(text) > ROW_LIMIT:
        raise too_long(where)
    source = _label(record.get("source"), "source", where) if columns.text != "source" else ""
    position = _position(record.get("position"), where) if columns.text != "position" else None
    group = None if columns.group is None else _label(record[columns.group], columns.group, where)
    return Row(text, source or name, number if position is None else position, where, group, payload)


def check_text(text: str, where: str) -> str:
    """`text` itself; DataError if it holds a NUL or half a surrogate pair, which no text does."""
    if "\0" in text:
        raise DataError("data/nul", f"{where}: holds a NUL character; this is no text, or text in another encoding than UTF-8.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError("data/surrogate", f"{where}: holds {half}, half of a character; write the file again.") from None
    return text


def _text(value: object, column: str, where: str) -> str:
    if value is None:
        return ""  # a missing text is an empty one, and counted as such
    if not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(
            "data/not-text", f"{where}: `{one_line(column, 80)}` must be text, found {kind} {one_line(repr(value), 60)}."
        )
    if len(value) > ROW_LIMIT:
        raise too_long(where)
    return check_text(value, where)


def too_long(where: str) -> DataError:
    return DataError(
        "data/row-too-long",
        f"{where}: the row that begins here is longer than {ROW_LIMIT // 1_000_000} MB; is a quote left open? "
        "A whole book belongs in a txt file.",
    )


def _label(value: object, column: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        kind = type(value).__name__
        raise DataError(
            "data/not-text", f"{where}: `{one_line(column, 80)}` must be a name, found {kind} {one_line(repr(value), 60)}."
        )
    return check_text(str(value).strip(), where)


def _position(value: object, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        whole = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    except ValueError:
        whole = None
    if isinstance(value, float) and value.is_integer():
        whole = int(value)
    if whole is None or abs(whole) >= _POSITION_LIMIT:
        raise DataError(
            "data/position",
            f"{where}: `position` must be a whole number, the text's place in its source; found {one_line(repr(value), 60)}. "
            "Rename the column if it means something else.",
        )
    return whole
