"""What the words of certainty mean: how often a cause, named with that word, was the right one on the fault benchmark.

`assets/certainty.json` holds, by code and word, how many of how many injected runs it was right in; the benchmark writes it. A word that
was measured and did not hold is lowered to the one that did (METHODS topic 8). "certain" is for evidence that decides by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

Certainty = Literal["certain", "very likely", "likely", "cannot tell"]
CERTAINTIES: tuple[Certainty, ...] = ("certain", "very likely", "likely", "cannot tell")
LEAST = {"very likely": (0.9, 0.8), "likely": (0.7, 0.0)}  # share of right namings, and lower end of its 95 % interval

Measured = Mapping[str, Mapping[str, tuple[int, int]]]


def word_for(right: int, of: int) -> Certainty:
    """The strongest word short of "certain" that `right` of `of` allow."""
    from scipy.stats import beta

    share, low = right / of, float(beta.ppf(0.025, right, of - right + 1)) if right else 0.0  # Clopper and Pearson's lower end
    if share >= LEAST["very likely"][0] and low >= LEAST["very likely"][1]:
        return "very likely"
    return "likely" if share >= LEAST["likely"][0] else "cannot tell"


def capped(code: str, word: Certainty, table: Measured | None = None) -> Certainty:
    """`word`, or a weaker one if the benchmark has measured that `word` is too strong for this cause.

    A cause that was right often enough in few runs, too few for an interval of its own, is held to that of all causes named with `word`.
    """
    table = measured() if table is None else table
    counted = table.get(code, {}).get(word)
    if word in ("certain", "cannot tell") or counted is None or not counted[1]:
        return word
    borne_out = word_for(*counted)
    if counted[0] / counted[1] >= LEAST[word][0]:
        every = [words[word] for words in table.values() if word in words]
        borne_out = min(borne_out, word_for(*map(sum, zip(*every, strict=True))), key=CERTAINTIES.index)
    return max(word, borne_out, key=CERTAINTIES.index)


@cache
def measured() -> Measured:
    """The table that the benchmark froze; empty where none was written."""
    path = files("galvan") / "assets" / "certainty.json"
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {code: {word: (int(n[0]), int(n[1])) for word, n in words.items()} for code, words in rows.items()}
