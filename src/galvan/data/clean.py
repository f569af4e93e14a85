"""What is left out before a step is trained, and why. Nothing goes silently: every removal is counted, with examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from galvan.data import gutenberg
from galvan.data.cut import Piece
from galvan.data.rows import Row
from galvan.text import shown, tidy, words

_EXAMPLES = 5


@dataclass(slots=True)
class Removed:
    """How many texts one reason removed, and the first few of them: where they stood and how they began."""

    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Log:
    """What cleaning did: rows read, rows changed by tidying, books stripped, and removals by reason."""

    rows_read: int = 0
    rows_tidied: int = 0
    gutenberg_stripped: int = 0
    removed: dict[str, Removed] = field(default_factory=dict)

    def remove(self, reason: str, where: str, text: str, *, same_as: str | None = None) -> None:
        entry = self.removed.setdefault(reason, Removed())
        entry.count += 1
        if len(entry.examples) < _EXAMPLES:
            example = {"where": where, "text": shown(" ".join(text[:200].split()), 80)}
            entry.examples.append(example if same_as is None else {**example, "same_as": same_as})


def strip_gutenberg(rows: Iterable[Row], log: Log) -> Iterator[Row]:
    """Rows without Project Gutenberg's header and footer; a text without the markers is left as it is."""
    for row in rows:
        text, found = gutenberg.strip(row.text) if row.payload is None else (row.text, False)
        log.gutenberg_stripped += found
        yield row.with_text(text) if found else row


def clean(rows: Iterable[Row], log: Log) -> Iterator[Row]:
    """Rows with tidy text; empty ones and exact repetitions are left out.

    Two texts are the same when they differ in white space only; the first is kept.
    """
    first_at: dict[bytes, str] = {}
    for row in rows:
        log.rows_read += 1
        text = tidy(row.text) if row.payload is None else row.text  # what a template or tokenizer made stays as it is
        log.rows_tidied += text != row.text
        if not text:
            log.remove("empty", row.where, text)
            continue
        letters = (text if row.payload is None else repr(row.payload)).encode("utf-8", "backslashreplace").translate(None, b" \t\n")
        key = hashlib.blake2b(letters, digest_size=16).digest()
        first = first_at.setdefault(key, row.where)
        if first is not row.where:
            log.remove("duplicate", row.where, text, same_as=first)
            continue
        yield row.with_text(text)


def long_enough(pieces: Iterable[Piece], minimum_words: int, log: Log) -> Iterator[Piece]:
    """The pieces of at least `minimum_words` words."""
    for piece in pieces:
        beginning = piece.text[: 50 * minimum_words]
        if piece.row.payload is not None or len(words(beginning)) >= minimum_words or len(words(piece.text)) >= minimum_words:
            yield piece
        else:
            log.remove("too short", piece.row.where, piece.text)


def first(pieces: Iterable[Piece], maximum: int | None, log: Log) -> Iterator[Piece]:
    """The first `maximum` pieces; the others are counted."""
    for number, piece in enumerate(pieces):
        if maximum is None or number < maximum:
            yield piece
        else:
            log.remove("beyond data.maximum_documents", piece.row.where, piece.text)
