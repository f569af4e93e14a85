"""Style measures: each one function from a normalised text to a number, or None where the text is too short for it.

To add one, write it here with `@measure("a phrase that a writer understands")`; the score, the table of what moved and the page
docs/style.md all take it from there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from galvan.style.normalise import tokens
from galvan.text import sentence_ends

MATTR_WINDOW, MTLD_THRESHOLD = 50, 0.72


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure and its phrase; the function takes a normalised text."""

    name: str
    phrase: str
    function: Callable[[str], float | None]

    def __call__(self, text: str) -> float | None:
        return self.function(text)


MEASURES: list[Measure] = []


def measure(phrase: str) -> Callable[[Callable[[str], float | None]], Measure]:
    """Declare a style measure under its function's name."""

    def declare(function: Callable[[str], float | None]) -> Measure:
        MEASURES.append(
            Measure(function.__name__, phrase, lru_cache(maxsize=4096)(function))
        )  # every judgement asks the same voices
        return MEASURES[-1]

    return declare


def per_hundred_words(text: str, mark: str) -> float | None:
    """How often `mark` stands in a text, per 100 words; None without a word."""
    n = len(tokens(text))
    return 100 * text.count(mark) / n if n else None


@measure("commas per 100 words")
def commas(text: str) -> float | None:
    return per_hundred_words(text, ",")


@measure("semicolons per 100 words")
def semicolons(text: str) -> float | None:
    return per_hundred_words(text, ";")


@measure("colons per 100 words")
def colons(text: str) -> float | None:
    return per_hundred_words(text, ":")


@measure("full stops per 100 words")
def full_stops(text: str) -> float | None:
    return per_hundred_words(text, ".")


@measure("exclamation marks per 100 words")
def exclamation_marks(text: str) -> float | None:
    return per_hundred_words(text, "!")


@measure("question marks per 100 words")
def question_marks(text: str) -> float | None:
    return per_hundred_words(text, "?")


@measure("quotation marks per 100 words")
def quotation_marks(text: str) -> float | None:
    return per_hundred_words(text, '"')


@measure("dashes per 100 words")
def dashes(text: str) -> float | None:
    return per_hundred_words(text, "\u2014")


@measure("words in a sentence, on average")
def sentence_length(text: str) -> float | None:
    lengths = sentence_lengths(text)
    return sum(lengths) / len(lengths) if lengths else None


@measure("how much sentence lengths vary (standard deviation in words)")
def sentence_length_spread(text: str) -> float | None:
    lengths = sentence_lengths(text)
    if len(lengths) < 2:
        return None
    mean = sum(lengths) / len(lengths)
    return math.sqrt(sum((n - mean) ** 2 for n in lengths) / (len(lengths) - 1))


@measure("letters in a word, on average")
def word_length(text: str) -> float | None:
    found = tokens(text)
    return sum(map(len, found)) / len(found) if found else None


@measure("variety of words: share of different ones in any 50 in a row (MATTR)")
def moving_average_variety(text: str) -> float | None:
    return mattr(tokens(text))


@measure("variety of words: how many words pass before they repeat themselves (MTLD)")
def lexical_diversity(text: str) -> float | None:
    return mtld(tokens(text))


def sentence_lengths(text: str) -> list[int]:
    """Words in each sentence of a text; sentences without a word do not count."""
    ends = [0, *sentence_ends(text)]
    return [n for start, end in itertools.pairwise(ends) if (n := len(tokens(text[start:end])))]


def mattr(words: Sequence[str], window: int = MATTR_WINDOW) -> float | None:
    """Mean share of different words over all windows (Covington & McFall 2010); None for a text shorter than one."""
    if len(words) < window:
        return None
    counts: dict[str, int] = {}
    total = 0
    for i, word in enumerate(words):
        counts[word] = counts.get(word, 0) + 1
        if i >= window:
            old = words[i - window]
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        if i >= window - 1:
            total += len(counts)
    return total / window / (len(words) - window + 1)


def mtld(words: Sequence[str], threshold: float = MTLD_THRESHOLD) -> float | None:
    """Words per factor, mean of both directions (McCarthy & Jarvis 2010); None without a word."""
    return (_one_way(words, threshold) + _one_way(words[::-1], threshold)) / 2 if words else None


def _one_way(words: Sequence[str], threshold: float) -> float:
    """A factor ends where the share of different words falls to the threshold; what is left over counts by how far it came."""
    seen: set[str] = set()
    factors, n, share = 0.0, 0, 1.0
    for word in words:
        n += 1
        seen.add(word)
        share = len(seen) / n
        if share <= threshold:
            factors, n, share = factors + 1, 0, 1.0
            seen.clear()
    factors += (1 - share) / (1 - threshold)
    return len(words) / (factors or 1.0)
