"""What was found, a line and its notes in the manner of rustc and ruff: for a terminal, a pipe, or as annotations of a CI run.

In a CI run the log is read by a machine, too: a line that begins with `::` commands the runner. `mute` lets no text of ours hold one,
for any text may come from data; the annotations alone pass, with every value escaped.
"""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from galvan.text import shown

Level = Literal["error", "warning", "notice"]
_COMMAND = re.compile(r"(^|[\r\n])(\s*)::")
_MARGIN = 5  # of notes below the first line


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: a stable code, one sentence, the file that holds the evidence, and labelled notes: because, against, help."""

    level: Level
    code: str
    message: str
    place: str | None = None
    notes: Sequence[tuple[str, str]] = ()

    def lines(self, width: int = 80) -> list[str]:
        """As in `error[A01]: ...`, then ` --> place`, then the notes; no line is wider but a path or a command, which is to be copied."""
        first = textwrap.wrap(
            f"{self.level}[{self.code}]: {shown(self.message)}", width, subsequent_indent="  ", break_on_hyphens=False
        )
        where = [f"  --> {_one_line(self.place)}"] if self.place else []
        return [*first, *where, *(line for label, text in self.notes for line in _note(label, text, width))]

    def annotation(self) -> str:
        """The same as a workflow command of GitHub Actions: one line."""
        place = f"file={_property(self.place)}," if self.place else ""
        body = "\n".join([self.message, *(f"{label}: {text}" for label, text in self.notes)])
        return f"::{self.level} {place}title={_property(self.code)}::{_escaped(shown(body))}"


def _note(label: str, text: str, width: int) -> list[str]:
    lead = f"   = {label}: "
    return textwrap.wrap(
        _one_line(text), width, initial_indent=lead, subsequent_indent=" " * (_MARGIN + len(label) + 2), break_long_words=False, break_on_hyphens=False
    ) or [lead.rstrip()]  # fmt: skip


def _one_line(text: str) -> str:
    return shown(text).replace("\n", " ")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(shown(text)).replace(":", "%3A").replace(",", "%2C")


def inert(text: str) -> str:
    """`text` in which GitHub's runner finds no command: none that begins a line with `::`, none in the older form, `##[`."""
    return _COMMAND.sub(r"\1\2: :", text).replace("##[", "# #[")


class Muted(io.TextIOBase):
    """A stream that passes on whole lines, each of them `inert`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._rest = stream, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self.stream.write("".join(f"{inert(line)}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def end(self) -> None:
        """Pass on the last line, which no line feed ended."""
        self.stream.write(inert(self._rest))
        self._rest = ""
        self.stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return False


_annotations: list[TextIO] = []


def mute() -> None:
    """From here on neither stdout nor stderr holds a command of a runner."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Muted):
            setattr(sys, name, Muted(getattr(sys, name)))


def annotate() -> None:
    """From here on `tell` writes annotations, to stderr, past the muting: stdout may be the one JSON document."""
    mute()
    assert isinstance(sys.stderr, Muted)
    _annotations[:] = [sys.stderr.stream]


def tell(some: Sequence[Diagnostic]) -> None:
    """Write each as an annotation, if the run was asked for them."""
    for stream in _annotations:
        for one in some:
            stream.write(f"{one.annotation()}\n")
        stream.flush()


def end() -> None:
    """Before the process ends: the last line of each stream."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Muted):
            stream.end()
