"""ratings.sqlite: the pairs that are shown, and every vote. A vote that was answered is on the disk (WAL, synchronous FULL).

Votes are never deleted: one that was undone keeps its row. Every vote and all pairs have a checksum, for SQLite has none. A rater who
has looked at the result votes no more, because the result after one more vote would tell which side that vote went to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

from galvan.app.pairs import Pair, pairs_of_run, schedule
from galvan.errors import DataError, RecipeError, ResourceError
from galvan.rundir import atomic, writing
from galvan.text import shown, tidy, visible

FILE = "ratings.sqlite"
CHOICES = ("left", "right", "tie", "bad", "skip")
LONGEST_NAME, LONGEST_REASON = 40, 1000
_SCHEMA = """
CREATE TABLE meta (seed INTEGER NOT NULL, samples_sha256 TEXT NOT NULL, pairs_digest TEXT NOT NULL);
CREATE TABLE pairs (id INTEGER PRIMARY KEY, prompt_id TEXT NOT NULL, prompt TEXT NOT NULL, first_arm TEXT NOT NULL,
  second_arm TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL);
CREATE TABLE votes (id INTEGER PRIMARY KEY AUTOINCREMENT, rater TEXT NOT NULL, pair INTEGER NOT NULL REFERENCES pairs (id),
  choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie', 'bad', 'skip')), arm TEXT NOT NULL, reason TEXT NOT NULL,
  digest TEXT NOT NULL, at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), undone_at TEXT);
