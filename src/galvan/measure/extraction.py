"""Does a model say the rest of a document by heart: the beginning is given, and the next words must come out exactly (METHODS S5.4).

One forward pass answers both questions, and nothing is generated. Greedy decoding gives the rest exactly if at each of its tokens, given
those before, the true one is the likeliest; and the chance to draw the rest at temperature 1 is the product of its probabilities
(Hayes et al. 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from galvan import distributed
from galvan.data.tokens import Ids
from galvan.likelihood import keep_modes
from galvan.measure.passes import batches, logits_of, padded, sequences, vocabulary
from galvan.rundir import Document, atomic

LONG, SHORT = 50, 25  # tokens given and tokens asked for; SHORT where a document has less than ENOUGH
ENOUGH = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Extracted:
    """One passage: would greedy decoding give its `suffix_tokens` exactly, and the log-probability of them in nats."""

    arm: str
    document: str
    split: str
    prefix_tokens: int
    suffix_tokens: int
    greedy_match: bool
    suffix_logprob_nats: float


SCHEMA = pa.schema(
    [
        ("arm", pa.string()), ("document", pa.string()), ("split", pa.string()), ("prefix_tokens", pa.int64()),
        ("suffix_tokens", pa.int64()), ("greedy_match", pa.bool_()), ("suffix_logprob_nats", pa.float64()),
    ]
)  # fmt: skip


def extract(model: Any, tokenizer: Any, documents: Sequence[Document], arm: str, split: str) -> list[Extracted]:
    """One row for each document that is long enough. Where a prompt stands before what was learned, the whole prompt is given."""
    found = distributed.shared(documents, lambda mine: _extracted(model, tokenizer, mine, arm, split))
    return [row for row in found if row is not None]


def _extracted(model: Any, tokenizer: Any, documents: Sequence[Document], arm: str, split: str) -> list[Extracted | None]:
    cuts = [_passage(ids, scored, d) for d, (ids, scored) in zip(documents, sequences(tokenizer, documents, 1 << 30), strict=True)]
    places = [i for i, passage in enumerate(cuts) if passage is not None]
    chosen = [(documents[i], passage) for i, passage in enumerate(cuts) if passage is not None]
    rows: dict[int, Extracted] = {}
    device = next(model.parameters()).device
    with torch.no_grad(), keep_modes(model):
        model.eval()
        for batch in batches([len(ids) for _, (ids, _) in chosen], vocabulary(model)):
            ids = padded([chosen[i][1][0] for i in batch], device)
            logits = logits_of(model, ids)
            for number, i in enumerate(batch):
                document, (passage, asked) = chosen[i]
                end = len(passage)
                log_p = torch.log_softmax(logits[number, end - asked - 1 : end - 1].float(), dim=-1)
                target = ids[number, end - asked : end]
                match = bool((log_p.argmax(dim=-1) == target).all())
                log_probability = float(log_p.gather(1, target[:, None]).double().sum())
                rows[places[i]] = Extracted(arm, document.id, split, end - asked, asked, match, log_probability)
    return [rows.get(i) for i in range(len(documents))]


def _passage(ids: Ids, scored: np.ndarray, document: Document) -> tuple[Ids, int] | None:
    """The ids to give and to ask for, and how many are asked for; None where the document is too short."""
    places = np.flatnonzero(scored)
    begin = 0 if document.payload is None else int(places[0]) if len(places) else len(ids)
    size = LONG if len(ids) - begin >= ENOUGH else SHORT
    end = 2 * size if document.payload is None else begin + size
    return (ids[:end], size) if end <= len(ids) else None


def write_extraction(path: Path, rows: Sequence[Extracted]) -> None:
    """`extraction.parquet`, atomically."""
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)
    with atomic(path) as stream:
        pq.write_table(table, stream, compression="zstd")
