"""Lines that are no part of the text: headers and footers repeated from page to page, and page numbers.

Three things are asked of a line before it goes: it stands alone (a blank line or the edge of the text on one side at least), it is
short, and it recurs often in its source with nothing but its digits changed. A greeting that begins many letters is one of those
too, which is why this step runs only where a recipe asks for it, and why everything it takes is counted and shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from galvan.data.rows import Row

_LONGEST_LINE = 80
_FEWEST, _SHARE_OF_ROWS = 5, 0.2
_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"(?<![a-z])[ivxlc]{1,7}(?![a-z])")
_PAGE = re.compile(
    r"[-\u2013\u2014\[(|\s]*(?:(?:page|pg\.?|p\.|seite|pagina|página)\s*)?\d{1,4}(?:\s*(?:/|of|von|de)\s*\d{1,4})?[-\u2013\u2014\])|\s.]*",
    re.IGNORECASE,
)
_PAGE_NUMBER = "page number"


def shape(line: str) -> str:
    """The line without what changes from page to page: digits, roman numerals, case, white space."""
    bare = " ".join(line.lower().split())
    if _PAGE.fullmatch(bare):
        return _PAGE_NUMBER
    return _ROMAN.sub("#", _DIGITS.sub("#", bare))


def candidates(text: str) -> Iterator[tuple[int, str]]:
    """Number and shape of each line that stands alone on one side and is short."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip() or len(line) > _LONGEST_LINE:
            continue
        above = number == 0 or not lines[number - 1].strip()
        below = number == len(lines) - 1 or not lines[number + 1].strip()
        if above or below:
            yield number, shape(line)


def repeated(rows: Iterable[Row]) -> dict[str, frozenset[str]]:
    """By source, the shapes that recur: in one row in five and five rows at least, or five times within one long text.

    Page numbers within a long text count only if they rise, as pages do and the numbers of a list or of chapters rarely do so often.
    """
    rows_of: Counter[str] = Counter()
    times: dict[str, Counter[str]] = {}
    within: dict[str, set[str]] = {}
    for row in rows:
        rows_of[row.source] += 1
        found = Counter(form for _, form in candidates(row.text) if any(map(str.isalnum, form)) or form == _PAGE_NUMBER)
        times.setdefault(row.source, Counter()).update(found.keys())
        often = {
            form
            for form, count in found.items()
            if count >= _FEWEST and (form == _PAGE_NUMBER or "#" in form or count >= 2 * _FEWEST)
        }
        if _PAGE_NUMBER in often and not _rising(row.text):
            often.remove(_PAGE_NUMBER)
        within.setdefault(row.source, set()).update(often)
    return {
        source: frozenset(
            within[source] | {form for form, count in counted.items() if count >= max(_FEWEST, _SHARE_OF_ROWS * rows_of[source])}
        )
        for source, counted in times.items()
    }


def _rising(text: str) -> bool:
    lines = text.split("\n")
    numbers = [
        int(match.group()) for number, form in candidates(text) if form == _PAGE_NUMBER and (match := _DIGITS.search(lines[number]))
    ]
    rises = sum(later > earlier for earlier, later in pairwise(numbers))
    return rises >= 0.9 * (len(numbers) - 1)


def without(text: str, shapes: frozenset[str]) -> tuple[str, list[str]]:
    """`text` without the lines of those shapes, and these lines. A sentence that a page break cut in two is not joined."""
    if not shapes:
        return text, []
    taken = {number for number, form in candidates(text) if form in shapes}
    if not taken:
        return text, []
    lines = text.split("\n")
    return "\n".join(line for number, line in enumerate(lines) if number not in taken), [lines[number] for number in sorted(taken)]
