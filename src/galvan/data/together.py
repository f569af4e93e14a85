"""Many texts end to end as one row of numbers: what is rare in texts is looked for in all of them at once, in a tenth of the time.

What is said of a text here is true, or may be: who asks then looks at that text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from galvan.text import SECRET_HINTS, USUAL_MARKS

Codes = NDArray[np.uint16]
Places = NDArray[np.int64]

_ENDS = "_-AJxz"  # rare letters; of every hint one of three letters ends with one of them
_GRAMS = [
    next(hint[end - 2 : end + 1] for end in range(2, len(hint)) if hint[end] in _ENDS)
    for hint in chain.from_iterable(SECRET_HINTS.values())
]
_IS_GRAM = np.zeros(1 << 16, dtype=np.bool_)
_IS_USUAL = np.zeros(1 << 16, dtype=np.bool_)
_IS_USUAL[[*b"\t\n", *range(32, 127), *map(ord, USUAL_MARKS)]] = True


def _number(first: Codes, second: Codes, third: Codes) -> Codes:
    """A number for three letters, which others may have too."""
    number: Codes = (first * np.uint16(31) + second) * np.uint16(31) + third
    return number


_IS_GRAM[_number(*np.array([list(map(ord, gram)) for gram in _GRAMS], dtype=np.uint16).T)] = True


_MOST_KEPT = 1 << 20  # characters
_latest: list[tuple[str, Codes]] = []


def codes_of(texts: Sequence[str]) -> Codes:
    """The texts in UTF-16, a line feed behind each. A code of up to 0xD7FF is that very character.

    The latest are kept, for the next step mostly asks for the same.
    """
    together = "\n".join([*texts, ""])
    if _latest and _latest[0][0] == together:
        return _latest[0][1]
    codes = np.frombuffer(together.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    _latest[:] = [(together, codes)] if len(together) < _MOST_KEPT else []
    return codes


def beyond_ascii(codes: Codes) -> str:
    return codes[codes > 127].tobytes().decode("utf-16-le", "surrogatepass")


def are_usual(others: str) -> bool:
    """Are these all typographic marks of English?"""
    return not others.strip(USUAL_MARKS)


class Together:
    """Some texts, looked at together. Texts are named by their numbers."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._codes = texts, codes_of(texts)

    @cached_property
    def _over(self) -> Places:
        """Where each text is over."""
        over: Places = np.cumsum([len(text) + 1 for text in self._texts]) - 1
        if over[-1] + 1 < len(self._codes):  # a character has two codes
            over = np.cumsum([len(codes_of([text])) for text in self._texts]) - 1
        return over

    def _holding(self, places: Places) -> set[int]:
        return set(np.searchsorted(self._over, places).tolist()) if len(places) else set()

    def hinted(self) -> set[int]:
        """All texts that hold what an access token or a private key has, and few others."""
        codes = self._codes
        is_end = codes == ord(_ENDS[0])
        for end in _ENDS[1:]:
            is_end |= codes == ord(end)
        at = np.flatnonzero(is_end[2:])
        return self._holding(at[_IS_GRAM[_number(codes[at], codes[at + 1], codes[at + 2])]])

    def holds(self, three: str) -> bool:
        """Do these three letters of ASCII stand in any of the texts, in either case?"""
        first, second, third = map(ord, three)
        codes = self._codes
        at = np.flatnonzero(codes[2:] | 32 == third)
        return bool(((codes[at + 1] | 32 == second) & (codes[at] | 32 == first)).any())

    def untidy(self) -> set[int]:
        """All texts that are not `is_plain`, or have blanks at a line's end or two blank lines in a row."""
        codes = self._codes
        at = np.flatnonzero(codes - np.uint16(32) > 94)
        found = codes[at]
        breaks = at[found == 10]
        before = codes[breaks - 1]
        return self._holding(
            np.concatenate(
                [at[~_IS_USUAL[found]], breaks[(before == 32) | (before == 9)], breaks[:-2][breaks[2:] - breaks[:-2] == 2]]
            )
        )

    def without_blanks(self) -> list[bytes]:
        """Of each text its codes but for spaces, tabs and line feeds."""
        codes = self._codes
        kept = (codes != 32) & (codes != 9) & (codes != 10)
        begins = np.append(0, self._over[:-1] + 1)
        ends = (2 * np.cumsum(np.add.reduceat(kept, begins, dtype=np.int64))).tolist()
        letters = codes[kept].tobytes()
        return [letters[begin:end] for begin, end in pairwise([0, *ends])]
