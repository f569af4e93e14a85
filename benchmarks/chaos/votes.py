"""Votes of the blind review under faults: one that was acknowledged is never lost, and none that was refused counts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.chaos.shim import Call, Fault, preloaded
from benchmarks.chaos.trials import Trial
from benchmarks.chaos.verbs import RUN
from processes import CONTEXT

RATER, SEED, CHOICES = "Ada", 5, ("left", "right", "tie", "bad")


class Votes:
    """A run with texts to compare; `trial` lets a fault befall a process that opens its ratings and votes on every pair."""

    def __init__(self, origin: Path, scratch: Path) -> None:
        self._origin, self._scratch = origin, scratch
        self._acks, self._log = scratch / "acks", scratch / "calls"
        fault, self.seconds = self._befalls("count", 0), time.monotonic() - self._begun
        self.calls, self.total = fault.calls(), len(self._acknowledged())
        assert self.total

    def can(self, kind: str) -> list[Call]:
        return [call for call in self.calls if call.can(kind)]

    def trial(self, kind: str, number: int) -> Trial:
        self._befalls(kind, number)
        return Trial("votes", kind, f"call {number}", tuple(self._problems()))

    def instant(self, share: float) -> Trial:
        """SIGKILL after that share of the time that it takes undisturbed."""
        self._befalls("count", 0, share * self.seconds)
        return Trial("votes", "instant", f"after {share * self.seconds:.3f} s", tuple(self._problems()))

    def _befalls(self, kind: str, number: int, killed_after: float | None = None) -> Fault:
        """A process with that fault; `killed_after` so many seconds of voting."""
        place = self._scratch / "w"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._origin, place)
        for path in (self._acks, self._log):
            path.unlink(missing_ok=True)
        fault = Fault(place, kind, number, self._log)
        process = CONTEXT.Process(target=_vote, args=(place / RUN, self._acks, fault))
        with preloaded():
            process.start()
        while process.is_alive() and not self._acks.exists():
            time.sleep(0.001)
        self._begun = time.monotonic()
        process.join(60 if killed_after is None else killed_after)
        process.kill()
        process.join()
        return fault

    def _acknowledged(self) -> list[str]:
        return self._acks.read_text(encoding="utf-8").splitlines() if self._acks.exists() else []

    def _problems(self) -> list[str]:
        from galvan.app.store import FILE, Store
        from galvan.errors import GalvanError

        acks = self._acknowledged()
        errors = [line for line in acks if not line.isdecimal()]
        acks = [line for line in acks if line.isdecimal()]
        problems = [line for line in errors if not line.startswith(("error[ratings/unwritable]", "error[disk/"))]
        run = self._scratch / "w" / RUN
        try:
            store = Store(run, SEED)
        except GalvanError as error:
            return [*problems, f"cannot be opened again: {error}"]
        done = store.place(RATER).number - 1
        if not len(acks) <= done <= len(acks) + 1:
            problems.append(f"{len(acks)} votes were acknowledged and {done} are there")
        while store.place(RATER).left is not None:
            number = store.place(RATER).number
            store.vote(RATER, number, CHOICES[number % 4])
        store.close()
        with closing(sqlite3.connect(run / FILE)) as db:
            if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                problems.append("SQLite's integrity check fails")
            choices = [choice for (choice,) in db.execute("SELECT choice FROM votes WHERE undone_at IS NULL ORDER BY id")]
        if choices != [CHOICES[n % 4] for n in range(1, self.total + 1)]:
            problems.append(f"the votes are {choices}")
        return problems


def _vote(run: Path, acks: Path, fault: Fault) -> None:
    from galvan.app.store import Store
    from galvan.errors import GalvanError

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    file = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fault.arm()
    try:
        store = Store(run, SEED)
        while (place := store.place(RATER)).left is not None:
            if store.vote(RATER, place.number, CHOICES[place.number % 4]):
                os.write(file, f"{place.number}\n".encode())
        store.close()
    except GalvanError as error:
        os.write(file, f"error[{error.code}]\n".encode())
    except Exception as error:
        os.write(file, f"{type(error).__name__}: {error}\n".encode())
