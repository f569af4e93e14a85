"""Opening and decoding files. Everything that can be wrong with a file as such becomes one sentence here."""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from galvan.data.rows import ROW_LIMIT, one_line, too_long
from galvan.errors import DataError

PACKED = (".gz", ".zst")
EXPANSION = 200  # times; text packs 3 to 10 times, repeated lines 100 times
_PIECE = 1 << 16  # bytes
LARGEST_WHOLE = 4_000_000_000  # characters of a json or txt file
SMALL_BYTES = 100_000_000  # so much may come out of any file


def kind_of(path: Path, name: str) -> str:
    """ "folder" or "file"; DataError if there is neither, or if the file is empty or not a plain one."""
    try:
        status = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise _missing(path, name) from None
        raise unreadable(name, error) from None
    except ValueError:
        raise DataError("data/missing", f"{name}: not a possible file name.") from None
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    if not stat.S_ISREG(status.st_mode):
        raise DataError("data/unreadable", f"{name}: neither a plain file nor a folder.")
    if status.st_size == 0:
        raise DataError("data/empty", f"{name}: the file is empty (0 bytes).")
    return "file"


def _missing(path: Path, name: str) -> DataError:
    try:
        neighbours = [neighbour.name for neighbour in path.parent.iterdir()]
    except OSError:
        return DataError("data/missing", f"{name}: there is no such file or folder, and no folder `{one_line(str(path.parent))}`.")
    near = difflib.get_close_matches(path.name, neighbours, 1, 0.6)
    hint = f"did you mean `{one_line(str(path.with_name(near[0])))}`?" if near else "check data.source."
    return DataError("data/missing", f"{name}: there is no such file or folder; {hint}")


def unreadable(name: str, error: OSError) -> DataError:
    return DataError("data/unreadable", f"{name}: cannot be read: {one_line(error.strerror or str(error))}.")


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name ends in .gz or .zst, but not without end."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(_Unpacked(gzip.open(path, "rb"), path))
    if suffix == ".zst":
        import pyarrow

        return io.BufferedReader(_Unpacked(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), path))
    return path.open("rb")


def most_unpacked(path: Path) -> int:
    """So many bytes may come out of a packed file: no text of its size gives more."""
    return max(SMALL_BYTES, EXPANSION * path.stat().st_size)


def expands(path: Path) -> DataError:
    packed, most = path.stat().st_size, most_unpacked(path)
    return DataError(
        "data/expansion",
        f"{one_line(str(path))}: {packed:,} bytes unpack to more than {most:,}; if that is right, unpack the file yourself.",
    )


class _Unpacked(io.RawIOBase):
    """Unpacked bytes, counted: a few kilobytes can be made to unpack into terabytes."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._given, self._most = stream, path, 0, most_unpacked(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(len(buffer))
        self._given += len(found)
        if self._given > self._most:
            raise expands(self._path)
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn what goes wrong while reading `path` as text into a DataError with the line and the byte."""
    try:
        yield
    except UnicodeDecodeError:
        raise _undecodable(path, name) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError("data/gzip", f"{name}: not a whole gzip file: {one_line(str(error), 80)}; fetch it again.") from None
    except OSError as error:
        if path.suffix.lower() == ".zst" and error.errno is None:
            raise DataError("data/zstd", f"{name}: not a whole zstd file: {one_line(str(error), 80)}; fetch it again.") from None
        raise unreadable(name, error) from None


def _undecodable(path: Path, name: str) -> DataError:
    """Read again to find the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    bytes_before = line_feeds = returns = 0
    with open_bytes(path) as stream:
        while True:
            chunk = stream.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = bytes_before - pending + error.start
                before, byte = error.object[: error.start], error.object[error.start]
                line = 1 + (line_feeds + before.count(b"\n") or returns + before.count(b"\r"))
                break
            bytes_before += len(chunk)
            line_feeds += chunk.count(b"\n")
            returns += chunk.count(b"\r")
    if offset == 0 and byte in (0xFE, 0xFF):
        return DataError("data/encoding", f"{name} line 1: the file is UTF-16, not UTF-8; `iconv -f UTF-16 -t UTF-8` converts it.")
    return DataError(
        "data/encoding",
        f"{name} line {line}: byte 0x{byte:02x} at offset {offset} is not UTF-8; if the file is Windows or Latin-1 text, "
        "`iconv -f WINDOWS-1252 -t UTF-8` converts it.",
    )


def line_turns(path: Path, name: str) -> Iterator[list[str]]:
    """The file's lines with their ends, a piece of the file at a time; a byte order mark is left out.

    Lines before a damaged one are given before it is said.
    """
    number = 0
    with reading(path, name), open_bytes(path) as stream:
        rest = stream.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        piece = stream.read(_PIECE)
        while piece or rest:
            letters = rest + piece
            found = letters.splitlines(keepends=True)
            rest = found.pop() if piece and not found[-1].endswith(b"\n") else b""  # \n may follow \r
            if len(rest) > 4 * ROW_LIMIT:
                raise too_long(f"{name} line {number + len(found) + 1}")
            try:
                turn = [str(line, "utf-8") for line in found]
                is_sound = b"\0" not in letters and len(max(turn, key=len, default="")) <= ROW_LIMIT
            except UnicodeDecodeError:
                is_sound = False
            yield from [turn] if is_sound else _one_by_one(found, name, number)
            number += len(found)
            piece = stream.read(_PIECE)


def _one_by_one(found: list[bytes], name: str, before: int) -> Iterator[list[str]]:
    for number, letters in enumerate(found, before + 1):
        line = str(letters, "utf-8")
        if len(line) > ROW_LIMIT:
            raise too_long(f"{name} line {number}")
        if "\0" in line:
            raise _nul(name, number)
        yield [line]


def whole(path: Path, name: str) -> str:
    """The file's text with Unix line ends; a byte order mark is left out. DataError beyond LARGEST_WHOLE characters."""
    pieces, length, lines = list[str](), 0, 1
    with reading(path, name), open_bytes(path) as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
        while piece := stream.read(1 << 20):
            nul = piece.find("\0")
            if nul >= 0:
                raise _nul(name, lines + piece.count("\n", 0, nul))
            length += len(piece)
            if length > LARGEST_WHOLE:
                raise DataError("data/too-large", f"{name}: longer than {LARGEST_WHOLE:,} characters, and such a file is read whole; save it as JSON Lines, which is not.")  # fmt: skip
            lines += piece.count("\n")
            pieces.append(piece)
    return "".join(pieces)


def _nul(name: str, line: int) -> DataError:
    return DataError("data/nul", f"{name} line {line}: holds a NUL byte; this is no text file, or not in UTF-8.")
