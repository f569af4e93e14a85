"""Words, sentences and the one sanitiser for text that people will see. No dependency, no torch."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

# A full stop after one of these does not end a sentence.
_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "st",
        "messrs",
        "prof",
        "rev",
        "hon",
        "capt",
        "col",
        "gen",
        "lieut",
        "lt",
        "sgt",
        "jr",
        "sr",
        "esq",
        "vol",
        "viz",
        "etc",
        "vs",
        "cf",
        "ed",
        "fig",
        "pp",
        "ch",
        "i.e",
        "e.g",
    ]
)
_SENTENCE_END = re.compile(r"""(?:[.!?\u2026]+|[\u3002\uff01\uff1f])["'\u201d\u2019\u00bb)\]]*(?=\s|$)""")

# Joiners and variation selectors: invisible, but part of how Persian, Hindi and Mongolian words and emoji are spelled.
_SPELLING = "\u034f\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef"
# Everything else that can move a cursor, hide text or reverse its direction: C0, C1, DEL, bidirectional and zero-width marks,
# soft hyphen, blank letters, line and paragraph separators, halves of characters, tags.
_HOSTILE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0"
    "\ufff0-\ufffb\U000e0000-\U000e007f"
)
_REMOVED = re.compile(f"[{_HOSTILE}]")
_UNSAFE = re.compile(f"[{_HOSTILE}{_SPELLING}]")


# Typographic marks that are replaced before the fast path asks whether a text is ASCII; most English prose then is.
_MARKS = (("\u2019", "'"), ("\u2018", " "), ("\u201c", " "), ("\u201d", " "), ("\u2014", " "), ("\u2013", " "), ("\u2026", " "))
_ASCII_WORDS = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum() and chr(code) != "'"})
_OUTER_APOSTROPHE = re.compile("'(?:(?![a-z0-9])|(?<![a-z0-9]'))")


USUAL_MARKS = "".join(mark for mark, _ in _MARKS)
_PLAIN = bytes([9, 10, *range(32, 127)])


def is_plain(text: str) -> bool:
    """Does `text` hold nothing but printable ASCII, line feeds, tabs and those marks? Most English does, and needs no mending."""
    others = text.encode("utf-8", "surrogatepass").translate(None, _PLAIN)
    return not others or not others.decode("utf-8", "surrogatepass").strip(USUAL_MARKS)


