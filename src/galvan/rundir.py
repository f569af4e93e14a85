"""The run directory: typed rows, atomic files, fingerprints, and whether a stage is done.

Every file is written to a temporary name in the same folder, synced and renamed: under its final name it is whole. A stage
ends by writing its marker, `stages/NAME.json`, with the fingerprint of all it depended on and the hash of all it wrote;
a stage whose marker still matches is not done again.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from galvan import payload as payloads
from galvan.errors import DataError, RecipeError, ResourceError
from galvan.payload import Payload
from galvan.text import json_shown, shown

SCHEMA_VERSION = 1
_LEFT_OUT = {"left out of JSON if None": True}


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text: the unit of every measurement.

    `source` is the book, letter or file that it comes from and `position` its place in there, so that neighbours are known;
    `group` is the value of the recipe's group column, where that is another than the source. `payload` is what the model sees where
    that is more than the text; `parent` is the id of the document that an augmented one was made from. Neither is written where there is none.
    """

    id: str
    text: str
    source: str
    position: int
    group: str | None = None
    payload: Payload | None = dataclasses.field(default=None, metadata=_LEFT_OUT)
    parent: str | None = dataclasses.field(default=None, metadata=_LEFT_OUT)

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode("utf-8"))


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears whole or not at all; a file that was there stays until the rename.

    Raises ResourceError when the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """As `atomic`, for what writes into a file that it is given the name of."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            yield Path(temporary)
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        Path(temporary).replace(path)
        temporary = ""
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise cannot_write(path, error) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """The one sentence for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(existing_parent(path)).free
        return ResourceError(
            "disk/full", f"{shown(str(path))}: the disk is full ({free:,} bytes free); free some space and run again."
        )
    reason = error.strerror or str(error)
    return ResourceError(
        "disk/unwritable", f"{shown(str(path))}: cannot be written: {shown(reason)}; choose another folder with --out."
    )


def existing_parent(path: Path) -> Path:
    """The nearest folder on the way to `path` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode("utf-8"))


def to_json(value: Any, indent: int | None = 1) -> str:
    """JSON that any reader accepts: no NaN, no Infinity (they become null: undefined), dataclasses as mappings.

    Characters that could act on a terminal are escaped; reading it back gives the same text.
    """
    text = json_shown(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent))
    return text.replace("##[", "#\\u0023[")  # else GitHub's runner would take it for a command of its older form


_ONE_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def row_of(document: Document) -> dict[str, Any]:
    """What `_plain` makes of a document without payload, five times faster."""
    row = {
        "id": document.id, "text": document.text, "source": document.source, "position": document.position, "group": document.group,
    }  # fmt: skip
    return row if document.parent is None else {**row, "parent": document.parent}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: _plain(member) for field, member in members if member is not None or field.metadata != _LEFT_OUT}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and torch: scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`; DataError with the line if it is damaged, FileNotFoundError if it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError("run/damaged", f"{shown(str(path))}{line}: not readable as JSON; delete the file and run again.") from None


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """One JSON object a line; rows are dataclasses or mappings."""
    with atomic(path) as stream:
        for row in rows:
            plain = row_of(row) if isinstance(row, Document) and row.payload is None else _plain(row)
            stream.write(json_shown(_ONE_LINE(plain)).encode("utf-8") + b"\n")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file that a run wrote; DataError with the line if one is damaged."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise DataError(
                    "run/damaged", f"{shown(str(path))} line {number}: not a JSON object; delete the file and run again."
                )
            yield row


def read_documents(path: Path) -> list[Document]:
    """The documents of one split."""
    return list(each_document(path))


def each_document(path: Path) -> Iterator[Document]:
    """The documents of one split, one at a time."""
    for number, row in enumerate(read_rows(path), 1):
        try:
            group, payload, parent = row.get("group"), row.get("payload"), row.get("parent")
            place = (str(row["source"]), int(row["position"]), None if group is None else str(group))
            document = Document(
                str(row["id"]), str(row["text"]), *place, None if payload is None else payloads.from_json(payload),
                None if parent is None else str(parent),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError("run/damaged", f"{shown(str(path))} line {number}: not a document of ours; run again.") from None
        yield document


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode("ascii")).hexdigest()


class Stage:
    """One stage of a run: `done` asks whether it need not be done, `finish` says that it is."""

    def __init__(self, folder: Path, name: str, inputs: Mapping[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.fingerprint = fingerprint({"schema": SCHEMA_VERSION, "stage": name, **inputs})

    @property
    def marker(self) -> Path:
        return self.folder / "stages" / f"{self.name}.json"

    def done(self) -> bool:
        """True if the same inputs were finished before and every file written then is still the same."""
        try:
            record = json.loads(self.marker.read_text(encoding="utf-8"))
            return bool(record["fingerprint"] == self.fingerprint) and all(
                sha256_file(self.folder / name) == digest for name, digest in record["outputs"].items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False

    def adopt(self, other: Path) -> bool:
        """Take the stage's files from another run, where it finished the same stage with the same inputs; False where it did not."""
        known = copy.copy(self)
        known.folder = other
        if not known.done():
            return False
        outputs = list(read_json(known.marker)["outputs"])
        self.begin()
        for name in outputs:
            with (other / name).open("rb") as source, atomic(self.folder / name) as stream:
                shutil.copyfileobj(source, stream)
        self.finish(outputs)
        return True

    def begin(self) -> None:
        """Withdraw an earlier marker: from here on the stage's files are not to be trusted until `finish`."""
        try:
            self.marker.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.marker, error) from None

    def finish(self, outputs: Sequence[str]) -> None:
        write_json(
            self.marker, {"fingerprint": self.fingerprint, "outputs": {name: sha256_file(self.folder / name) for name in outputs}}
        )


def open_run(folder: Path) -> Path:
    """An existing run folder; RecipeError if it is not one."""
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(
            "run/missing", f"{shown(str(folder))} is not a run: it holds no recipe.yaml; give the folder that `galvan run` printed."
        )
    return folder
