"""Other voices that come with galvan, for the check that they lie farther from the author than the author does (METHODS S4.7).

Six hands of `galvan/letters` (7,000 words each) and three registers of `galvan/plain` (3,500 words each), all English. Cut to the length
that is judged they make 60 passages a hand up to 105 words, and 43 at 150; half as many a register.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from galvan.data.overlap import Corpus, documents_sharing
from galvan.data.read import read
from galvan.text import words

LANGUAGE = "English"
OWN_RUN = 20  # words; letters that answer each other quote less
HANDS = ("Judith Ferrar", "Ambrose Vell", "Keeper", "Penhallow", "Tobias Arkwright", "Isolde Marchmont", "Edmund Ferrar")


def other_voices(author: Sequence[str]) -> dict[str, list[str]]:
    """Texts by voice; a voice that shares a run of 20 words with `author` is the author's own and left out."""
    own = Corpus([words(text) for text in author])
    return {name: list(texts) for name, (texts, corpus) in _bundled().items() if not documents_sharing(own, corpus, OWN_RUN)}


@cache
def _bundled() -> dict[str, tuple[list[str], Corpus]]:
    voices: dict[str, list[str]] = {}
    for row in read("galvan/letters"):
        sender = row.source.split(" to ")[0]
        hand = next(name for name in HANDS if name in sender)
        voices.setdefault("the letters of " + ("the keeper" if hand in ("Keeper", "Penhallow") else hand), []).append(row.text)
    for row in read("galvan/plain", group="register"):
        voices.setdefault(f"plain text, {row.group}", []).append(row.text)
    return {name: (texts, Corpus([words(text) for text in texts])) for name, texts in voices.items()}