def without_marks(text: str) -> str:
    """`text` with curly apostrophes straight and typographic quotes, dashes and ellipses as spaces."""
    if text.isascii():
        return text
    for mark, instead in _MARKS:
        text = text.replace(mark, instead)
    return text


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe inside a word belongs to it.

    ASCII text is split by a table, ten times faster than by the expression, which says what a word is.
    """
    plain = without_marks(text)
    if not plain.isascii():
        return [match.group().lower().replace("\u2019", "'") for match in _WORD.finditer(text)]
    plain = plain.lower().translate(_ASCII_WORDS)
    return (_OUTER_APOSTROPHE.sub(" ", plain) if "'" in plain else plain).split()


def has_words(text: str, least: int) -> bool:
    """Has `text` at least that many words? No more of it is read than it takes to know."""
    return least < 1 or _words_at_least(least).match(text) is not None


@lru_cache
def _words_at_least(count: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[\W_]*+[^\W_]++(?:['\u2019][^\W_]++)*+){{{count}}}")


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each of `words(text)` stands in `text`: offsets of its begin and end."""
    return [match.span() for match in _WORD.finditer(text)]


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets just behind each sentence and the white space that follows it; the last is `len(text)`.

    Abbreviations ("Mr."), initials ("M. de Lacey") and any mark before a lower-case letter ("Alas! how") do not end a sentence.
    """
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        if end < len(text) and not text[end].islower() and not _abbreviates(text, match, end):
            yield end
    if text:
        yield len(text)


def _abbreviates(text: str, stop: re.Match[str], next_start: int) -> bool:
    """Is this full stop part of the word before it, as in "Mr. Walton", "M. de Lacey" or "No. 5" (but not "No. Never")?"""
    before = text[max(0, stop.start() - 12) : stop.start()].split()
    if stop.group()[0] != "." or not before:
        return False
    last = before[-1].lower().lstrip("([\"'\u201c\u2018")
    if last in {"no", "nos"}:
        return text[next_start].isdigit()
    return last in _ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last != "i")


_BLANK_LETTERS = ("\u115f", "\u1160", "\u3164", "\uffa0")  # letters to Unicode, nothing to the eye


def has_hostile(text: str) -> bool:
    """Does `text` hold anything but plain characters, spaces, tabs and \\n? Asked first, because it is quick and mostly False."""
    if text.replace("\n", " ").replace("\t", " ").isprintable():
        return not text.isascii() and any(letter in text for letter in _BLANK_LETTERS)
    return True


def visible(text: str) -> str:
    """`text` without control, bidirectional, zero-width and other invisible characters but those of spelling."""
    return _REMOVED.sub("", text) if has_hostile(text) else text


def unix_lines(text: str) -> str:
    """Line ends of every kind as \\n, no-break spaces as spaces."""
    return re.sub("\r\n?|[\x0b\x0c\x85\u2028]", "\n", text).replace("\u2029", "\n\n").replace("\u00a0", " ")


def tidy(text: str, invisible: bool = True, plain: bool | None = None) -> str:
    """NFC, Unix line ends, no trailing blanks, at most one blank line in a row, no invisible characters but those of spelling.

    Where `invisible` is False the last of these is left undone. Each step is taken only where a quick look finds something for it;
    `plain` is what `is_plain` says of the text, where that is known.
    """
    plain = is_plain(text) if plain is None else plain
    odd = not plain and has_hostile(text)
    if odd:
        text = unix_lines(text)
        text = visible(text) if invisible else text
    if not plain and not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if odd or " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()


# Access tokens of the services that people train with, by their published shapes, and private keys in PEM. No prose holds one.
SECRET = "[secret removed]"
SECRET_HINTS = {  # by a letter that all of a line hold: most prose is done with after one or two quick looks
    "_": (
        "hf_",
        "api_org_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "npm_",
        "gsk_",
        "r8_",
        "_live_",
        "dop_v1_",
        "wandb_v1_",
    ),
    "-": ("sk-", "glpat-", "xox", "pypi-", "nvapi-", "PRIVATE KEY"),
    "J": ("eyJ",),
    "A": ("AKIA", "ASIA", "AIza"),
}
_SECRETS = re.compile(
    r"(?:hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}|sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}"
    r"|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[0-9][A-Za-z0-9-]{9,}|(?<![A-Z0-9])A(?:KI|SI)A[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,}|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37,}|[rs]k_live_[A-Za-z0-9]{16,}|dop_v1_[a-f0-9]{64}|wandb_v1_[A-Za-z0-9_]{40,}"
    r"|nvapi-[A-Za-z0-9_-]{40,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
    r"|-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s:,]|\\n|\\r)*(?:-----END (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
)


def has_secret(text: str) -> bool:
    """Does `text` hold what has the shape of an access token or a private key?"""
    return _hinted(text) and _SECRETS.search(text) is not None


def without_secrets(text: str) -> str:
    """`text` with SECRET in the place of every access token and private key."""
    return _SECRETS.sub(SECRET, text) if _hinted(text) else text


def _hinted(text: str) -> bool:
    return any(hint in text for letter, hints in SECRET_HINTS.items() if letter in text for hint in hints)


def shown(text: str, limit: int | None = None) -> str:
    """`text` made safe for a terminal, a page or a log: unsafe characters are spelled out, access tokens removed, lines are kept.

    This is the only way text from data or models may reach people; the page and Markdown printers escape further.
    """
    safe = without_secrets(_UNSAFE.sub(_spelled, _unhidden(text)))
    if limit is not None and len(safe) > limit:
        safe = safe[: max(0, limit - 1)].rstrip() + "\u2026"
    return safe


def json_shown(document: str) -> str:
    """A JSON document in which unsafe characters are written as JSON escapes: safe for a terminal, valid UTF-8, and the same values but
    for access tokens, which go into no file."""
    document = without_secrets(_unhidden(document))
    if is_plain(document):
        return document
    return _UNSAFE.sub(lambda match: json.dumps(match.group())[1:-1], document)


def _unhidden(text: str) -> str:
    """`text` without its unsafe characters where these hide an access token, which nobody would see and anybody could mend."""
    if is_plain(text):
        return text
    bare = _UNSAFE.sub("", text)
    return bare if len(bare) != len(text) and has_secret(bare) else text


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
