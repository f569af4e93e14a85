"""The one escaper for Markdown: whatever comes from data, names or models passes through `md` or `code`."""

from __future__ import annotations

import re

from galvan.text import shown

_ACTIVE = re.compile(r"[\\`*{}\[\]<>#|~&$!@^=]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|(?<=WWW)\.|^[-+]|^\d+(?=[.)])")
_HARMLESS_SPAN = re.compile(r"(`[\w ./,:()+-]+`)")


def md(value: object, limit: int = 400) -> str:
    """`value` as one line of Markdown text: no control character, no link, image, HTML, formula or list starts in it.

    A code span of letters, digits and `./,:()+-` stays one: our own sentences name commands so, and it can do no harm.
    """
    line = " ".join(shown(str(value)).split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    parts = _HARMLESS_SPAN.split(line) if line.count("`") % 2 == 0 else [line]
    return "".join(part if _HARMLESS_SPAN.fullmatch(part) else _ACTIVE.sub(_escaped, part) for part in parts)


def _escaped(match: re.Match[str]) -> str:
    return match.group() + "\\" if match.group().isdigit() else "\\" + match.group()


def code(value: object, limit: int = 400) -> str:
    """`value` as a code span; data with a backtick in it becomes escaped text instead, because a span could be left."""
    line = " ".join(shown(str(value), limit).split())
    return md(value, limit) if not line or set(line) & set("`<>|") else f"`{line}`"


def commands(lines: list[str]) -> str:
    """Commands of ours in a fenced block; they hold no data other than names made of letters, digits and `._/@-`."""
    assert not any("`" in line or "\n" in line for line in lines)
    return "```bash\n" + "\n".join(lines) + "\n```"


def table(head: list[str], rows: list[list[str]], figures: bool = True) -> str:
    """A table whose cells are already escaped; all but the first column are `figures`, or else words."""
    lines = [head, ["---"] + ["---:" if figures else "---"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
