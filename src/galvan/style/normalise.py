"""One typography for all texts before anything is counted (METHODS S4.2), and what it was before, so that editions are seen, not scored.

A quarter of the distance between two editions of one author can be the printer's quotes and dashes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from galvan.text import visible

_QUOTES = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201a": "'", "\u201b": "'", **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"')}
)
_DASHES = re.compile(r"\s*(?:-{2,}|[\u2014\u2015]|(?<!\d)\u2013|\u2013(?!\d)|(?<=\s)-(?=\s))\s*")
_ELLIPSIS = re.compile(r"\s*(?:\u2026|\.(?: ?\.){2,})( *(?=\w))?")
_MARKUP = re.compile(r"<[a-zA-Z/][^<>\n]{0,200}>|[_*`#]+")
_ELIDED = "(?!(?:tis|twas|twere|twill|twould|em|ee|gainst|neath|til|tother)\\b)"  # 'tis begins with an apostrophe, not with a quote
_OPENING = re.compile(rf"(?<![^\s(\[\u2014\"])'(?=\w){_ELIDED}", re.IGNORECASE)
_CLOSING = re.compile(r"(?<=[.,!?;:\u2026\u2014])'(?!\w)")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Typography:
    """Marks per 1,000 words as the texts came: a difference here is one of edition or model, and is not scored."""

    words: int
    double_quotes: float
    curly_quotes: float
    single_outer_quotes: float
    double_hyphens: float
    long_dashes: float
    spaced_hyphens: float
    ellipses: float
    underscores: float


def typography(texts: Sequence[str]) -> Typography:
    """What the type looks like before it is made equal."""
    text = "\n".join(texts)
    n = len(text.split())

    def per_thousand(pattern: str) -> float:
        return 1000 * len(re.findall(pattern, text)) / n if n else 0.0

    return Typography(
        n, per_thousand('"'), per_thousand("[\u201c\u201d]"), per_thousand("(?<![^\\s(\\[])['\u2018](?=\\w)"), per_thousand("(?<!-)--+"),
        per_thousand("[\u2013\u2014]"), per_thousand("(?<=\\s)-(?=\\s)"), per_thousand("\u2026|\\.(?: ?\\.){2,}"), per_thousand("_"),
    )  # fmt: skip


MARKS = {
    "double_quotes": "straight double quotes", "curly_quotes": "curly double quotes", "single_outer_quotes": "opening single quotes",
    "double_hyphens": "--", "long_dashes": "dashes", "spaced_hyphens": "hyphens between spaces", "ellipses": "ellipses", "underscores": "_",
}  # fmt: skip
VISIBLE, TIMES = 2.0, 3.0  # marks per 1,000 words, and times as many in one set as in another, from which two sets look different


def unlike(sets: Mapping[str, Typography]) -> list[str]:
    """The marks in whose use the sets look different, each with its rate a set, in words."""
    found = []
    for field, phrase in MARKS.items():
        rates = {name: float(getattr(one, field)) for name, one in sets.items()}
        if max(rates.values()) >= VISIBLE and max(rates.values()) > TIMES * min(rates.values()):
            found.append(f"{phrase}: " + ", ".join(f"{name.replace('_', '-')} {rate:.1f}" for name, rate in rates.items()))
    return found


def normalise(texts: Sequence[str], sources: Sequence[str] | None = None) -> list[str]:
    """`texts` in one typography: NFC, straight quotes, the outer quote `"`, dashes ` \u2014 `, ellipses `\u2026`, no markup, single spaces.

    Which mark a source quotes speech with is decided once for each of `sources` (None: all texts are of one).
    """
    plain = [_plain(text) for text in texts]
    names = list(sources) if sources is not None else [""] * len(plain)
    single = {name: _quotes_singly(" ".join(t for t, n in zip(plain, names, strict=True) if n == name)) for name in set(names)}
    return [_CLOSING.sub('"', _OPENING.sub('"', text)) if single[name] else text for text, name in zip(plain, names, strict=True)]


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", visible(text)).translate(_QUOTES)
    text = _ELLIPSIS.sub(lambda match: "\u2026" if match[1] is None else "\u2026 ", _DASHES.sub(" \u2014 ", _MARKUP.sub("", text)))
    return " ".join(text.split())


def _quotes_singly(text: str) -> bool:
    """Does speech open with a single quote here? Its opening marks then outnumber the pairs of double ones."""
    return len(_OPENING.findall(text)) > text.count('"') / 2


@lru_cache(maxsize=8192)  # every measure asks, and a set is a few hundred texts
def tokens(normal: str) -> tuple[str, ...]:
    """Lower-case words of a normalised text, an apostrophe inside a word belonging to it."""
    return tuple(_WORD.findall(normal.lower()))


def first_words(normal: str, n: int) -> str:
    """The beginning of a normalised text, up to and with its `n`th word and the marks that follow it."""
    for count, match in enumerate(_WORD.finditer(normal), 1):
        if count == n:
            end = normal.find(" ", match.end())
            return normal if end < 0 else normal[:end]
    return normal


def distorted(normal: str, kept: frozenset[str]) -> str:
    """Every word outside `kept` as one `*` (Stamatatos 2017, DV-SA), so that names and topics cannot be told apart."""
    return _WORD.sub(lambda match: match.group() if match.group() in kept else "*", normal.lower())
