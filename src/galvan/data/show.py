"""Training rows as people can see them: every token, whether it is learned, only read, or cut. For the terminal and for a page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from galvan.data.tokens import IGNORE, TokenRow
from galvan.text import shown

Kind = Literal["trained", "masked", "cut"]
_COLOURS: dict[Kind, str] = {"trained": "\x1b[32m", "masked": "\x1b[2m", "cut": "\x1b[9;31m"}
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token as text that is safe to show, line breaks and tabs spelled out."""

    text: str
    id: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One training row and what would have been cut from it."""

    document: str
    way: str
    tokens: list[ShownToken]

    @property
    def title(self) -> str:
        counts = {kind: sum(token.kind == kind for token in self.tokens) for kind in _COLOURS}
        said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        return f"{shown(self.document)} ({self.way}): {len(self.tokens):,} tokens, {said}"

    def runs(self) -> Iterator[tuple[Kind, list[ShownToken]]]:
        """Neighbouring tokens of one kind together."""
        for kind, tokens in groupby(self.tokens, key=lambda token: token.kind):
            yield kind, list(tokens)


def shown_row(tokenizer: Any, whole: TokenRow, max_tokens: int | None) -> ShownRow:
    """`whole` is the row before truncation to `max_tokens`."""
    tokens = []
    for place, (token_id, label) in enumerate(zip(whole.input_ids.tolist(), whole.labels.tolist(), strict=True)):
        cut = max_tokens is not None and place >= max_tokens
        kind: Kind = "cut" if cut else "masked" if label == IGNORE or place == 0 else "trained"
        tokens.append(ShownToken(_text(tokenizer, token_id), token_id, kind))
    return ShownRow(whole.id, whole.way, tokens)


def _text(tokenizer: Any, token_id: int) -> str:
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if "\ufffd" in text or not text:  # part of a character
        text = str(tokenizer.convert_ids_to_tokens(token_id))
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def to_terminal(rows: Sequence[ShownRow], colour: bool) -> str:
    """In colour: trained green, masked dim, cut struck through. Without: each run on a line that begins with what it is."""
    lines = []
    for row in rows:
        lines.append(row.title)
        if colour:
            lines.append("  " + "|".join(f"{_COLOURS[kind]}{'|'.join(t.text for t in run)}{_PLAIN}" for kind, run in row.runs()))
        else:
            lines += [f"  {kind:7} {'|'.join(token.text for token in run)}" for kind, run in row.runs()]
    return "\n".join(lines)


def to_html(rows: Sequence[ShownRow]) -> str:
    """Spans of class trained, masked and cut, one a token, with its id as title; nothing in it can act on a page."""
    parts = []
    for row in rows:
        spans = "".join(f'<span class="{token.kind}" title="{token.id}">{html.escape(token.text)}</span>' for token in row.tokens)
        parts.append(f'<p class="row-title">{html.escape(row.title)}</p><p class="tokens">{spans}</p>')
    return "\n".join(parts)
