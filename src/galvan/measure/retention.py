"""How far tuning moved the whole distribution over the next token: KL both ways, entropy, the most likely token and the likelihood.

Base and tuned are two objects in memory at once, and the base never saw an adapter. Rows go through both a few at a time; of a batch
the log-softmax is taken in float32 over the full vocabulary, some rows at once (METHODS S6.2; the panel of llama.cpp's --kl-divergence).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from galvan import distributed
from galvan.errors import ComparisonRefused
from galvan.likelihood import keep_modes
from galvan.measure.passes import batches, logits_of, padded, sequences, vocabulary
from galvan.progress import Progress, Silent
from galvan.rundir import Document, atomic

IMPOSSIBLE = -1e4  # in place of the logarithm of 0, so that what has no probability adds nothing
CHUNK_ROWS = 128  # rows of log-probabilities alive at once, of both models


@dataclasses.dataclass(frozen=True, slots=True)
class Retained:
    """One document: sums over its `n_tokens` predicted tokens, nats in float64. `kind` is "neutral" or "author".

    `kl_nats` is KL(base || tuned), `reverse_kl_nats` KL(tuned || base), `agreements` counts where both find the same token likeliest.
    """

    document: str
    kind: str
    register: str | None
    source: str
    position: int
    n_tokens: int
    kl_nats: float
    reverse_kl_nats: float
    base_entropy_nats: float
    tuned_entropy_nats: float
    agreements: int
    base_nll_nats: float
    tuned_nll_nats: float


SCHEMA = pa.schema(
    [
        ("document", pa.string()), ("kind", pa.string()), ("register", pa.string()), ("source", pa.string()), ("position", pa.int64()),
        ("n_tokens", pa.int64()), ("kl_nats", pa.float64()), ("reverse_kl_nats", pa.float64()), ("base_entropy_nats", pa.float64()),
        ("tuned_entropy_nats", pa.float64()), ("agreements", pa.int64()), ("base_nll_nats", pa.float64()), ("tuned_nll_nats", pa.float64()),
    ]
)  # fmt: skip


def divergences(base: Tensor, tuned: Tensor, targets: Tensor) -> Tensor:
    """Sums over N tokens of KL(base || tuned), KL(tuned || base), both entropies, agreements of the likeliest token, and both NLLs of
    `targets`: [7] float64. `base` and `tuned` are logits [N, V], `targets` ids [N]."""
    total = torch.zeros(7, dtype=torch.float64)
    for begin in range(0, len(targets), CHUNK_ROWS):
        rows = slice(begin, begin + CHUNK_ROWS)
        log_p, log_q = (torch.log_softmax(logits[rows].float(), dim=-1).clamp_(min=IMPOSSIBLE) for logits in (base, tuned))
        p, q, target, apart = log_p.exp(), log_q.exp(), targets[rows, None], log_p - log_q
        columns = (
            torch.linalg.vecdot(p, apart),
            -torch.linalg.vecdot(q, apart),
            -torch.linalg.vecdot(p, log_p),
            -torch.linalg.vecdot(q, log_q),
            (base[rows].argmax(dim=-1) == tuned[rows].argmax(dim=-1)).float(),
            -log_p.gather(1, target)[:, 0],
            -log_q.gather(1, target)[:, 0],
        )
        total += torch.stack(columns).double().sum(dim=1).cpu()
    return total


def retention(
    base: Any,
    tuned: Any,
    tokenizer: Any,
    documents: Sequence[Document],
    kind: str,
    context_tokens: int,
    progress: Progress | None = None,
) -> list[Retained]:
    """One row a document, on its first `context_tokens` tokens. ComparisonRefused where the models
    have not the same vocabulary."""
    watched = progress or Silent()
    rows = distributed.shared(documents, lambda mine: _retained(base, tuned, tokenizer, mine, kind, context_tokens, watched))
    return [row for row in rows if row is not None]


def _retained(
    base: Any, tuned: Any, tokenizer: Any, documents: Sequence[Document], kind: str, context_tokens: int, progress: Progress
) -> list[Retained | None]:
    """None for a document of which nothing is scored."""
    rows = sequences(tokenizer, documents, context_tokens)
    device = next(base.parameters()).device
    sums: dict[int, Tensor] = {}
    progress.start(f"Comparing {kind} text", sum(len(ids) for ids, _ in rows), "token")
    with torch.no_grad(), keep_modes(base), keep_modes(tuned):
        base.eval()
        tuned.eval()
        for batch in batches([len(ids) for ids, _ in rows], vocabulary(base)):
            ids = padded([rows[i][0] for i in batch], device)
            before, after = logits_of(base, ids), logits_of(tuned, ids)
            if before.shape != after.shape:
                raise ComparisonRefused(
                    "retention/vocabulary",
                    f"Base and tuned choose among {before.shape[-1]:,} and {after.shape[-1]:,} ids, so their distributions do not compare.",
                )
            for number, i in enumerate(batch):
                places = torch.from_numpy(rows[i][1].nonzero()[0]).to(device)
                sums[i] = divergences(before[number, places - 1], after[number, places - 1], ids[number, places])
            progress.advance(sum(len(rows[i][0]) for i in batch))
    return [
        Retained(d.id, kind, d.group if kind == "neutral" else None, d.source, d.position, int(rows[i][1].sum()), *(
            int(value) if name == "agreements" else value for name, value in zip(SCHEMA.names[6:], sums[i].tolist(), strict=True)
        ))
        if rows[i][1].any() else None
        for i, d in enumerate(documents)
    ]  # fmt: skip


def write_retention(path: Path, rows: Sequence[Retained], reason: str | None = None, n_related: int = 0) -> None:
    """`retention.parquet`, atomically; without rows it holds the `reason`. `n_related`: neutral documents left out, for they stand in the
    training text."""
    schema = SCHEMA.with_metadata({"reason": reason or "", "n_related": str(n_related)})
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    with atomic(path) as stream:
        pq.write_table(table, stream, compression="zstd")
