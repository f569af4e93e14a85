"""Bytes from anywhere: every reader takes them or refuses them in one line (benchmarks/fuzz.py says how, and `make fuzz` goes on for an hour)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from benchmarks.fuzz import TARGETS, mutated, seeds_of

CASES = Path(__file__).parent / "fuzz_cases"
FEW = {"report": 6}


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_damaged_bytes_or_says_in_one_line_what_is_wrong(name: str) -> None:
    fuzzed(name, FEW.get(name, 120), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_ten_thousand_damaged_inputs(name: str) -> None:
    fuzzed(name, 1_000 if name == "report" else 10_000, 2)


def fuzzed(name: str, count: int, seed: int) -> None:
    rng, run, seeds = random.Random(seed), TARGETS[name][0], seeds_of(name)
    for number in range(count):
        data = seeds[number % len(seeds)]
        for _ in range(rng.randint(1, 3)):
            data = mutated(data, rng)
        try:
            run(data)
        except Exception as error:
            raise AssertionError(f"{name} of {data[:2000]!r}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found_stays_mended(case: Path) -> None:
    TARGETS[case.parent.name][0](case.read_bytes())


def test_a_reader_that_breaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galvan.rundir.read_documents", lambda path: {}["missing"])
    with pytest.raises(AssertionError, match=r"documents of .*KeyError"):
        fuzzed("documents", 1, 1)
