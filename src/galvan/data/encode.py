"""From a document of any shape to ids, labels and the tokens that are scored: one rule for training, scoring and generation.

Labels come from characters, not from ids: a token is learned if it holds a character of what is to be learned. So a pad token that is
also EOS changes nothing, and a token that straddles prompt and completion (E05) is learned and counted. Position 0 is never a target.

Scored are the learned tokens of the words themselves: what closes a turn (end-of-text, end-of-turn and what follows them) is left to the
training, because both arms find it easy and it would dilute the figure (METHODS S3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galvan.data import chat as chats
from galvan.data.tokens import IGNORE, Ids, adds_bos
from galvan.errors import DataError
from galvan.payload import Chat, Pair, Tokens
from galvan.rundir import Document
from galvan.text import shown

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document whole, shapes [T]: ids, labels (IGNORE where not learned) and which tokens are scored.

    `way` says how the learned part was found; `straddling` counts tokens that hold characters of prompt and completion both;
    `n_bytes` are the UTF-8 bytes of the scored tokens.
    """

    input_ids: Ids
    labels: Ids
    scored: Mask
    n_bytes: int
    way: str
    straddling: int = 0


def encode(tokenizer: Any, document: Document, learn_eos: bool) -> Encoded:
    """Ids and labels of a document that has a payload, untruncated; DataError where it cannot be encoded."""
    if isinstance(document.payload, Pair):
        return _pair(tokenizer, document.payload, learn_eos)
    if isinstance(document.payload, Chat):
        return _chat(tokenizer, document, document.payload, learn_eos)
    assert isinstance(document.payload, Tokens)
    return _tokens(tokenizer, document, document.payload)


def prompt_ids(tokenizer: Any, document: Document) -> list[int]:
    """What the model is given to continue, for generation: the ids with which the training row of the same document begins."""
    if isinstance(document.payload, Pair):
        return _bos(tokenizer) + _ids_of(tokenizer, document.payload.prompt, literal=True)
    if isinstance(document.payload, Chat):
        literal = chats.template_of(tokenizer) is None
        bos = _bos(tokenizer) if literal else []
        return bos + _ids_of(tokenizer, chats.generation_text(tokenizer, document.payload), literal)
    return _bos(tokenizer)


def _bos(tokenizer: Any) -> list[int]:
    return [tokenizer.bos_token_id] if adds_bos(tokenizer) else []


def _ids_of(tokenizer: Any, text: str, literal: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=literal, verbose=False)["input_ids"])


def _pair(tokenizer: Any, pair: Pair, learn_eos: bool) -> Encoded:
    """BOS by the first-token rule, prompt and completion tokenised as one text, EOS if it is learned."""
    text, spans = pair.prompt + pair.completion, [(len(pair.prompt), len(pair.prompt) + len(pair.completion))]
    return _encoded(tokenizer, text, spans, "completion", True, learn_eos)


def _chat(tokenizer: Any, document: Document, chat: Chat, learn_eos: bool) -> Encoded:
    rendered = chats.render(tokenizer, chat, f"Document {document.id}")
    literal = rendered.way == "no template"
    last = len(chat.messages) - 1
    closes = learn_eos and chat.learned()[-1] == last and (literal or not _closed(tokenizer, rendered))
    return _encoded(tokenizer, rendered.text, rendered.spans, rendered.way, literal, closes)


def _closed(tokenizer: Any, rendered: chats.Rendered) -> bool:
    """True if the template itself ends the last learned turn with a special token."""
    tail = rendered.text[rendered.spans[-1][0] :].rstrip() if rendered.spans else ""
    return any(tail.endswith(token) for token in chats.special_tokens(tokenizer))


def _encoded(tokenizer: Any, text: str, spans: Sequence[chats.Span], way: str, literal: bool, add_eos: bool) -> Encoded:
    """`literal`: special tokens spelled in the text stay text and BOS is ours to add; else the template wrote them."""
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=literal, return_offsets_mapping=True, verbose=False)
    bos = _bos(tokenizer) if literal else []
    eos = [tokenizer.eos_token_id] if add_eos and tokenizer.eos_token_id is not None else []
    ids = np.array([*bos, *found["input_ids"], *eos], dtype=np.int64)
    offsets = [(0, 0)] * len(bos) + list(found["offset_mapping"]) + [(len(text), len(text))] * len(eos)
    special = set() if literal else {tokenizer.convert_tokens_to_ids(token) for token in chats.special_tokens(tokenizer)}
    learned, scored, straddling, n_bytes = np.zeros(len(ids), bool), np.zeros(len(ids), bool), 0, 0
    for begin, end in spans:
        inside = [t for t in range(len(bos), len(ids) - len(eos)) if offsets[t][0] < end and offsets[t][1] > begin]
        learned[inside] = True
        straddling += sum(offsets[t][0] < begin for t in inside)
        closing = max((n for n, t in enumerate(inside) if int(ids[t]) in special), default=len(inside))
        words = [t for t in inside[:closing] if int(ids[t]) not in special and t > 0]
        scored[words] = True
        n_bytes += _bytes(text, [(max(offsets[t][0], begin), min(offsets[t][1], end)) for t in words])
    if eos:
        learned[-1] = True
    learned[:1] = False
    return Encoded(ids, np.where(learned, ids, IGNORE), scored, n_bytes, way, straddling)


def _bytes(text: str, spans: Sequence[chats.Span]) -> int:
    """UTF-8 bytes of the characters in `spans`, each counted once (byte-level tokens share a character)."""
    total, at = 0, 0
    for begin, end in spans:
        total += len(text[max(begin, at) : end].encode("utf-8"))
        at = max(at, end)
    return total


def _tokens(tokenizer: Any, document: Document, tokens: Tokens) -> Encoded:
    ids = np.array(tokens.input_ids, dtype=np.int64)
    size = len(tokenizer)
    if ids.max() >= size:
        raise DataError(
            "tokens/vocabulary",
            f"Document {shown(document.id)}: id {ids.max()} is not in the tokenizer's vocabulary of {size:,}; it was made by another tokenizer.",
        )
    labels = ids.copy() if tokens.labels is None else np.array(tokens.labels, dtype=np.int64)
    labels[:1] = IGNORE
    special = set(tokenizer.all_special_ids)
    scored = (labels != IGNORE) & np.array([int(i) not in special for i in ids])
    n_bytes = len(tokenizer.decode(ids[scored].tolist(), clean_up_tokenization_spaces=False).encode("utf-8"))
    return Encoded(ids, labels, scored, n_bytes, "input_ids")
