"""The first stage as a story: read, clean, cut, split, audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galvan import recipe
from galvan.data import clean, cut, pictures, shapes
from galvan.data.audit import audit, leaking_ids
from galvan.data.facts import Audit
from galvan.data.read import read
from galvan.data.recut import Stretch, stretches
from galvan.data.split import Splits, share_of_train, split, without, without_gap
from galvan.rundir import Document, write_json, write_rows, write_text

NEUTRAL = "galvan/plain"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training and judging go by; `n_tokens` is each document's length by id, without special tokens.

    `stretches` are the training part in one piece where it was one before it was cut; empty unless the recipe asks for re-cutting.
    """

    splits: Splits
    audit: Audit
    n_tokens: dict[str, int]
    stretches: list[Stretch]


def prepare(
    data: recipe.Data, seed: int, offsets: cut.Offsets, *, offline: bool = False, decode: shapes.Decode | None = None
) -> Prepared:
    """Documents of at most `data.document_tokens` tokens, divided and audited.

    `offsets` gives the character spans of a text's tokens without special tokens, `decode` the text of ids. Raises DataError, ResourceError.
    """
    log = clean.Log()
    group = data.split.group if data.split.by in ("group", "stratified") else None
    rows = read(data.source, data.column, group=group, offline=offline, mapping=data.mapping)
    if decode is not None:
        rows = shapes.decoded(rows, decode)
    if data.strip_gutenberg:
        rows = clean.strip_gutenberg(rows, log)
    rows = clean.short_enough(clean.clean(rows, log, data.clean), data.maximum_words, log)
    kept = clean.compared(cut.in_order(rows), data.clean, log)

    pieces = cut.cut(kept, data.document_tokens, offsets)
    pieces = clean.long_enough(pieces, data.minimum_words, log)
    numbered = cut.to_documents(clean.first(pieces, data.maximum_documents, log))
    n_tokens = {document.id: piece.n_tokens for document, piece in numbered}
    parts = [piece.row.where for _, piece in numbered if piece.number]

    splits = divided([document for document, _ in numbered], data, seed, log)
    neutral = [] if data.source == NEUTRAL else [Document(row.where, row.text, row.source, row.position) for row in read(NEUTRAL)]
    facts = audit(data.source, data.column, splits, n_tokens, (len(set(parts)), len(parts)), log, neutral, data.split.leaks)
    whole = stretches(splits.train, numbered) if data.recut else []
    return Prepared(splits, facts, n_tokens, whole)


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
    for name, picture in pictures.of_data(prepared.splits, prepared.n_tokens, prepared.audit).items():
        write_text(folder / "pictures" / f"{name}.svg", picture)
        names.append(f"pictures/{name}.svg")
    write_json(folder / "audit.json", prepared.audit)
    return [*names, "audit.json"]
