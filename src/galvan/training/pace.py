"""Is something else taking this machine's time? A sudden fall in pace is noticed and said, and on a CPU fewer threads are tried.

Two busy processes with a thread for every core each wait for one another at every matrix product; with one thread each they do not. Which
is faster is measured on the run's own steps, with few and many threads in turn, and then kept. The number of threads changes the order of
summation, so a run in which it changed may differ in its last digits from one left alone; `threads` in training.jsonl says where.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

SLOW = 3.0  # times the usual seconds a token
SLOW_STEPS = 3  # in a row; one slow step is chance, or a checkpoint
USUAL_STEPS, LEAST_STEPS = 50, 8  # from which the usual pace is taken
TURNS = 3  # steps with one thread, and as many with all, by which it is decided
GAIN = 0.9  # one thread must take less than this share of the time


class Pace:
    """`step` takes the seconds and tokens of each; `set_threads` changes this process's threads, `threads` are those now, and `kept`
    those that a trial chose in place of the first."""

    def __init__(self, threads: int, set_threads: Callable[[int], object], say: Callable[[str], None], what: str = "Steps") -> None:
        self.threads, self._all, self._what = threads, threads, what
        self._set, self._say = set_threads, say
        self._usual: deque[float] = deque(maxlen=USUAL_STEPS)
        self._slow: list[float] = []
        self._told = False
        self._trial: dict[int, list[float]] | None = None
        self.kept: int | None = None

    def step(self, seconds: float, tokens: int) -> None:
        """After each step of `tokens` tokens; from the next one on `threads` may be others."""
        cost = seconds / max(1, tokens)
        if self._trial is not None:
            self._try(self._trial, cost)
            return
        if len(self._usual) < LEAST_STEPS or cost <= SLOW * statistics.median(self._usual):
            self._usual.append(cost)
            self._slow, self._told = [], False
            return
        self._slow.append(cost)
        if len(self._slow) < SLOW_STEPS or self._told:
            return
        self._told = True
        times = statistics.median(self._slow) / statistics.median(self._usual)
        self._say(f"{self._what} take {times:.1f} times as long as before: something else keeps this machine busy.")
        if self.threads > 1:
            self._trial = {1: [], self._all: []}
            self._use(1)

    def _try(self, trial: dict[int, list[float]], cost: float) -> None:
        trial[self.threads].append(cost)
        self._use(self._all if self.threads == 1 else 1)
        if any(len(costs) < TURNS for costs in trial.values()):
            return
        one, every = (statistics.median(trial[n]) for n in (1, self._all))
        self._trial = None
        if one < GAIN * every:
            self._use(1)
            self.kept = 1
            self._say(f"One thread is {every / one:.1f} times as fast as {self._all} here now, and is used from now on.")
        else:
            self._use(self._all)

    def _use(self, threads: int) -> None:
        self.threads = threads
        self._set(threads)
