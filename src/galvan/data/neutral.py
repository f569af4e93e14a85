"""Text that has nothing to do with the author, on which forgetting is measured: the bundled one, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from galvan.data.cut import Offsets, cut, in_order
from galvan.data.overlap import Corpus, documents_sharing
from galvan.data.read import read
from galvan.data.rows import Row
from galvan.rundir import Document
from galvan.text import words

BUNDLED = "galvan/plain"
DOCUMENT_TOKENS = 512
MOST = 100
SHARED_RUN = 20  # words in a row that stand in the training text too: such a document is no neutral one (METHODS S6.1, S5.6)
FEWEST = 50  # documents, below which METHODS S6.1 does not call it a measurement of what was kept


def neutral_rows(source: str, offline: bool = False) -> list[Row]:
    """The rows of `source`; of the bundled text the register stands in `group`."""
    return list(read(source, group="register" if source == BUNDLED else None, offline=offline))


def neutral_documents(source: str, offsets: Offsets, offline: bool = False) -> list[Document]:
    """At most MOST documents of at most DOCUMENT_TOKENS tokens, spread evenly over `source`; longer texts are cut at sentence ends."""
    pieces = [p for p in cut(in_order(neutral_rows(source, offline)), DOCUMENT_TOKENS, offsets) if p.text.strip()]
    whole = [p for p in pieces if p.number <= 1]  # the rest of a long text is no document of its own, unless there are too few
    pieces = whole if len(whole) >= FEWEST else pieces
    every = max(1, -(-len(pieces) // MOST))
    return [Document(f"neutral-{n:04}", p.text, p.row.source, n, p.row.group) for n, p in enumerate(pieces[::every], 1)]


def unrelated(neutral: Sequence[Document], train: Sequence[Document]) -> list[Document]:
    """Those of `neutral` that share no run of SHARED_RUN words with a document of `train`."""
    own, asked = (Corpus([words(d.text) for d in some]) for some in (train, neutral))
    sharing = set(documents_sharing(own, asked, SHARED_RUN))
    return [document for number, document in enumerate(neutral) if number not in sharing]
