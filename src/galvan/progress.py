"""What a long step tells whoever watches: a bar with rate and time left on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

from galvan.text import shown


class Progress(Protocol):
    """`start` opens a step of `total` units, `advance` says what was done of it, `say` is a sentence for people."""

    def start(self, label: str, total: float, unit: str) -> None: ...
    def advance(self, amount: float, note: str = "") -> None: ...
    def say(self, sentence: str) -> None: ...


class Silent:
    """Nobody watches."""

    def start(self, label: str, total: float, unit: str) -> None: ...
    def advance(self, amount: float, note: str = "") -> None: ...
    def say(self, sentence: str) -> None: ...


class Shown:
    """Progress on stderr through rich: live bars on a terminal; in a pipe one line every ten seconds, so that a log stays short.

    A context manager: leaving it, also by an error, gives the terminal back.
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(24), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}", markup=False), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self.console, transient=True, disable=not self.live,
        )  # fmt: skip
        self._task: Any = None
        self._label, self._unit, self._note = "", "", ""
        self._total = self._done = self._begun = self._told = 0.0

    def __reduce__(self) -> tuple[type[Silent], tuple[()]]:
        return Silent, ()  # sent to another process: what it does is watched here

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def start(self, label: str, total: float, unit: str) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._label, self._total, self._unit, self._note = label, total, unit, ""
        self._done, self._begun = 0.0, time.monotonic()
        self._told = self._begun
        self._task = self._bars.add_task(label, total=total, rate="")

    def advance(self, amount: float, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        self._note = note or f"{self._done / max(now - self._begun, 1e-9):,.0f} {self._unit}s/s"
        if self._task is not None:
            self._bars.update(self._task, advance=amount, rate=self._note)
        if not self.live and not self.quiet and now - self._told >= 10:
            self._told = now
            left = (now - self._begun) * (self._total - self._done) / max(self._done, 1e-9)
            self.say(
                f"{self._label}: {self._done:,.0f} of {self._total:,.0f} {self._unit}s, {self._note}, about {left:,.0f} s left"
            )

    def say(self, sentence: str) -> None:
        if not self.quiet:
            self.console.print(shown(sentence), markup=False, emoji=False, soft_wrap=True)
