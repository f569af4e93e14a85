"""What readers said, from ratings.sqlite: win rates, agreement and when to stop. No torch, no server."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from galvan.app.pairs import AUTHOR, BASE, TUNED, Pair
from galvan.app.store import FILE, read_pairs, read_votes, readable
from galvan.rundir import sha256_file
from galvan.statistics.preference import FEW_RATERS, Anytime, WinRate, confidence_sequence, krippendorff_alpha, win_rate


@dataclass(frozen=True, slots=True)
class Ratings:
    """`tuned` is the win rate of tuned over base; `author` that of the author over tuned, the control; ties and "both bad" are half a win.
    `so_far` counts the first answer to each prompt, in the order given. `alpha` is Krippendorff's, over all pairs with two raters."""

    tuned: WinRate | None
    author: WinRate | None
    so_far: Anytime
    alpha: float | None
    answers: Mapping[str, int]
    skipped: int
    undone: int
    n_pairs: int
    n_raters: int
    cautions: tuple[str, ...]


def ratings(folder: Path) -> Ratings | None:
    """The ratings of a run; None where nobody has judged a pair. DataError where ratings.sqlite is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    with readable(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        pairs = read_pairs(db)
        every = read_votes(db)
        digest = db.execute("SELECT samples_sha256 FROM meta").fetchone()[0]
    votes = [vote for vote in every if not vote.undone]
    given = [(vote.rater, pairs[vote.pair], vote.arm) for vote in votes if vote.arm != "skip"]
    if not given:
        return None
    samples = folder / "samples.jsonl"
    stale = not samples.is_file() or sha256_file(samples) != digest
    return _summary(given, len(pairs), len(votes) - len(given), len(every) - len(votes), stale)


def _summary(given: Sequence[tuple[str, Pair, str]], n_pairs: int, skipped: int, undone: int, stale: bool) -> Ratings:
    def rate(over: str, arm: str) -> WinRate | None:
        some = [(rater, pair, said) for rater, pair, said in given if over in (pair.first_arm, pair.second_arm)]
        return win_rate([score(said, arm) for _, _, said in some], [p.prompt_id for _, p, _ in some], [r for r, _, _ in some])

    first: dict[str, float] = {}
    for _, pair, said in given:
        if not pair.control:
            first.setdefault(pair.prompt_id, score(said, TUNED))
    raters = {rater for rater, _, _ in given}
    alpha = krippendorff_alpha([(pair.prompt_id, said) for _, pair, said in given])
    cautions = [
        "One rater: the interval speaks of other prompts for this reader, not of other readers." if len(raters) == 1
        else f"{len(raters)} raters say little about readers at large." if len(raters) < FEW_RATERS else "",
        "The texts that were judged are no longer those of samples.jsonl." if stale else "",
    ]  # fmt: skip
    return Ratings(
        rate(BASE, TUNED), rate(AUTHOR, AUTHOR), confidence_sequence(list(first.values())), alpha,
        dict(Counter(said for _, pair, said in given if not pair.control)), skipped, undone, n_pairs, len(raters), tuple(filter(None, cautions)),
    )  # fmt: skip


def score(said: str, arm: str) -> float:
    """1 where `arm` was chosen, 1/2 for a tie or both bad, else 0."""
    return 1.0 if said == arm else 0.5 if said in ("tie", "bad") else 0.0
