"""What a section of the page is made of. Every string is plain text that the template escapes; only `Markup` from `figures` goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

from galvan.report.passages import Passage

Cell = str | Markup


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph: `lead` is the sentence to read first, `how` says how the figures before it were measured."""

    form: ClassVar[str] = "text"
    text: str
    kind: Literal["plain", "lead", "how", "caution"] = "plain"


@dataclass(frozen=True, slots=True)
class Heading:
    form: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    form: ClassVar[str] = "bullets"
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Checks:
    """Lines with an answer each: True passed, False failed, None not run."""

    form: ClassVar[str] = "checks"
    lines: Sequence[tuple[bool | None, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of each row names it; the others are figures."""

    form: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing that says in its own title and description what it shows."""

    form: ClassVar[str] = "figure"
    drawing: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Code:
    form: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Beside:
    """Texts side by side, each under the name of who wrote it."""

    form: ClassVar[str] = "beside"
    texts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Copied:
    """A shared span beside its source: where it stands, what was written; there, with what stands around it."""

    form: ClassVar[str] = "copied"
    place: str
    text: str
    source: str
    before: str
    same: str
    after: str


@dataclass(frozen=True, slots=True)
class Losses:
    """Documents as paired dots that lead to their passages, between `low` and `high` nats a token; `named` are those shown token by token."""

    form: ClassVar[str] = "losses"
    rows: Sequence[tuple[Passage, Markup]]
    low: float
    high: float
    named: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks under a line that opens them."""

    form: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]
    open: bool = False


Block = Text | Heading | Bullets | Checks | Table | Figure | Code | Beside | Copied | Losses | Fold
