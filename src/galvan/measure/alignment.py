"""Two tokenizers, one string: both arms must be scored on the same bytes, or bits per byte do not compare either (METHODS S3.3, S3.4).

Where one tokenizer prepends BOS and the other takes its first token as context, they cover the text from different bytes on. Both are
then counted from the first place at which both begin a token that they predict.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from galvan.data.tokens import adds_bos
from galvan.errors import DataError
from galvan.measure.scoring import Score
from galvan.rundir import Document
from galvan.text import shown


def token_starts(tokenizer: Any, text: str) -> dict[int, int]:
    """Character offset to the index of the predicted token that begins there; tokens that begin inside a character are left out.

    White space between two tokens belongs to the second, whatever the tokenizer calls its offsets.
    """
    offsets = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    starts = {0: 0} if adds_bos(tokenizer) else {}
    for i in range(1, len(offsets)):
        if offsets[i][0] >= offsets[i - 1][1]:
            starts.setdefault(offsets[i - 1][1], i)
    return starts


def common_start(tokenizers: Sequence[Any], document: Document) -> int:
    """The character from which all tokenizers predict the rest of the text; DataError if there is none."""
    shared = set.intersection(*(set(token_starts(tokenizer, document.text)) for tokenizer in tokenizers))
    if not shared:
        raise DataError(
            "data/too-short",
            f"Document {shown(document.id)} has no place where all tokenizers begin a token; remove it from the data.",
        )
    return min(shared)


def scored_from(rows: Iterable[Score], tokenizer: Any, documents: Sequence[Document], starts: Sequence[int]) -> Iterator[Score]:
    """`rows`, one a document, without the tokens before character `starts[i]`, which then are context only."""
    context = 0 if adds_bos(tokenizer) else 1
    for row, document, start in zip(rows, documents, starts, strict=True):
        skipped = token_starts(tokenizer, document.text)[start] - context
        tokens = np.asarray(row.token_nll_nats[skipped:], dtype=np.float32)
        n_bytes = len(document.text[start:].encode("utf-8"))
        yield dataclasses.replace(
            row, n_tokens=len(tokens), n_bytes=n_bytes, nll_nats=float(tokens.astype(np.float64).sum()),
            token_nll_nats=array("f", tokens.tobytes()),
        )  # fmt: skip
