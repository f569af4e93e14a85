"""Cutting the training part of long texts anew in each epoch, so that a model sees other beginnings and ends.

Only documents that trained already and were neighbours in one text are joined again: nothing crosses from one split to another. The
first epoch has the documents as they were cut; a later one begins each stretch with a piece of another length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from galvan.data.cut import Offsets, Piece, pieces
from galvan.rundir import Document, read_rows

_SHORTEST_FIRST = 0.2  # of the budget: a shorter first piece would be a stump


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring training documents of one text, by id, and that part of the text as it stood before it was cut."""

    ids: list[str]
    text: str
    source: str
    position: int


def stretches(train: Iterable[Document], numbered: Iterable[tuple[Document, Piece]]) -> Iterator[Stretch]:
    """The training part in order, joined where it was one; a document that was never cut is a stretch of its own."""
    trains = {document.id for document in train}
    last: Stretch | None = None
    row, at, begin, before = None, 0, 0, -1
    for document, piece in numbered:
        if piece.row is not row:
            row, at, before = piece.row, 0, -1
        start = piece.row.text.index(piece.text, at)
        at = start + len(piece.text)
        if document.id not in trains:
            continue
        if last is not None and piece.number and before == piece.number - 1 and before > 0:
            last = Stretch([*last.ids, document.id], piece.row.text[begin:at], last.source, last.position)
        else:
            if last is not None:
                yield last
            begin = start
            last = Stretch([document.id], piece.text, document.source, document.position)
        before = piece.number
    if last is not None:
        yield last


def read_stretches(path: Path) -> list[Stretch]:
    return [Stretch(list(row["ids"]), row["text"], row["source"], row["position"]) for row in read_rows(path)]


def documents_of_epoch(
    first: Sequence[Document], whole: Sequence[Stretch], epoch: int, seed: int, budget_tokens: int, offsets: Offsets
) -> list[Document]:
    """The training documents of `epoch` (from 0, which is `first`); the same for the same seed and epoch, whenever it is asked.

    A document that was cut anew is called after its stretch's first one, `ID@EPOCH.NUMBER`.
    """
    if epoch == 0:
        return list(first)
    by_id = {document.id: document for document in first}
    rng = np.random.default_rng([seed, epoch, 0x0FF5E7])
    documents: list[Document] = []
    for stretch in whole:
        share = rng.uniform(_SHORTEST_FIRST, 1.0)
        if len(stretch.ids) == 1:
            documents.append(by_id[stretch.ids[0]])
            continue
        opening, _ = next(pieces(stretch.text, max(1, round(share * budget_tokens)), offsets))
        rest = stretch.text[stretch.text.index(opening) + len(opening) :]
        texts = [opening, *(text for text, _ in pieces(rest, budget_tokens, offsets))]
        name, group = stretch.ids[0], by_id[stretch.ids[0]].group
        documents += [
            Document(f"{name}@{epoch}.{number}", text, stretch.source, stretch.position + number - 1, group)
            for number, text in enumerate(texts, 1)
        ]
    return documents
