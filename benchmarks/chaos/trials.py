"""One trial: a command meets a fault, what it left is looked at, and the same command goes on to the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from benchmarks.chaos.shim import Call, Fault
from benchmarks.chaos.verbs import ENDED, Verb
from galvan.errors import GalvanError
from galvan.models import safetensors_header
from galvan.rundir import LITTER
from processes import Done, Running, galvan

CODES = {"ENOSPC": "disk/full", "EIO": "disk/unwritable", "EACCES": "disk/unwritable"}


@dataclass(frozen=True)
class Trial:
    """`fault` in words, and why the command did not survive it: nothing where it did."""

    verb: str
    kind: str
    fault: str
    problems: tuple[str, ...]


@dataclass
class Ground:
    """A verb's undisturbed result, and a fresh copy of its beginning for each trial."""

    verb: Verb
    origin: Path
    scratch: Path

    def __post_init__(self) -> None:
        place = self.fresh()
        self._log = self.scratch / "calls"
        self._log.unlink(missing_ok=True)
        counting, begun = Fault(place, "count", 0, self._log), time.monotonic()
        done = galvan(*self.verb.command, cwd=place, first=counting.arm)
        assert done.code in ENDED, done.err
        self.seconds = time.monotonic() - begun
        self.calls = counting.calls()
        self.expected = self.verb.results(place)
        assert self.expected

    def fresh(self) -> Path:
        place = self.scratch / "w"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.origin, place)
        self.verb.ready(place)
        return place

    def can(self, kind: str) -> list[Call]:
        return [call for call in self.calls if call.can(kind)]

    def trial(self, kind: str, number: int) -> Trial:
        """`kind` at the verb's call `number` that can get it."""
        place = self.fresh()
        self._log.unlink(missing_ok=True)
        fault = Fault(place, kind, number, self._log)
        done = galvan(*self.verb.command, cwd=place, first=fault.arm)
        call = self.can(kind)[number - 1] if number <= len(self.can(kind)) else None
        said = (
            "past the end"
            if call is None
            else f"{call.name} of {Path(call.to if call.name.startswith('rename') else call.path).name}"
        )
        problems = [*self._ending(kind, done), *self._left(kind, place), *self._going_on(place)]
        return Trial(self.verb.name, kind, f"call {number}, {said}", tuple(problems))

    def instant(self, share: float) -> Trial:
        """SIGKILL after that share of the time that it takes undisturbed."""
        place, seconds = self.fresh(), share * self.seconds
        done = Running(*self.verb.command, cwd=place).when(lambda: True, signal.SIGKILL, seconds)
        problems = [*self._ending("kill", done), *self._left("kill", place), *self._going_on(place)]
        return Trial(self.verb.name, "instant", f"after {seconds:.2f} s", tuple(problems))

    def _ending(self, kind: str, done: Done) -> Iterator[str]:
        if done.code in ENDED:  # the process had ended, or what failed was of no consequence
            return
        if kind == "kill":
            if done.code != -signal.SIGKILL:
                yield f"ended with {done.code}: {done.err[-300:]}"
            return
        last = (done.err.splitlines() or [""])[-1]
        if done.code != 5 or "Traceback" in done.err or not last.startswith(f"error[{CODES[kind]}]: "):
            yield f"ended with {done.code}: {done.err[-600:]}"
        elif kind == "ENOSPC" and "bytes" not in last.partition("needs")[2]:
            yield f"does not say how many bytes are needed: {last}"

    def _left(self, kind: str, place: Path) -> Iterator[str]:
        """Nothing half under a final name, ever; nothing at all under another where the process lived to clear up and the disk let it."""
        for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if not hidden and (reason := damage(path)):
                yield f"{path.relative_to(place)}: {reason}"
            if hidden and any(path.match(pattern) for pattern in LITTER) and kind == "ENOSPC":
                yield f"{path.relative_to(place)} was left behind"

    def _going_on(self, place: Path) -> Iterator[str]:
        newest = _half_trained(place)
        done = galvan(*self.verb.command, cwd=place)
        if done.code not in ENDED or "Traceback" in done.err:
            yield f"does not go on: {done.code}: {done.err[-600:]}"
            return
        if newest and f"Training goes on at step {newest} of " not in done.err:
            yield f"did not go on at step {newest}, the last one saved"
        found = self.verb.results(place)
        yield from (f"{name} differs from the undisturbed one" for name in self.expected if found.get(name) != self.expected[name])
        yield from (f"{path.relative_to(place)} is litter" for pattern in LITTER for path in place.rglob(pattern))


def _half_trained(place: Path) -> int:
    """The newest step that was saved of the run whose training did not come to its end; 0 where there is none."""
    runs = {path.parent.parent for path in place.rglob("work/step-*.json")}
    steps = [
        int(path.stem.removeprefix("step-"))
        for run in runs
        for path in run.glob("work/step-*.json")
        if not (run / "stages" / "train.json").exists()
    ]
    return max(steps, default=0)


def damage(path: Path) -> str | None:
    """Why a file under a final name is not whole; None where it is, or where its kind has no wholeness that could be asked."""
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".jsonl":
                lines = path.read_bytes().split(b"\n")
                if lines[-1]:
                    return "its last line is cut"
                for line in lines[:-1]:
                    json.loads(line)
            case ".parquet":
                pq.read_table(path)
            case ".safetensors":
                safetensors_header(path)
            case ".yaml":
                yaml.safe_load(path.read_text(encoding="utf-8"))
            case ".html" if not path.read_bytes().rstrip().endswith(b"</html>"):
                return "it is cut"
            case ".sqlite":
                with closing(sqlite3.connect(path)) as db:
                    if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                        return "SQLite's integrity check fails"
    except (ValueError, OSError, GalvanError, yaml.YAMLError, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"
    return None


def unsynced(calls: Sequence[Call]) -> list[str]:
    """Files that got their final name while something of theirs was not yet synced: a loss of power could leave them empty under it."""
    dirty: dict[str, str] = {}  # by the number of the file: safetensors renames its own past libc
    found = []
    for call in calls:
        if call.name in {"write", "pwrite", "pwrite64", "writev", "sendfile", "copy_file_range"}:
            dirty[call.to] = call.path
        elif call.name in {"fsync", "fdatasync"}:
            dirty.pop(call.to, None)
        elif call.name.startswith("unlink"):
            dirty = {number: path for number, path in dirty.items() if path != call.path}
        elif call.name.startswith("rename"):
            found += [f"{path} as {call.to}" for n, path in dirty.items() if n == call.number or path.startswith(call.path + "/")]
            dirty = {n: path for n, path in dirty.items() if path != call.to}  # what had that name is gone
    return found


def in_checkpoints(calls: Sequence[Call]) -> list[int]:
    """Which of them, counted from 1, write a checkpoint of training."""
    return [n for n, call in enumerate(calls, 1) if Path(call.path).parent.name == "work"]


def numbers(count: int, wanted: int | None, rng: random.Random) -> list[int]:
    """All of 1 to `count`, or so many of them."""
    return list(range(1, count + 1)) if wanted is None or wanted >= count else sorted(rng.sample(range(1, count + 1), wanted))
