"""Held-out documents with the likelihood of each token under both arms: what the page colours. Read from the run's files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from galvan.compare import TEST, TUNED, paired, read_scores
from galvan.errors import DataError
from galvan.rundir import each_document
from galvan.text import shown

MOST_SHOWN = 60  # documents; the best, the worst and, evenly by rank, those between
MOST_TOKENS = 320  # of a document; one page must not grow with the data
SHADES = (0.25, 1.0, 2.5)  # nats that a token gained or lost, from which on it is shaded lightly, more, most


class Piece(NamedTuple):
    """The text that one token adds, and its NLL in nats."""

    text: str
    base_nats: float
    tuned_nats: float

    @property
    def shade(self) -> str:
        """g1 to g3 where the tuned model gained, l1 to l3 where it lost, empty below 0.25 nats."""
        gain = self.base_nats - self.tuned_nats
        level = sum(abs(gain) >= edge for edge in SHADES)
        return "" if not level else f"{'g' if gain > 0 else 'l'}{level}"


@dataclass(frozen=True, slots=True)
class Passage:
    """One held-out document; NLLs in nats a token. `pieces` is empty where the run did not keep its tokens' texts: then `text` has no colours.

    `more` says that the document goes on. `rank` counts from 1, the largest gain.
    """

    rank: int
    document: str
    base_nats: float
    tuned_nats: float
    n_tokens: int
    head: str
    pieces: tuple[Piece, ...]
    text: str
    more: bool

    @property
    def gain(self) -> float:
        return self.base_nats - self.tuned_nats

    @property
    def name(self) -> str:
        """The document's id with its middle left out: the end is what tells neighbours apart."""
        name = shown(" ".join(self.document.split()))
        return name if len(name) <= 28 else f"{name[:18]}…{name[-9:]}"

    def runs(self) -> Iterator[tuple[str, str]]:
        """Neighbours of one shade together: (shade, text)."""
        for shade, some in groupby(self.pieces, key=lambda piece: piece.shade):
            yield shade, "".join(piece.text for piece in some)


@dataclass(frozen=True, slots=True)
class Passages:
    """Those that are shown, the largest gain first, of `n_documents`."""

    shown: tuple[Passage, ...]
    n_documents: int


def passages(folder: Path) -> Passages:
    """The held-out documents of a run by gain. DataError where one of its files is damaged."""
    base, tuned = paired(read_scores(folder / "scores.parquet"), TUNED, TEST)
    gains = (base.nll_nats - tuned.nll_nats) / base.n_tokens
    order = sorted(range(len(base.documents)), key=lambda i: (-gains[i], base.documents[i]))
    picked = [(rank, order[rank]) for rank in evenly(len(order), MOST_SHOWN)]
    wanted = {base.documents[i] for _, i in picked}
    path = folder / "data" / "test.jsonl"
    texts = {d.id: d.text for d in each_document(path) if d.id in wanted} if path.is_file() else {}
    known = _pieces(folder / "pieces.parquet", wanted)
    found = []
    for rank, i in picked:
        name, n = base.documents[i], int(base.n_tokens[i])
        head, pieces = known.get(name, ("", []))
        same = len(pieces) == len(base.tokens[i])  # of other tokens than these nothing could be coloured
        rows = zip(pieces, base.tokens[i].tolist(), tuned.tokens[i].tolist(), strict=True) if same else ()
        coloured = tuple(Piece(shown(text), b, t) for text, b, t in rows)[:MOST_TOKENS]
        text = texts.get(name, "")
        found.append(
            Passage(
                rank + 1, name, float(base.nll_nats[i]) / n, float(tuned.nll_nats[i]) / n, n, shown(head), coloured,
                shown(text, 5 * MOST_TOKENS), n > len(coloured) if coloured else len(text) > 5 * MOST_TOKENS,
            )
        )  # fmt: skip
    return Passages(tuple(found), len(order))


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of 0..n-1, the first and the last among them."""
    return list(range(n)) if n <= most else [round(i * (n - 1) / (most - 1)) for i in range(most)]


def _pieces(path: Path, wanted: set[str]) -> Mapping[str, tuple[str, Sequence[str]]]:
    """By document the text before the first scored token, and what each scored token adds."""
    if not path.is_file():
        return {}
    found: dict[str, tuple[str, Sequence[str]]] = {}
    try:
        with pq.ParquetFile(path) as stream:
            for batch in stream.iter_batches(batch_size=256, columns=["document", "head", "pieces"]):
                for row in batch.to_pylist():
                    if row["document"] in wanted:
                        found[row["document"]] = (row["head"], row["pieces"])
    except (OSError, pa.ArrowException, TypeError):
        raise DataError("run/damaged", f"{path.name}: not readable; delete the file and run again.") from None
    return found


def span(found: Passages) -> tuple[float, float]:
    """Both ends of an axis that holds every dot, in nats a token, on round numbers."""
    values = [v for p in found.shown for v in (p.base_nats, p.tuned_nats) if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return math.floor(4 * low - 0.2) / 4, math.ceil(4 * high + 0.2) / 4
