"""The run directory: typed rows, atomic files, fingerprints, and whether a stage is done.

Every file is written to a temporary name in the same folder, synced and renamed: under its final name it is whole. A stage
ends by writing its marker, `stages/NAME.json`, with the fingerprint of all it depended on and the hash of all it wrote;
a stage whose marker still matches is not done again.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from galvan import payload as payloads
from galvan.errors import DataError, GalvanError, RecipeError, ResourceError
from galvan.payload import Payload
from galvan.text import json_shown, shown

SCHEMA_VERSION = 1
LITTER = (".*.part", ".tmp??????")  # what is being written: ours, and safetensors' own
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
def atomic(path: Path, n_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears whole or not at all; a file that was there stays until the rename.

    `n_bytes` is its size where that is known. Raises ResourceError when the disk is full or the folder cannot be written.
    """
    with atomic_path(path, n_bytes) as temporary, temporary.open("wb") as stream:
        yield stream


@contextmanager
def atomic_path(path: Path, n_bytes: int | None = None) -> Iterator[Path]:
    """As `atomic`, for what writes into a file that it is given the name of."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(descriptor)
        yield Path(temporary)
        with Path(temporary).open("rb") as whole:  # anew: safetensors puts another file in the place of the one that was made
            os.fchmod(whole.fileno(), 0o644)
            os.fsync(whole.fileno())
        Path(temporary).replace(path)
        temporary = ""
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        written = Path(temporary).stat().st_size if temporary and Path(temporary).exists() else 0
        raise cannot_write(path, error, n_bytes, written) from error
    finally:
        if temporary:
            with suppress(OSError):  # where the disk fails here too, the next run removes it
                Path(temporary).unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, n_bytes: int | None = None, written: int = 0) -> ResourceError:
    """The one sentence for a file that could not be written; it is `n_bytes` long, or it is not known by how much longer than `written`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"more than {written:,}" if n_bytes is None else f"{n_bytes:,}"
        free = shutil.disk_usage(existing_parent(path)).free
        return ResourceError(
            "disk/full",
            f"{shown(str(path))}: the disk is full: this file needs {needs} bytes, {free:,} are free; free some space and run again.",
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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The system's refusal to change something at `path` as the one sentence for it."""
    try:
        yield
    except OSError as error:
        raise error if isinstance(error, GalvanError) else cannot_write(path, error) from None


def appear(target: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` has filled takes the name `target` in one step; what had it is removed afterwards. ResourceError if it cannot.

    A process killed between the two steps left the earlier folder aside: the next call gives it its name back first.
    """
    parent = target.absolute().parent
    with writing(target):
        parent.mkdir(parents=True, exist_ok=True)
        _clear_aside(target)
        made = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}.", suffix=".part"))
    aside = made.with_suffix(".old")
    try:
        with writing(target):
            made.chmod(0o755)
            fill(made)
            _sync_tree(made)
            if target.exists():
                target.rename(aside)
            made.rename(target)
            _sync_folder(parent)
    except BaseException:
        with suppress(OSError):
            if aside.exists() and not target.exists():
                aside.rename(target)
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    return target


def _clear_aside(target: Path) -> None:
    for aside in target.absolute().parent.glob(f".{glob.escape(target.name)}.*.old"):
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)
    for part in target.absolute().parent.glob(f".{glob.escape(target.name)}.*.part"):
        shutil.rmtree(part)


def remove(path: Path) -> None:
    """Take away a file, if it is there; ResourceError if the system refuses."""
    with writing(path):
        path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[None]:
    """One process a run folder; a second one is told so, or with `wait` waits, instead of mixing its files with the first's. What a killed one
    was writing is removed."""
    with writing(folder / ".lock"):
        stream = (folder / ".lock").open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise RecipeError(
                "run/busy", f"{shown(str(folder))}: another galvan works in this run; wait for it or choose another --out."
            ) from None
        _clear_litter(folder)
        yield


def _clear_litter(folder: Path) -> None:
    """Remove what a killed process was writing anywhere below `folder`, but in runs inside it, which have a lock of their own."""
    with writing(folder):
        for litter in [path for pattern in LITTER for path in folder.rglob(pattern)]:
            if any((folder / inner / ".lock").exists() for inner in litter.relative_to(folder).parents[:-1]):
                continue
            if litter.is_dir():
                shutil.rmtree(litter)
            else:
                litter.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path, len(content)) as stream:
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
        remove(self.marker)

    def finish(self, outputs: Sequence[str]) -> None:
        write_json(
            self.marker, {"fingerprint": self.fingerprint, "outputs": {name: sha256_file(self.folder / name) for name in outputs}}
        )


def require_unchanged(folder: Path) -> None:
    """DataError if a file that the judging half reads is not the one that a stage of this run left; adapters and models are left out, for size."""
    for marker in sorted((folder / "stages").glob("*.json")):
        try:
            outputs = dict(json.loads(marker.read_text(encoding="utf-8"))["outputs"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise DataError("run/damaged", f"{shown(str(marker))}: not readable; run again, and the stage is done anew.") from None
        for name, digest in outputs.items():
            path = folder / name
            if not name.startswith(("adapter/", "model/")) and path.is_file() and sha256_file(path) != digest:
                raise DataError(
                    "run/changed",
                    f"{shown(str(path))}: no longer the file that stage {marker.stem} left, so it was damaged or changed; run again to make it anew, "
                    f"or remove {shown(str(marker))} to have it judged as it is.",
                )


def open_run(folder: Path) -> Path:
    """An existing run folder; RecipeError if it is not one."""
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(
            "run/missing", f"{shown(str(folder))} is not a run: it holds no recipe.yaml; give the folder that `galvan run` printed."
        )
    return folder
