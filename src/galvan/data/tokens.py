"""From a document to the ids that the model sees, and the labels that it is trained on. One rule for training and scoring.

First token (METHODS S3.1): where the tokenizer puts BOS in front by default, so do we, once, and every token of the text is
predicted; where it does not, the first token of the text is context and is not predicted. EOS is appended only in training,
and only if the recipe wants ends to be learned. Labels come from positions, never from the pad id.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galvan.rundir import Document

IGNORE = -100
_BYTE_FALLBACK = re.compile("<0x[0-9A-F]{2}>")
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRow:
    """One training row: ids and labels of shape [T]; labels[t] is ids[t] where it is trained on and IGNORE elsewhere."""

    id: str
    input_ids: Ids
    labels: Ids
    cut_tokens: int = 0
    cut_supervised: int = 0  # of the cut tokens, those that would have been learned
    way: str = "text"  # how the learned part was found
    straddling: int = 0  # tokens that hold characters of prompt and completion both

    @property
    def n_supervised(self) -> int:
        """Targets that enter the loss; position 0 is never one."""
        return int((self.labels[1:] != IGNORE).sum())


def adds_bos(tokenizer: Any) -> bool:
    """True if the tokenizer puts BOS in front of plain text by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def first_token_rule(tokenizer: Any) -> str:
    """The rule in words, for the record."""
    return "bos-prepended" if adds_bos(tokenizer) else "first-token-is-context"


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Ids of each text alone, no special tokens added; a special token spelled out in the text stays text."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def first_token_bytes(tokenizer: Any, text: str) -> int:
    """UTF-8 bytes of the first token of `text`; a byte-level token may end inside a character."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    end = encoded["offset_mapping"][0][1]
    if len(encoded["input_ids"]) == 1 or encoded["offset_mapping"][1][0] >= end:
        return len(text[:end].encode("utf-8"))
    piece = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    return 1 if _BYTE_FALLBACK.fullmatch(piece) else len(piece)  # a byte-level piece spells each byte as one character


def training_rows(tokenizer: Any, documents: Sequence[Document], max_tokens: int | None, learn_eos: bool) -> list[TokenRow]:
    """Rows of at most `max_tokens` ids each. Plain text: BOS by the first-token rule, the text, EOS if `learn_eos`; see `encode` for
    the other shapes.

    Truncation cuts the tail, EOS with it: a text whose end was not seen must not teach that it ended.
    """
    from galvan.data.encode import encode

    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    eos = [tokenizer.eos_token_id] if learn_eos and tokenizer.eos_token_id is not None else []
    plain = iter(encode_texts(tokenizer, [d.text for d in documents if d.payload is None]))
    rows = []
    for document in documents:
        if document.payload is not None:
            e = encode(tokenizer, document, learn_eos)
            end = len(e.input_ids) if max_tokens is None else min(max_tokens, len(e.input_ids))
            lost = int((e.labels[max(1, end) :] != IGNORE).sum())
            rows.append(TokenRow(document.id, e.input_ids[:end], e.labels[:end], len(e.input_ids) - end, lost, e.way, e.straddling))
            continue
        ids = next(plain)
        whole = np.concatenate([np.array(bos, dtype=np.int64), ids, np.array(eos, dtype=np.int64)])
        kept = whole if max_tokens is None else whole[:max_tokens]
        labels = kept.copy()
        labels[:1] = IGNORE
        rows.append(TokenRow(document.id, kept, labels, len(whole) - len(kept), len(whole) - len(kept)))
    return rows
