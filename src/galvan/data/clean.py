"""What is left out before a step is trained, and why. Nothing goes silently: every removal is counted, with examples."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from galvan import recipe
from galvan.data import boilerplate, gutenberg, language, mend, near
from galvan.data.cut import Piece
from galvan.data.rows import Row
from galvan.data.seen import Seen
from galvan.data.store import Mapped, Spool, in_turns, spool_of, take
from galvan.data.together import Together
from galvan.payload import Payload, Tokens, mapped
from galvan.text import has_secret, has_words, is_plain, shown, tidy, without_secrets, words

_EXAMPLES = 5
SECRETS = "access tokens or private keys removed"


@dataclass(slots=True)
class Removed:
    """How many texts one reason removed, and the first few of them: where they stood and how they began."""

    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Repeated:
    """A text that came more than once: how it begins, and how many later copies of it were left out."""

    text: str
    copies: int = 0


@dataclass(slots=True)
class Log:
    """What cleaning did: rows read, rows changed by tidying, books stripped; removals, changes and mere reports by reason."""

    rows_read: int = 0
    rows_tidied: int = 0
    gutenberg_stripped: int = 0
    removed: dict[str, Removed] = field(default_factory=dict)
    changed: dict[str, Removed] = field(default_factory=dict)
    reported: dict[str, Removed] = field(default_factory=dict)
    repeated: dict[str, Repeated] = field(default_factory=dict)

    def remove(self, reason: str, where: str, text: str, *, same_as: str | None = None) -> None:
        example = {"where": where, "text": _short(text)}
        _note(self.removed, reason, example if same_as is None else {**example, "same_as": same_as})
        if same_as is not None:
            self.repeated.setdefault(same_as, Repeated(example["text"])).copies += 1

    def change(self, reason: str, where: str, before: str, after: str) -> None:
        """A text of which something was changed: the example shows the first place where it was."""
        if reason in self.changed and len(self.changed[reason].examples) == _EXAMPLES:
            self.changed[reason].count += 1
            return
        if has_secret(after):  # before, a zero-width character may have hidden it
            before = after = ""
        differ = (number for number, (old, new) in enumerate(zip(before, after, strict=False)) if old != new)
        at = max(0, next(differ, min(len(before), len(after))) - 20)
        _note(self.changed, reason, {"where": where, "before": _short(before[at:]), "after": _short(after[at:])})

    def report(self, reason: str, where: str, text: str) -> None:
        _note(self.reported, reason, {"where": where, "text": _short(text)})


def _note(entries: dict[str, Removed], reason: str, example: dict[str, str]) -> None:
    entry = entries.setdefault(reason, Removed())
    entry.count += 1
    if len(entry.examples) < _EXAMPLES:
        entry.examples.append(example)


def _short(text: str) -> str:
    return shown(" ".join(text[:200].split()), 80)


def strip_gutenberg(rows: Iterable[Row], log: Log) -> Iterator[Row]:
    """Rows without Project Gutenberg's header and footer; a text without the markers is left as it is."""
    for turn in in_turns(rows):
        if not Together([row.text for row in turn]).holds("enb"):  # no "gutenberg"
            yield from turn
            continue
        for row in turn:
            text, found = gutenberg.strip(row.text) if row.payload is None else (row.text, False)
            log.gutenberg_stripped += found
            yield row.with_text(text) if found else row


def clean(rows: Iterable[Row], log: Log, how: recipe.Cleaning | None = None, folder: Path | None = None) -> Iterator[Row]:
    """Rows with mended and tidy text; empty ones and exact repetitions are left out.

    Two texts are the same when they differ in white space only; the first is kept. Of each only a hash stays in memory, and in `folder`
    where it stood.
    """
    how = how or recipe.Cleaning()
    mended = _Mended(how, log)
    seen = Seen()
    first_at = Spool[str](str, str, folder)
    for turn in in_turns(rows):
        given = [row.text for row in turn]
        together = Together(given)
        turn = _without_secrets(turn, together, log)
        texts = mended(turn, given, together)
        compared_by = [text if row.payload is None else repr(row.payload) for row, text in zip(turn, texts, strict=True)]
        keys = (together if compared_by == given else Together(compared_by)).without_blanks()
        numbers = iter(seen.numbers([key for key, text in zip(keys, texts, strict=True) if text]))
        fates = [next(numbers) if text else (-1, False) for text in texts]
        first_at.extend([row.where for row, (_, is_new) in zip(turn, fates, strict=True) if is_new])
        log.rows_read += len(turn)
        log.rows_tidied += sum([text != row.text for row, text in zip(turn, texts, strict=True)])
        for row, text, (number, is_new) in zip(turn, texts, fates, strict=True):
            if is_new:
                yield row if text is row.text else row.with_text(text)
            elif text:
                log.remove("duplicate", row.where, text, same_as=first_at[number])
            else:
                log.remove("empty", row.where, text)


