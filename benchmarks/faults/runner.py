"""Every case in a process of its own, each result one file: an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case
from benchmarks.faults.ground import Setting
from benchmarks.faults.place import NotInForce, Place
from galvan.rundir import read_json, write_json

NO_END = "the process ended without a result"
SECONDS = 900  # a case that takes longer is ended and counts as crashed


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One case on one setting. `present` is [code, certainty] best first (an error's code counts as certain); `crash` a traceback."""

    case: str
    code: str
    group: str
    accept: tuple[str, ...]
    setting: str
    part: str
    present: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    error: str | None = None
    message: str | None = None
    verdict: str | None = None
    gain: float | None = None
    loss_fell: bool | None = None
    peft_content: bool | None = None
    forgot: bool | None = None
    seconds: float = 0.0
    crash: str | None = None

    @property
    def is_healthy(self) -> bool:
        return not self.accept

    @property
    def in_force(self) -> bool:
        """False if what the case meant to put in was not there."""
        return self.crash is None or NotInForce.__name__ not in self.crash.strip().splitlines()[-1]


def import_everything() -> None:
    """Heavy imports once, before the first fork; and galvan as it is now, so that editing it does not mix two versions in one run."""
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import galvan

    for module in pkgutil.walk_packages(galvan.__path__, "galvan."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)


def jobs(cases: Sequence[Case], on: str = "") -> list[tuple[Case, Setting]]:
    """Every case on every setting whose name or part holds `on`: all on their first before any on its second, faults before healthy
    runs."""
    settings = {case.name: [s for s in case.settings if on in s.name or on == s.part] for case in cases}
    most = max((len(some) for some in settings.values()), default=0)
    ordered = sorted(cases, key=lambda case: case.is_healthy)
    return [(case, settings[case.name][n]) for n in range(most) for case in ordered if n < len(settings[case.name])]


def path_of(out: Path, case: Case, setting: Setting) -> Path:
    return out / "results" / f"{case.name}--{setting.name}.json"


def is_kept(out: Path, case: Case, setting: Setting) -> bool:
    """Whether this case was run on this setting, to an end."""
    path = path_of(out, case, setting)
    return path.is_file() and read(path).crash != NO_END


def run_all(out: Path, wanted: Sequence[tuple[Case, Setting]], again: bool = False) -> Iterator[Result]:
    """The result of every job, computed where there is none yet, or where it crashed, or `again`."""
    for case, setting in wanted:
        path = path_of(out, case, setting)
        known = read(path) if path.is_file() and not again else None
        if known is None or known.crash is not None:
            started = time.monotonic()
            _in_child(out, case, setting, path)
            known = read(path)
            print(f"{time.monotonic() - started:6.1f} s  {line(known)}", file=sys.stderr, flush=True)
        yield known


def line(result: Result) -> str:
    """One result as one line of a log."""
    said = " ".join(f"{code} ({word})" for code, word in result.present) or "nothing"
    crash = f" CRASH {result.crash.strip().splitlines()[-1]}" if result.crash else ""
    return f"{result.case} on {result.setting}: {result.code} -> {said}; {result.verdict or result.error or '-'}{crash}"


def read(path: Path) -> Result:
    row: dict[str, Any] = read_json(path)
    pairs = tuple((str(code), str(word)) for code, word in row["present"])
    return Result(**{**row, "present": pairs, "accept": tuple(row["accept"]), "unknown": tuple(row["unknown"])})


def _in_child(out: Path, case: Case, setting: Setting, path: Path) -> None:
    """Patches, random state and memory of a case end with its process."""
    empty = Result(case.name, case.code, case.group, case.accept, setting.name, setting.part)
    write_json(path, dataclasses.replace(empty, crash=NO_END))
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        write_json(path, _at_work(out, case, setting, empty))
        os._exit(0)
    os.waitpid(child, 0)


def _at_work(out: Path, case: Case, setting: Setting, empty: Result) -> Result:
    started = time.monotonic()
    folder = out / "cases" / f"{case.name}--{setting.name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        said = case.inject(Place(out, folder, setting))
    except Exception:
        return dataclasses.replace(empty, crash=traceback.format_exc(), seconds=round(time.monotonic() - started, 2))
    return dataclasses.replace(
        empty, present=tuple(said.answers), unknown=tuple(said.unknown), error=said.error, message=said.message, verdict=said.verdict,
        gain=said.gain, forgot=said.forgot, loss_fell=said.loss_fell, peft_content=said.peft_content, seconds=round(time.monotonic() - started, 2),
    )  # fmt: skip
