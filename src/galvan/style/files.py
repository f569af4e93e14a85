"""Text sets from files for `galvan style`: rows as texts, a book cut into passages."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.data.read import read
from galvan.errors import DataError
from galvan.style.samples import MOST_WORDS, Texts
from galvan.text import sentence_ends, shown

LONGEST_ROW = 600  # words; a longer row is a book or a chapter, not one text


def read_texts(source: str, column: str = "text", offline: bool = False) -> Texts:
    """The texts of a file as `data.read` reads it, with their sources; rows of over 600 words are cut at sentence ends near every 150.

    DataError where the file cannot be read or holds no text.
    """
    texts: list[str] = []
    sources: list[str] = []
    for row in read(source, column, offline=offline):
        parts = passages(row.text) if len(row.text.split()) > LONGEST_ROW else [row.text]
        texts += parts
        sources += [row.source] * len(parts)
    if not texts:
        raise DataError(
            "style/empty", f"{shown(source)}: no text was found in it; give a file with one text a row, or a book as txt."
        )
    return Texts(texts, None, sources)


def passages(text: str, words: int = MOST_WORDS) -> Sequence[str]:
    """A long text in pieces of at least `words` words that end with a sentence; a shorter rest is left out."""
    found: list[str] = []
    start, n, previous = 0, 0, 0
    for end in sentence_ends(text):
        n += len(text[previous:end].split())
        previous = end
        if n >= words:
            found.append(text[start:end].strip())
            start, n = end, 0
    return found