CREATE UNIQUE INDEX one_vote ON votes (rater, pair) WHERE undone_at IS NULL;
CREATE TABLE revealed (rater TEXT PRIMARY KEY, at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
PRAGMA user_version = 2;
"""
VERSION = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rater is: `number` of `total` pairs is next; `left` and `right` are its texts, None when all are done."""

    number: int
    total: int
    prompt: str = ""
    left: str | None = None
    right: str | None = None


def rater_name(text: str) -> str:
    """A name without invisible characters; RecipeError where nothing or too much is left."""
    name = " ".join(visible(text).split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise RecipeError("app/rater", f"A name of 1 to {LONGEST_NAME} characters is needed; yours has {len(name)}.")
    return name


class Store:
    """The open ratings of one run; safe for the threads of one process, and for another process beside it."""

    def __init__(self, folder: Path, seed: int | None = None) -> None:
        """Open or begin the ratings of a run. `seed` is that of a new file (None: drawn); a file that is there keeps its own."""
        self.path = folder / FILE
        self._lock = threading.Lock()
        drawn = secrets.randbits(62) if seed is None else seed
        pairs, digest = pairs_of_run(folder, drawn)  # first, so that a run with nothing to read gets no file
        with readable(self.path):
            _begin(self.path, drawn, pairs, digest)
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self.pairs = read_pairs(self._db)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self.seed, judged = self._db.execute("SELECT seed, samples_sha256 FROM meta").fetchone()
            read_votes(self._db)
        if judged != digest:
            raise RecipeError(
                "app/other-samples", f"{shown(str(self.path))} belongs to texts that this run no longer has; move it away to begin anew."
            )  # fmt: skip

    def close(self) -> None:
        self._db.close()

    def place(self, rater: str) -> Place:
        """What `rater` is to see next."""
        with self._lock:
            return self._place(rater)

    def vote(self, rater: str, number: int, choice: str, reason: str = "") -> bool:
        """Record a vote on pair `number` of the rater's order; it is on the disk when this returns. False where that is not the next pair."""
        if choice not in CHOICES:
            raise RecipeError("app/choice", f"{shown(choice, 40)} is none of {', '.join(CHOICES)}.")
        with self._writing() as db:
            if number != self._place(rater).number or number > len(self.pairs) or self._revealed(rater):
                return False
            index, swapped = schedule(self.seed, rater, len(self.pairs))[number - 1]
            pair = self.pairs[index]
            arm = choice
            if choice in ("left", "right"):
                arm = pair.second_arm if (choice == "left") == swapped else pair.first_arm
            said = (rater, index, choice, arm, tidy(reason)[:LONGEST_REASON])
            db.execute(
                "INSERT INTO votes (rater, pair, choice, arm, reason, digest) VALUES (?, ?, ?, ?, ?, ?)",
                (*said, _digest(*said, False)),
            )
            return True

    def undo(self, rater: str) -> bool:
        """Take the rater's last vote back; False where there is none, or the rater has looked at the result."""
        with self._writing() as db:
            last = db.execute(
                "SELECT id, rater, pair, choice, arm, reason FROM votes WHERE rater = ? AND undone_at IS NULL ORDER BY id DESC LIMIT 1", (rater,)
            ).fetchone()  # fmt: skip
            if last is None or self._revealed(rater):
                return False
            db.execute(
                "UPDATE votes SET undone_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), digest = ? WHERE id = ?",
                (_digest(*last[1:], True), last[0]),
            )
            return True

    def reveal(self, rater: str) -> None:
        """The rater looks at the result, and votes no more."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO revealed (rater) VALUES (?)", (rater,))

    def revealed(self, rater: str) -> bool:
        with self._lock:
            return self._revealed(rater)

    def _revealed(self, rater: str) -> bool:
        return self._db.execute("SELECT 1 FROM revealed WHERE rater = ?", (rater,)).fetchone() is not None

    def _place(self, rater: str) -> Place:
        done = {pair for (pair,) in self._db.execute("SELECT pair FROM votes WHERE rater = ? AND undone_at IS NULL", (rater,))}
        order = schedule(self.seed, rater, len(self.pairs))
        for number, (index, swapped) in enumerate(order, 1):
            if index not in done:
                pair = self.pairs[index]
                sides = (pair.second, pair.first) if swapped else (pair.first, pair.second)
                return Place(number, len(order), pair.prompt, *sides)
        return Place(len(order) + 1, len(order))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, readable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _begin(path: Path, seed: int, pairs: Sequence[Pair], digest: str) -> None:
    """A new file appears whole or not at all, so that one that is empty was damaged; one that is there is left alone, whoever began it."""
    with writing(path), ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY)
        stack.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.executescript(_SCHEMA)
            rows = ((n, p.prompt_id, p.prompt, p.first_arm, p.second_arm, p.first, p.second) for n, p in enumerate(pairs))
            db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute("INSERT INTO meta VALUES (?, ?, ?)", (seed, digest, _pairs_digest(seed, pairs)))
            whole = db.serialize()
        with atomic(path, len(whole)) as stream:
            stream.write(whole)


def read_pairs(db: sqlite3.Connection) -> list[Pair]:
    """The pairs in the order of their ids, which count from 0; ValueError where the file is not as it was written."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise ValueError("another version wrote it" if version else "it is empty, and what was in it is lost")
    if (found := db.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
        raise ValueError(str(found[0]).splitlines()[0])
    columns = "prompt_id, prompt, first_arm, second_arm, first, second"
    pairs = [Pair(*row) for row in db.execute(f"SELECT {columns} FROM pairs ORDER BY id")]
    seed, digest = db.execute("SELECT seed, pairs_digest FROM meta").fetchone()
    if digest != _pairs_digest(seed, pairs):
        raise ValueError("the pairs are not those that were written")
    return pairs


class Vote(NamedTuple):
    """One vote as it was given."""

    rater: str
    pair: int
    choice: str
    arm: str
    reason: str
    undone: bool


def read_votes(db: sqlite3.Connection) -> list[Vote]:
    """Every vote in the order given; ValueError where one is lost or is not as it was written."""
    columns = "id, digest, rater, pair, choice, arm, reason, undone_at IS NOT NULL"
    db.execute("BEGIN")  # both of one moment: a vote that comes in between would seem to be missing
    try:
        rows = db.execute(f"SELECT {columns} FROM votes ORDER BY id").fetchall()
        last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'votes'").fetchone() or (0,)
    finally:
        db.execute("ROLLBACK")
    votes = [Vote._make((*row[2:7], bool(row[7]))) for row in rows]
    if [row[0] for row in rows] != list(range(1, last[0] + 1)):
        raise ValueError("votes are missing")
    for (number, digest, *_), vote in zip(rows, votes, strict=True):
        if digest != _digest(*vote):
            raise ValueError(f"vote {number} is not as it was given")
    return votes


def _pairs_digest(seed: int, pairs: Sequence[Pair]) -> str:
    return _digest(seed, [astuple(pair) for pair in pairs])


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode("ascii")).hexdigest()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: ResourceError where the disk or a lock is at fault, DataError where the file is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ResourceError(
            "ratings/unwritable", f"{shown(str(path))}: {shown(' '.join(str(error).split()))}; see to the disk and start again."
        ) from None
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        if isinstance(error, DataError | RecipeError):
            raise
        raise DataError(
            "ratings/damaged",
            f"{shown(str(path))}: not ratings of ours ({shown(' '.join(str(error).split()), 120)}); move it away.",
        ) from None
