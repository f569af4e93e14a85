"""The first stage as a story: read, clean, cut, split, audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from galvan import recipe
from galvan.data import clean, cut, shapes
from galvan.data.audit import audit
from galvan.data.facts import Audit
from galvan.data.read import read
from galvan.data.split import Splits, split
from galvan.run import write_json, write_rows


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training and judging go by; `n_tokens` is each document's length by id, without special tokens."""

    splits: Splits
    audit: Audit
    n_tokens: dict[str, int]


def prepare(
    data: recipe.Data, seed: int, offsets: cut.Offsets, *, offline: bool = False, decode: shapes.Decode | None = None
) -> Prepared:
    """Documents of at most `data.document_tokens` tokens, divided and audited.

    `offsets` gives the character spans of a text's tokens without special tokens, `decode` the text of ids. Raises DataError, ResourceError.
    """
    log = clean.Log()
    group = data.split.group if data.split.by == "group" else None
    rows = read(data.source, data.column, group=group, offline=offline, mapping=data.mapping)
    if decode is not None:
        rows = shapes.decoded(rows, decode)
    if data.strip_gutenberg:
        rows = clean.strip_gutenberg(rows, log)
    rows = clean.clean(rows, log)

    pieces = cut.cut(cut.in_order(rows), data.document_tokens, offsets)
    pieces = clean.long_enough(pieces, data.minimum_words, log)
    numbered = cut.to_documents(clean.first(pieces, data.maximum_documents, log))
    n_tokens = {document.id: piece.n_tokens for document, piece in numbered}
    parts = [piece.row.where for _, piece in numbered if piece.number]

    splits = split([document for document, _ in numbered], data.split, seed)
    facts = audit(data.source, data.column, splits, n_tokens, (len(set(parts)), len(parts)), log)
    return Prepared(splits, facts, n_tokens)


def write(prepared: Prepared, folder: Path) -> list[str]:
    """Write `data/{train,validation,test}.jsonl` and `audit.json` under `folder`; returns their names, the audit last."""
    names = []
    for name, documents in prepared.splits.items():
        write_rows(folder / "data" / f"{name}.jsonl", documents)
        names.append(f"data/{name}.jsonl")
    write_json(folder / "audit.json", prepared.audit)
    return [*names, "audit.json"]
