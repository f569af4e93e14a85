"""Per-token log-likelihoods of whole documents: every document, every token once, in the order of the file.

Padding never enters a figure, long documents go through half-overlapping windows (METHODS S3.5), the first token follows one
rule for base and tuned (S3.1), and the end-of-text token is kept apart (S3.2). Documents go through in blocks, shared out among the
processes of the run, and rows to the file as they come: memory does not grow with the number of documents.
"""

from __future__ import annotations

import dataclasses
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from galvan import distributed
from galvan.data.encode import Encoded, encode
from galvan.data.tokens import Ids, adds_bos, encode_texts, first_token_bytes
from galvan.errors import DataError
from galvan.likelihood import keep_modes, supports_chunks, token_nll
from galvan.measure.kept import Kept
from galvan.progress import Progress, Silent
from galvan.rundir import Document, atomic
from galvan.statistics.windows import rolling_windows, share_with_little_context
from galvan.text import shown
from galvan.training.pace import Pace
from galvan.unpadded import documents_apart, supports_unpadded

BLOCK = 512  # documents a process scores before their rows go on; windows of like length within a block share a pass
FIRST = 20  # documents named of those that something is said of
ROW_GROUP = 4096  # rows of scores.parquet written at once


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """One document under one arm. `nll_nats` is the float64 sum of `token_nll_nats` (float32, one a scored token, 4 bytes each).

    `n_bytes` are the UTF-8 bytes of the scored text: without those of a first token that is context only. Of a document with a prompt
    or a conversation only the tokens of what is learned are scored, given all before them.
    """

    arm: str
    document: str
    source: str
    position: int
    split: str
    n_tokens: int
    n_bytes: int
    nll_nats: float
    token_nll_nats: Sequence[float]
    eos_nll_nats: float | None = None


SCHEMA = pa.schema(
    [
        ("arm", pa.string()), ("document", pa.string()), ("source", pa.string()), ("position", pa.int64()), ("split", pa.string()),
        ("n_tokens", pa.int64()), ("n_bytes", pa.int64()), ("nll_nats", pa.float64()),
        ("token_nll_nats", pa.list_(pa.float32())), ("eos_nll_nats", pa.float64()),
    ]
)  # fmt: skip


def score(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[Document],
    arm: str,
    split: str,
    context_tokens: int,
    tokens_per_pass: int = 2048,
    score_eos: bool = False,
    progress: Progress | None = None,
) -> list[Score]:
    """All of `scores`."""
    return list(scores(model, tokenizer, documents, arm, split, context_tokens, tokens_per_pass, score_eos, progress))


