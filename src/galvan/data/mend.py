"""Mending a text in place: wrong encodings, markup, hard line breaks, invisible characters. Each step is one function, text to text.

A step changes a text or leaves it; whether it runs is the recipe's choice, and each change is counted with an example.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import ftfy
from ftfy.badness import is_bad

from galvan import recipe
from galvan.text import has_hostile, unix_lines, visible, without_marks

Mend = Callable[[str], str]

# Only what is certainly damage: quotes, ligatures, widths and entities may be the author's own.
_FTFY = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False,
    fix_line_breaks=False, remove_control_chars=False, normalization=None,
)  # fmt: skip

_TAG = re.compile(r"<(?:!--.*?--|(/?)([a-zA-Z][a-zA-Z0-9]{0,15})(?:\s[^<>]*)?/?)>", re.DOTALL)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BLOCKS = "p div br li ul ol tr table h1 h2 h3 h4 h5 h6 blockquote section article hr pre"
_INLINE = (
    "a abbr b big body center cite code dd del dfn dl dt em font footer head header html i img ins kbd link main mark meta nav q s samp "
    "script small span strike strong style sub sup tbody td tfoot th thead title tt u var wbr"
)
_BREAKING = frozenset(_BLOCKS.split())
_KNOWN = _BREAKING | frozenset(_INLINE.split())
_MARKDOWN = (
    (re.compile(r"^```[^\n]*\n?", re.MULTILINE), ""),  # fences; the code between them stays
    (re.compile(r"!?\[([^\[\]\n]*)\]\([^()\s]*(?:\s\"[^\"\n]*\")?\)"), r"\1"),
    (re.compile(r"^ {0,3}#{1,6} +(.*?)(?: +#+)? *$", re.MULTILINE), r"\1"),
    (re.compile(r"^ {0,3}> ?", re.MULTILINE), ""),
    (re.compile(r"^ {0,3}(?:[-*_] *){3,}$", re.MULTILINE), ""),
    (re.compile(r"^(\s{0,3})[-*+] +", re.MULTILINE), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!`)`([^`\n]+)`(?!`)"), r"\1"),
)
_WRAPPED_AT_LEAST, _WRAPPED_SHARE, _WRAPPED_AT_MOST = 45, 0.6, 90


def steps(how: recipe.Cleaning) -> list[tuple[str, Mend]]:
    """The steps that `how` asks for, in order, each under the name that `audit.json` counts it by."""
    every: list[tuple[str, bool, Mend]] = [
        ("encoding repaired", how.repair, repair),
        ("html removed", how.markup in ("html", "markdown"), without_html),
        ("markdown removed", how.markup == "markdown", without_markdown),
        ("invisible characters removed", how.invisible, without_invisible),
        ("lines unwrapped", how.unwrap, unwrapped),
    ]
    return [(name, mend) for name, asked, mend in every if asked]


FOR_UNUSUAL = frozenset({"encoding repaired", "invisible characters removed"})  # these leave a text alone that `is_plain`


def repair(text: str) -> str:
    """Undo decoding in the wrong encoding ("Ã©" for "é"), by ftfy, where its own test for damage finds any.

    Every such damage holds another character than ASCII and the usual quotes and dashes, which no encoding reads a first byte as.
    """
    return text if without_marks(text).isascii() or not is_bad(text) else ftfy.fix_text(text, _FTFY)


def without_invisible(text: str) -> str:
    """No control, bidirectional or zero-width characters; other line ends than \\n are line ends, not damage."""
    if not has_hostile(text):
        return text
    lines = unix_lines(text)
    seen = visible(lines)
    return text if seen == lines else seen


def without_html(text: str) -> str:
    """No HTML tags, comments, scripts and entities; a tag that begins a block becomes a line break.

    Only tags that HTML has are taken for tags: "<she paused>" is the author's.
    """
    if "<" in text:
        text = _TAG.sub(_tag, _HIDDEN.sub("", text))
    return html.unescape(text) if "&" in text and ";" in text else text


def _tag(match: re.Match[str]) -> str:
    name = (match.group(2) or "").lower()
    if name and name not in _KNOWN:
        return match.group()
    return "\n" if name in _BREAKING else ""


def without_markdown(text: str) -> str:
    """No marks of headings, emphasis, links, quotes, lists and code; their words stay."""
    if not any(mark in text for mark in "#*_`[>-+"):
        return text
    for pattern, instead in _MARKDOWN:
        text = pattern.sub(instead, text)
    return text


def unwrapped(text: str) -> str:
    """Paragraphs on one line each, where they were broken at a fixed width; verse, lists and short lines are left as they are.

    A paragraph was hard-wrapped if at least three in five of its lines but the last are 45 to 90 characters long and none is longer.
    """
    if "\n" not in text:
        return text
    return re.sub(r"(?:^[^\n]*\S[^\n]*(?:\n|\Z)){2,}", _unwrap, text, flags=re.MULTILINE)


def _unwrap(match: re.Match[str]) -> str:
    lines = match.group().rstrip("\n").split("\n")
    full = sum(len(line) >= _WRAPPED_AT_LEAST for line in lines[:-1])
    indented = sum(line[:1].isspace() for line in lines[1:])
    if full < _WRAPPED_SHARE * (len(lines) - 1) or max(map(len, lines)) > _WRAPPED_AT_MOST or indented:
        return match.group()
    verse = sum(line[:1].isupper() for line in lines[1:]) > 0.8 * (len(lines) - 1) and len(lines) > 3
    return match.group() if verse else " ".join(line.strip() for line in lines) + "\n" * match.group().endswith("\n")
