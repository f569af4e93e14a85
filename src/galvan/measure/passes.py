"""Forward passes of two models over the same rows of tokens, as many rows at once as a fixed size of logits allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galvan.data.encode import encode
from galvan.data.tokens import Ids, adds_bos, encode_texts
from galvan.likelihood import causal_lm
from galvan.rundir import Document

LARGEST_LOGITS = 2**25  # numbers in one matrix of logits: 128 MB in float32, unless a single row needs more


def sequences(tokenizer: Any, documents: Sequence[Document], most_tokens: int) -> list[tuple[Ids, np.ndarray]]:
    """Of each document the first `most_tokens` ids, BOS included, and which of them are scored, both [T]; first-token rule as in scoring."""
    bos = np.array([tokenizer.bos_token_id] if adds_bos(tokenizer) else [], dtype=np.int64)
    plain = iter(encode_texts(tokenizer, [d.text for d in documents if d.payload is None]))
    rows = []
    for document in documents:
        if document.payload is None:
            ids = np.concatenate([bos, next(plain)])
            scored = np.arange(len(ids)) > 0
        else:
            whole = encode(tokenizer, document, learn_eos=False)
            ids, scored = whole.input_ids, whole.scored
        rows.append((ids[:most_tokens], scored[:most_tokens]))
    return rows


def batches(lengths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Indices of rows that go through the model together, longest first: no matrix of logits, `width` ids wide, exceeds LARGEST_LOGITS."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    begin = 0
    while begin < len(order):
        at_once = max(1, LARGEST_LOGITS // (lengths[order[begin]] * width))
        yield order[begin : begin + at_once]
        begin += at_once


def padded(rows: Sequence[Ids], device: torch.device) -> Tensor:
    """[B, T], filled up on the right, where a causal model cannot look."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return torch.from_numpy(ids).to(device)


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """[B, T, V] in the model's own precision; logits at the virtual tokens of a learned prompt are left out."""
    return model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]  # type: ignore[no-any-return]


def vocabulary(model: Any) -> int:
    return int(causal_lm(model).config.get_text_config().vocab_size)
