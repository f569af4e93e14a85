"""The same words in another order: text that every scorer which sees word order must find less likely. No torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from galvan.rundir import Document

FEWEST_WORDS = 8  # of fewer words some orders read as well as the real one
_WORD = re.compile(r"\s*\S+")


def shuffled_words(text: str, rng: np.random.Generator) -> str | None:
    """`text` with its words, each with the white space before it, in random order; the first stays where it is.

    So the text keeps its bytes, its first token, and (but for tokens that cross white space) its tokens: a scorer that is blind to order
    gives the same likelihood. None where there are too few words, as in scripts that put no space between them.
    """
    words = _WORD.findall(text)
    if len(words) < FEWEST_WORDS or len(set(words)) < FEWEST_WORDS // 2:
        return None
    order = 1 + rng.permutation(len(words) - 1)
    tail = text[sum(map(len, words)) :]
    mixed = words[0] + "".join(words[i] for i in order) + tail
    return None if mixed == text else mixed


def shuffled_documents(documents: Sequence[Document], number: int, seed: int) -> list[Document]:
    """The first `number` documents that can be shuffled, under their own ids; not those whose tokens or turns are scored, not their text."""
    found: list[Document] = []
    for index, document in enumerate(documents):
        if len(found) == number:
            break
        text = shuffled_words(document.text, np.random.default_rng([seed, index])) if document.payload is None else None
        if text is not None:
            found.append(dataclasses.replace(document, text=text))
    return found
