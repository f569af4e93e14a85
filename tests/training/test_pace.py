"""A sudden fall in pace is noticed, once; fewer threads are tried in turn with all, and kept only where they are faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_loop import ROWS, lora, recipe

from galvan.progress import Silent
from galvan.training import loop
from galvan.training.pace import LEAST_STEPS, SLOW_STEPS, TURNS, Pace


class Machine:
    """Seconds of a step by number and threads; time passes by this clock alone."""

    def __init__(self, seconds: Callable[[int, int], float], threads: int = 4) -> None:
        self.seconds, self.steps = seconds, 0
        self.said: list[str] = []
        self.used: list[int] = []
        self.set_to: list[int] = []
        self.pace = Pace(threads, self.set_to.append, self.said.append)

    def run(self, steps: int, tokens: int = 100) -> Machine:
        for _ in range(steps):
            self.used.append(self.pace.threads)
            self.pace.step(self.seconds(self.steps, self.pace.threads) * tokens / 100, tokens)
            self.steps += 1
        return self


def busy_from(step: int, one: float, all_: float) -> Callable[[int, int], float]:
    return lambda n, threads: 1.0 if n < step else one if threads == 1 else all_


def test_where_one_thread_is_faster_beside_another_process_it_is_measured_in_turn_and_kept() -> None:
    machine = Machine(busy_from(20, one=2.0, all_=8.0)).run(60)
    first = 20 + SLOW_STEPS
    assert machine.used == [4] * first + [1, 4] * TURNS + [1] * (60 - first - 2 * TURNS)
    assert machine.said == [
        "Steps take 8.0 times as long as before: something else keeps this machine busy.",
        "One thread is 4.0 times as fast as 4 here now, and is used from now on.",
    ]


@pytest.mark.parametrize("one", [8.0, 7.5, 20.0])
def test_where_one_thread_does_not_help_all_are_used_again(one: float) -> None:
    machine = Machine(busy_from(20, one, all_=8.0)).run(60)
    assert machine.used[-1] == 4 and set(machine.used) == {1, 4} and len(machine.said) == 1


@pytest.mark.parametrize(
    "seconds",
    [
        lambda n, threads: 1.0 + n % 3,  # uneven, but always so
        lambda n, threads: 9.0 if n % 10 == 9 else 1.0,  # one slow step now and then
        lambda n, threads: 1.0 if n < 20 else 2.5,  # slower, not suddenly three times
        lambda n, threads: 9.0 if n < 3 else 1.0,  # slow while it warms up
    ],
)
def test_a_healthy_run_is_left_alone(seconds: Callable[[int, int], float]) -> None:
    machine = Machine(seconds).run(100)
    assert machine.said == [] and machine.set_to == []


def test_larger_steps_are_not_slower_ones() -> None:
    machine = Machine(lambda n, threads: 1.0)
    machine.run(LEAST_STEPS + 5).run(20, tokens=1000)
    assert machine.said == []


def test_with_one_thread_or_on_a_gpu_it_is_only_said_and_only_once_while_it_lasts() -> None:
    machine = Machine(lambda n, threads: 5.0 if 20 <= n < 50 or n >= 80 else 1.0, threads=1).run(100)
    assert machine.set_to == [] and len(machine.said) == 2


def test_the_threads_of_each_step_stand_in_the_trace_and_a_resumed_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is given a clock by which its steps become five times as slow, but for those with one thread."""
    asked: list[int] = []
    before, now = torch.get_num_threads(), [0.0]
    torch.set_num_threads(2)
    real, steps = loop.batch_gradient, [0]

    def slow(*arguments: object) -> float:
        steps[0] += len(arguments) == 8  # a step of the loop, not one of the checks before it
        now[0] += 1.0 if steps[0] <= 12 or (asked and asked[-1] == 1) else 5.0
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "batch_gradient", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop.torch, "set_num_threads", asked.append)
    rows = [ROWS[1]] * 4
    try:
        loop.train(lora(), rows, recipe(method="lora", epochs=30.0), 7, tmp_path, progress=Silent())
    finally:
        monkeypatch.undo()
        torch.set_num_threads(before)
    threads = [json.loads(line)["threads"] for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert threads == [2] * 15 + [1, 2] * 3 + [1] * 9