def _without_secrets(rows: list[Row], together: Together, log: Log) -> list[Row]:
    """The rows without access tokens, wherever they had one; `together` are their texts."""
    labels = {label for row in rows for label in (row.source, row.group) if label is not None}
    hinted: Iterable[int] = range(len(rows)) if any(map(has_secret, labels)) else together.hinted()
    suspects = sorted({*hinted, *(number for number, row in enumerate(rows) if row.payload is not None)})
    changed = {number: _without_secret(rows[number], log) for number in suspects}
    return [changed.get(number, row) for number, row in enumerate(rows)] if changed else rows


def _without_secret(row: Row, log: Log) -> Row:
    """What is removed stands in no example."""
    held = has_secret(row.text) or has_secret(row.source) or (row.group is not None and has_secret(row.group))
    payload: Payload | None = row.payload
    if payload is not None and not isinstance(payload, Tokens) and has_secret(repr(payload)):
        payload, held = mapped(payload, without_secrets), True
    if not held:
        return row
    _note(log.changed, SECRETS, {"where": row.where, "before": "", "after": ""})
    group = None if row.group is None else without_secrets(row.group)
    return row._replace(text=without_secrets(row.text), source=without_secrets(row.source), group=group, payload=payload)


def _redacted(text: str, where: str, log: Log) -> str:
    if not has_secret(text):
        return text
    _note(log.changed, SECRETS, {"where": where, "before": "", "after": ""})
    return without_secrets(text)


class _Mended:
    """The texts of rows after every step that is asked for, without access tokens; changes are in the log."""

    def __init__(self, how: recipe.Cleaning, log: Log) -> None:
        self._invisible, self._log, self._steps = how.invisible, log, mend.steps(how)
        self._all_for_unusual = all(name in mend.FOR_UNUSUAL for name, _ in self._steps)

    def __call__(self, rows: Sequence[Row], given: Sequence[str], together: Together) -> list[str]:
        """`given` are the texts as they were read, `together` the same."""
        untidy: Container[int] = together.untidy() if self._all_for_unusual else range(len(rows))
        return [
            row.text
            if row.payload is not None
            else _redacted(self.one(row), row.where, self._log)
            if number in untidy or row.text is not text
            else text.strip()
            for number, (row, text) in enumerate(zip(rows, given, strict=True))
        ]

    def one(self, row: Row) -> str:
        text, plain = row.text, is_plain(row.text)
        if not plain or not self._all_for_unusual:
            for name, step in self._steps:
                if plain and name in mend.FOR_UNUSUAL:
                    continue
                mended = step(text)
                if mended != text:
                    self._log.change(name, row.where, text, mended)
                    text, plain = mended, is_plain(mended)
        return tidy(text, self._invisible, plain)


def compared(rows: Sequence[Row], how: recipe.Cleaning, log: Log, folder: Path | None = None) -> Sequence[Row]:
    """The rows after the steps that need to see them all: recurring lines, near duplicates, outliers."""
    kept = rows
    if how.boilerplate:
        kept = spool_of(Row, _without_boilerplate(rows, how.invisible, log), folder)
    if how.near_duplicates is not None:
        plain = [number for number, row in enumerate(kept) if row.payload is None]  # one short answer to many prompts is no copy
        texts = Mapped(attrgetter("text"), take(kept, plain))
        copies = {plain[one.number]: plain[one.first] for one in near.near_duplicates(texts, how.near_duplicates)}
        for number, first in copies.items():
            log.remove("near duplicate", kept[number].where, kept[number].text, same_as=kept[first].where)
        kept = _left(kept, copies)
    if how.outliers != "keep":
        strange = dict(language.outliers(Mapped(attrgetter("text"), kept)))
        for number, reason in strange.items():
            (log.remove if how.outliers == "remove" else log.report)(reason, kept[number].where, kept[number].text)
        if how.outliers == "remove":
            kept = _left(kept, strange)
    return kept


def _left(rows: Sequence[Row], gone: Container[int]) -> Sequence[Row]:
    return take(rows, (number for number in range(len(rows)) if number not in gone)) if gone else rows


def _without_boilerplate(rows: Iterable[Row], invisible: bool, log: Log) -> Iterator[Row]:
    shapes = boilerplate.repeated(rows)
    for row in rows:
        text, lines = boilerplate.without(row.text, shapes[row.source])
        for line in lines:
            _note(log.changed, "recurring lines removed", {"where": row.where, "before": _short(line), "after": ""})
        text = tidy(text, invisible) if lines else text
        if text:
            yield row.with_text(text) if lines else row
        else:
            log.remove("nothing but recurring lines", row.where, row.text)


def short_enough(rows: Iterable[Row], maximum_words: int | None, log: Log) -> Iterator[Row]:
    """The rows of at most `maximum_words` words; None keeps all."""
    if maximum_words is None:
        yield from rows
        return
    for row in rows:
        if len(row.text) <= maximum_words or len(words(row.text)) <= maximum_words:
            yield row
        else:
            log.remove("too long", row.where, row.text)


def long_enough(pieces: Iterable[Piece], minimum_words: int, log: Log) -> Iterator[Piece]:
    """The pieces of at least `minimum_words` words."""
    for piece in pieces:
        if piece.row.payload is not None or has_words(piece.text, minimum_words):
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