def scores(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[Document],
    arm: str,
    split: str,
    context_tokens: int,
    tokens_per_pass: int = 2048,
    score_eos: bool = False,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> Iterator[Score]:
    """Score `documents` under `model`, in evaluation mode, whatever its mode was; the mode is restored.

    `context_tokens`: the most tokens that the model sees at once, BOS included. Blocks that are in `kept` are taken from there, others
    put there. A document with no token to score (empty, or one
    token where the first is context) is a DataError before anything is scored: leaving it out would change the comparison.
    """
    progress = progress or Silent()
    chunked = supports_chunks(model)
    unpadded = supports_unpadded(model, chunked, learns=False)
    size = BLOCK * distributed.world()
    blocks = [slice(begin, begin + size) for begin in range(0, len(documents), size)]
    lengths = (
        n for some in blocks for n in distributed.shared(documents[some], lambda mine: _scored_tokens(tokenizer, mine, score_eos))
    )
    progress.start(f"Scoring {arm}", sum(lengths), "token")
    pace = Pace(1, torch.set_num_threads, progress.say, "Passes")  # told of one thread it changes none: all arms have the same
    for some in blocks:

        def block(mine: Sequence[Document]) -> list[Score]:
            parts = _sequences(tokenizer, mine, score_eos)
            nll = _sequence_nll(
                model, [ids for ids, _ in parts], context_tokens, tokens_per_pass, chunked, unpadded, progress, pace
            )
            return [
                _row(tokenizer, document, part, values, arm, split, score_eos)
                for document, (_, part), values in zip(mine, parts, nll, strict=True)
            ]

        rows = None if kept is None else kept.take()
        if rows is None:
            rows = distributed.shared(documents[some], block)
            if kept is not None:
                kept.put(rows)
        else:
            progress.advance(sum(row.n_tokens for row in rows))
        yield from rows


def _sequences(tokenizer: Any, documents: Sequence[Document], score_eos: bool) -> list[tuple[Ids, Encoded | None]]:
    """The ids of each document, BOS and the end-of-text token included, and where it is more than a text what of it is scored.

    DataError where nothing is."""
    bos, eos = _ends(tokenizer, score_eos)
    parts: list[Encoded | None] = [None if d.payload is None else encode(tokenizer, d, learn_eos=False) for d in documents]
    texts = iter(encode_texts(tokenizer, [d.text for d in documents if d.payload is None]))
    sequences = [
        np.concatenate([np.array(bos, np.int64), next(texts), np.array(eos, np.int64)]) if p is None else p.input_ids for p in parts
    ]
    for document, sequence, part in zip(documents, sequences, parts, strict=True):
        if not part.scored.any() if part is not None else len(sequence) - len(eos) < 2:
            raise DataError(
                "data/too-short", f"Document {shown(document.id)} has no token that could be scored; remove it from the data."
            )
    return list(zip(sequences, parts, strict=True))


def _scored_tokens(tokenizer: Any, documents: Sequence[Document], score_eos: bool) -> list[int]:
    return [len(ids) - 1 for ids, _ in _sequences(tokenizer, documents, score_eos)]


def _ends(tokenizer: Any, score_eos: bool) -> tuple[list[int], list[int]]:
    """What stands before and after every plain text."""
    eos = [tokenizer.eos_token_id] if score_eos and tokenizer.eos_token_id is not None else []
    return [tokenizer.bos_token_id] if adds_bos(tokenizer) else [], eos


def _row(
    tokenizer: Any, document: Document, part: Encoded | None, values: np.ndarray, arm: str, split: str, score_eos: bool
) -> Score:
    bos, eos = _ends(tokenizer, score_eos)
    text_nll = values[: len(values) - len(eos)] if part is None else values[part.scored[1:]]
    n_bytes = _text_bytes(tokenizer, document, bool(bos)) if part is None else part.n_bytes
    ending = float(values[-1]) if eos and part is None else None
    return Score(
        arm, document.id, document.source, document.position, split, len(text_nll), n_bytes,
        float(text_nll.astype(np.float64).sum()), array("f", text_nll.tobytes()), ending,
    )  # fmt: skip


def _text_bytes(tokenizer: Any, document: Document, has_bos: bool) -> int:
    return document.n_bytes - (0 if has_bos else first_token_bytes(tokenizer, document.text))


def scoring_rule(documents: Iterable[Document]) -> str:
    """Which tokens enter the figures, in words, for the record."""
    shaped = {document.payload is not None for document in documents}
    if shaped == {True}:
        return "tokens of the completion only"
    return "tokens of the completion only, of plain texts every token" if len(shaped) == 2 else "every token of the text"


def _sequence_nll(
    model: nn.Module, sequences: Sequence[Ids], context: int, budget: int, chunked: bool, unpadded: bool, progress: Progress, pace: Pace
) -> list[np.ndarray]:  # fmt: skip
    """NLL of tokens 1.. of each sequence, float32. Windows of like length share a pass; results go back to their place."""
    out = [np.full(len(s) - 1, np.nan, dtype=np.float32) for s in sequences]
    jobs = [(i, w) for i, s in enumerate(sequences) for w in rolling_windows(len(s) - 1, context - 1)]
    jobs.sort(key=lambda job: job[1].end - job[1].start, reverse=True)
    begin = 0
    with keep_modes(model):
        model.eval()
        while begin < len(jobs):
            part = jobs[begin : begin + max(1, budget // (jobs[begin][1].end - jobs[begin][1].start))]
            begun = time.monotonic()
            found = _window_nll(model, [sequences[i][w.start : w.end] for i, w in part], chunked, unpadded)
            pace.step(time.monotonic() - begun, sum(w.end - w.start for _, w in part))
            for (i, w), nll in zip(part, found, strict=True):
                out[i][w.first_scored - 1 : w.end - 1] = nll[w.first_scored - 1 - w.start : w.end - 1 - w.start]
            progress.advance(sum(w.end - w.first_scored for _, w in part) * distributed.world())
            begin += len(part)
    return out


def _window_nll(model: nn.Module, windows: Sequence[Ids], chunked: bool, unpadded: bool) -> list[np.ndarray]:
    """NLL of tokens 1.. of each window, all in one pass: end to end, or padded on the right. What follows a window's own is of no meaning."""
    device, lengths = next(model.parameters()).device, [len(w) for w in windows]
    if not unpadded:
        ids = np.zeros((len(windows), max(lengths)), dtype=np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        return list(token_nll(model, torch.from_numpy(ids).to(device), chunked).cpu().numpy())
    joined, positions = np.concatenate(windows)[None], np.concatenate([np.arange(n) for n in lengths])[None]
    with documents_apart(model, lengths):
        nll = token_nll(model, torch.from_numpy(joined).to(device), chunked, torch.from_numpy(positions).to(device))
    return np.split(nll[0].cpu().numpy(), np.cumsum(lengths)[:-1])


@dataclasses.dataclass(frozen=True, slots=True)
class TextFacts:
    """How the scored texts came through the tokenizer: how many it does not give back as they were, for which bits per byte count other bytes
    than were scored (the first of them by id), and the share of scored tokens that see fewer than 64 tokens before them."""

    n_not_reproduced: int
    not_reproduced: tuple[str, ...]
    little_context_share: float | None


def text_facts(tokenizer: Any, documents: Iterable[Document], context_tokens: int, score_eos: bool = False) -> TextFacts:
    """Facts of the same sequences and windows that `scores` goes through; no model is needed."""
    altered: list[str] = []
    n_altered, shares = 0, []
    rest = iter(documents)
    while some := list(islice(rest, BLOCK)):
        found = not_reproduced(tokenizer, some)
        n_altered += len(found)
        altered += found[: FIRST - len(altered)]
        lengths = [len(ids) - 1 for ids, _ in _sequences(tokenizer, some, score_eos)]
        windows = [w for n in lengths for w in rolling_windows(n, context_tokens - 1)]
        shares.append((sum(lengths), share_with_little_context(windows) or 0.0))
    total = sum(n for n, _ in shares)
    return TextFacts(n_altered, tuple(altered), sum(n * share for n, share in shares) / total if total else None)


def not_reproduced(tokenizer: Any, documents: Iterable[Document]) -> list[str]:
    """Ids of documents whose text the tokenizer does not give back: for them bits per byte count other bytes than were scored."""
    documents = [document for document in documents if document.payload is None]
    decoded = [
        tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
        for ids in encode_texts(tokenizer, [d.text for d in documents])
    ]
    return [d.id for d, text in zip(documents, decoded, strict=True) if text != d.text]


def write_scores(path: Path, rows: Iterable[Score]) -> None:
    """`scores.parquet`, atomically, in groups of ROW_GROUP rows as they come."""
    rest = iter(rows)
    with atomic(path) as stream, pq.ParquetWriter(stream, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while group := list(islice(rest, ROW_GROUP)):
            writer.write_table(_table(group))


def write_pieces(path: Path, tokenizer: Any, documents: Sequence[Document], score_eos: bool = False) -> None:
    """`pieces.parquet`: the text that each scored token adds to a document, for the page that colours them; `head` stands before the first.

    A character of several tokens is the first one's, the others are empty.
    """
    schema = pa.schema([("document", pa.string()), ("head", pa.string()), ("pieces", pa.list_(pa.string()))])
    with atomic(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer:
        for begin in range(0, len(documents), BLOCK):
            some = documents[begin : begin + BLOCK]
            parts = _sequences(tokenizer, some, score_eos)
            rows = [_pieces(tokenizer, document, *part, score_eos) for document, part in zip(some, parts, strict=True)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _pieces(tokenizer: Any, document: Document, ids: Ids, part: Encoded | None, score_eos: bool) -> dict[str, Any]:
    bos, eos = _ends(tokenizer, score_eos)
    ids = ids[: len(ids) - len(eos)] if part is None else ids
    scored = np.arange(len(ids)) > 0 if part is None else part.scored
    first = int(scored.argmax())
    head = [] if part is None and bos else ids[:first].tolist()
    return {"document": document.id, "head": _decoded(tokenizer, head), "pieces": _added(tokenizer, ids[scored].tolist())}


def _added(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds; up to four that are parts of one character wait for its end."""
    found: list[str] = []
    begin = 0
    for end in range(1, len(ids) + 1):
        text = _decoded(tokenizer, ids[begin:end])
        if "\ufffd" not in text or end - begin == 4 or end == len(ids):
            found += [text, *[""] * (end - begin - 1)]
            begin = end
    return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""


def _table(rows: Sequence[Score]) -> pa.Table:
    tokens = [np.asarray(row.token_nll_nats, dtype=np.float32) for row in rows]
    ends = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in SCHEMA if field.name != "token_nll_nats"}
    return pa.table(columns | {"token_nll_nats": pa.ListArray.from_arrays(ends, np.concatenate(tokens))}, schema=SCHEMA)
