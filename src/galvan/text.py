"""Words, sentences and the one sanitiser for text that people will see. No dependency, no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

# A full stop after one of these does not end a sentence.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr st messrs prof rev hon capt col gen lieut lt sgt jr sr esq vol no nos viz etc vs cf ed fig pp ch i.e e.g".split()
)
_SENTENCE_END = re.compile(r"""(?:[.!?\u2026]+|[\u3002\uff01\uff1f])["'\u201d\u2019\u00bb)\]]*(?=\s|$)""")

# Everything that can move a cursor, hide text or reverse its direction: C0, C1, DEL, bidirectional and zero-width marks,
# line and paragraph separators, tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe inside a word belongs to it."""
    return [match.group().lower().replace("\u2019", "'") for match in _WORD.finditer(text)]


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets just behind each sentence and the white space that follows it; the last is `len(text)`.

    Abbreviations ("Mr."), initials ("M. de Lacey") and a full stop before a lower-case letter do not end a sentence.
    """
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        if match.group()[0] == "." and end < len(text):
            before = text[max(0, match.start() - 12) : match.start()].split()
            last = before[-1].lower().lstrip("(\"'\u201c\u2018") if before else ""
            initial = len(last) == 1 and last.isalpha() and last != "i"
            if last in _ABBREVIATIONS or initial or text[end].islower():
                continue
        if end < len(text):
            yield end
    if text:
        yield len(text)


def tidy(text: str) -> str:
    """NFC, Unix line ends, no trailing blanks, at most one blank line in a row, no unsafe characters."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " "))
    text = _UNSAFE.sub("", text.replace("\u2028", "\n").replace("\u2029", "\n\n"))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def shown(text: str, limit: int | None = None) -> str:
    """`text` made safe for a terminal, a page or a log: unsafe characters are spelled out, lines are kept.

    This is the only way text from data or models may reach people; the page and Markdown printers escape further.
    """
    safe = _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    if limit is not None and len(safe) > limit:
        safe = safe[: max(0, limit - 1)].rstrip() + "\u2026"
    return safe
