"""Other voices that come with galvan, for the check that they lie farther from the author than the author does (METHODS S4.7).

Six hands of `galvan/letters` and three registers of `galvan/plain` (3,500 words each), all English. With their further papers five hands
make 60 passages of 150 words, the most that is judged; the sixth, Judith Ferrar, makes 45, and a register 23 to 25.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

from galvan.data.overlap import Corpus, documents_sharing
from galvan.data.read import read
from galvan.style.normalise import first_words, normalise, tokens
from galvan.text import words

LANGUAGE = "English"
OWN_RUN = 20  # words; letters that answer each other quote less
HANDS = ("Judith Ferrar", "Ambrose Vell", "Keeper", "Penhallow", "Tobias Arkwright", "Isolde Marchmont", "Edmund Ferrar")
MOST_PASSAGES = 60


def other_voices(author: Sequence[str]) -> dict[str, list[str]]:
    """Texts by voice; a voice that shares a run of 20 words with `author` is the author's own and left out."""
    own = Corpus([words(text) for text in author])
    return {name: list(texts) for name, (texts, corpus) in _bundled().items() if not documents_sharing(own, corpus, OWN_RUN)}


def equal_passages(texts: Sequence[str], words: int) -> list[str]:
    """`texts` one after the other, normalised, in at most MOST_PASSAGES pieces of `words` words (one more where a hyphen joins it); a shorter
    rest is left out."""
    rest = " ".join(normalise(texts))
    found: list[str] = []
    while len(found) < MOST_PASSAGES and len(tokens(piece := first_words(rest, words))) >= words:
        found.append(piece)
        rest = rest[len(piece) :].lstrip()
    return found


@cache
def _bundled() -> dict[str, tuple[list[str], Corpus]]:
    voices: dict[str, list[str]] = {}
    further = (resources.files("galvan") / "assets" / "hands.jsonl").read_text(encoding="utf-8").splitlines()
    papers = [(row.source, row.text) for row in read("galvan/letters")]
    papers += [(row["source"], row["text"]) for row in map(json.loads, further)]
    for source, text in papers:
        sender = source.split(" to ")[0]
        hand = next(name for name in HANDS if name in sender)
        voices.setdefault("the letters of " + ("the keeper" if hand in ("Keeper", "Penhallow") else hand), []).append(text)
    for row in read("galvan/plain", group="register"):
        voices.setdefault(f"plain text, {row.group}", []).append(row.text)
    return {name: (texts, Corpus([words(text) for text in texts])) for name, texts in voices.items()}
