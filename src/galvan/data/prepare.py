"""The first stage as a story: read, clean, cut, split, audit."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from galvan import recipe
from galvan.data import clean, cut, pictures, shapes
from galvan.data.audit import audit, leaking_ids
from galvan.data.facts import Audit
from galvan.data.neutral import BUNDLED, neutral_rows
from galvan.data.read import read
from galvan.data.recut import Stretch, stretches
from galvan.data.rows import Row
from galvan.data.split import Splits, share_of_train, split, without, without_gap
from galvan.data.store import Documents, Fields, in_turns, spool_of
from galvan.rundir import Document, write_json, write_rows, write_text


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training and judging go by: `documents` are all that were cut, of which the splits take their own.

    `stretches` are the training part in one piece where it was one before it was cut; empty unless the recipe asks for re-cutting.
    """

    splits: Splits
    audit: Audit
    documents: Documents
    stretches: Sequence[Stretch]

    @property
    def n_tokens(self) -> dict[str, int]:
        """Each document's length by id, without special tokens."""
        return {document.id: n for document, n in zip(self.documents, self.documents.n_tokens, strict=True)}


def prepare(
    data: recipe.Data,
    seed: int,
    offsets: cut.Offsets,
    *,
    offline: bool = False,
    decode: shapes.Decode | None = None,
    folder: Path | None = None,
    neutral: str = BUNDLED,
) -> Prepared:
    """Documents of at most `data.document_tokens` tokens, divided and audited.

    `offsets` gives the character spans of a text's tokens without special tokens, `decode` the text of ids. Texts are kept in files
    without a name in `folder` (None: the system's temporary one), about twice as large as the data. `neutral` is the text on which
    forgetting is measured. Raises DataError, ResourceError.
    """
    log = clean.Log()
    group = data.split.group if data.split.by in ("group", "stratified") else None
    rows = read(data.source, data.column, group=group, offline=offline, mapping=data.mapping)
    kept = clean.compared(cut.in_order(cleaned(rows, data, log, decode, folder), folder), data.clean, log, folder)

    documents, parts, of_row = Documents(folder), array("q"), array("q")
    for turn in in_turns(numbered(kept, data, offsets, log), lambda some: sum([len(fields[1]) for _, (fields, _) in some])):
        numbers, cuts = zip(*turn, strict=True)
        fields, pieces = zip(*cuts, strict=True)
        _, _, part_numbers, n_tokens = zip(*pieces, strict=True)
        documents.extend_by_fields(fields, n_tokens)
        of_row.extend(numbers)
        parts.extend(part_numbers)
    row_of, part_of = np.array(of_row, dtype=np.int64), np.array(parts, dtype=np.int64)
    was_cut = row_of[part_of > 0]

    splits = divided(documents, data, seed, log)
    neutral_text = [] if data.source == neutral else neutral_rows(neutral, offline)
    other = [Document(row.where, row.text, row.source, row.position) for row in neutral_text]
    facts = audit(data.source, data.column, splits, {}, (len(np.unique(was_cut)), len(was_cut)), log, other, data.split.leaks)
    whole = spool_of(Stretch, stretches(splits.train, _pieces(documents, kept, of_row, parts)), folder) if data.recut else []
    return Prepared(splits, facts, documents, whole)


def _pieces(
    documents: Documents, rows: Sequence[Row], of_row: Iterable[int], parts: Iterable[int]
) -> Iterator[tuple[Document, cut.Piece]]:
    """Each document with the row that it was cut of, which is the same object for all of its documents."""
    known, row = -1, None
    for document, number, part, n_tokens in zip(documents, of_row, parts, documents.n_tokens, strict=True):
        if row is None or number != known:
            known, row = number, rows[number]
        yield document, cut.Piece(row, document.text, part, n_tokens)


def cleaned(
    rows: Iterable[Row], data: recipe.Data, log: clean.Log, decode: shapes.Decode | None = None, folder: Path | None = None
) -> Iterator[Row]:
    """Rows after the steps that look at one at a time."""
    if decode is not None:
        rows = shapes.decoded(rows, decode)
    if data.strip_gutenberg:
        rows = clean.strip_gutenberg(rows, log)
    return clean.short_enough(clean.clean(rows, log, data.clean, folder), data.maximum_words, log)


def numbered(
    rows: Sequence[Row], data: recipe.Data, offsets: cut.Offsets, log: clean.Log
) -> Iterator[tuple[int, tuple[Fields, cut.Piece]]]:
    """The documents that are cut of `rows`, in fields, each with the number of its row."""
    number = -1

    def counted() -> Iterator[Row]:
        nonlocal number
        for number, row in enumerate(rows):  # noqa: B007
            yield row

    pieces = clean.long_enough(cut.cut(counted(), data.document_tokens, offsets), data.minimum_words, log)
    for pair in cut.document_fields(clean.first(pieces, data.maximum_documents, log)):
        yield number, pair


def divided(documents: Sequence[Document], data: recipe.Data, seed: int, log: clean.Log) -> Splits:
    """The splits that the recipe asks for; documents that belong to none of them are in the log."""
    splits = split(documents, data.split, seed)
    if data.split.gap:
        splits, beside = without_gap(splits, data.split.gap)
        for document in beside:
            log.remove("gap beside held-out text", document.id, document.text)
    if data.split.leaks == "remove" and (leaking := leaking_ids(splits)):
        for _, part in splits.items():
            for document in part:
                if document.id in leaking:
                    log.remove("held out, but shared with another part", document.id, document.text)
        splits = without(splits, leaking)
    if data.train_share < 1:
        splits, spared = share_of_train(splits, data.train_share, seed)
        for document in spared:
            log.remove("beyond data.train_share", document.id, document.text)
    return splits


def write(prepared: Prepared, folder: Path) -> list[str]:
    """Write the splits, the pictures and `audit.json` under `folder`; returns their names, the audit last."""
    names = []
    for name, documents in prepared.splits.items():
        write_rows(folder / "data" / f"{name}.jsonl", documents)
        names.append(f"data/{name}.jsonl")
    if prepared.stretches:
        write_rows(folder / "data" / "stretches.jsonl", prepared.stretches)
        names.append("data/stretches.jsonl")
    for name, picture in pictures.of_data(prepared.splits, {}, prepared.audit).items():
        write_text(folder / "pictures" / f"{name}.svg", picture)
        names.append(f"pictures/{name}.svg")
    write_json(folder / "audit.json", prepared.audit)
    return [*names, "audit.json"]
