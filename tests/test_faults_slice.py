"""A slice of the fault benchmark: what is put in is named first, nothing healthy is accused, and the count of it is right."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.faults import page, runner, scoring
from benchmarks.faults.cases import registered
from benchmarks.faults.place import NotInForce, edit_config, rename_keys, untrained
from benchmarks.faults.runner import Result
from benchmarks.faults.slice import SLICE
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    out = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-m", "benchmarks.faults", "--slice", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "### Acceptance" in done.stdout
    return [runner.read(path) for path in sorted((out / "results").glob("*.json"))]


def test_every_fault_of_the_slice_is_named_first_with_certainty_earned(results: list[Result]) -> None:
    assert len(results) == len(SLICE) and not any(r.crash for r in results)
    assert [runner.line(r) for r in scoring.faults(results) if not scoring.right_first(r)] == []


def test_no_healthy_run_of_the_slice_is_accused(results: list[Result]) -> None:
    healthy = scoring.healthy(results)
    assert len(healthy) == 2 and [runner.line(r) for r in healthy if scoring.alarmed(r)] == []


def test_with_truths_dealt_out_anew_the_slice_falls_to_chance(results: list[Result]) -> None:
    rows = scoring.faults(results)
    shifts = [
        [dataclasses.replace(r, accept=other.accept) for r, other in zip(rows, rows[k:] + rows[:k], strict=True)]
        for k in range(len(rows))
    ]
    shares = [sum(map(scoring.right_first, dealt)) / len(rows) for dealt in shifts]
    assert shares[0] == 1.0  # the truths as they are
    assert sum(shares) / len(shares) == pytest.approx(scoring.chance(results)) and scoring.chance(results) < 0.2


def result(code: str, *present: tuple[str, str], accept: tuple[str, ...] | None = None, part: str = "development") -> Result:
    return Result("c", code, "others", (code,) if accept is None else accept, "s", part, present)


def test_the_counts_by_hand() -> None:
    rows = [
        result("D05", ("D05", "likely")),
        result("D05", ("D06", "very likely"), ("D05", "likely")),
        result("I01"),
        result("I01", ("I01", "cannot tell")),
        result("healthy", ("G10", "likely"), accept=()),
    ]
    faults = scoring.faults(rows)
    assert [scoring.right_first(r) for r in faults] == [True, False, False, False]
    assert [scoring.abstained(r) for r in faults] == [False, False, True, True]
    assert [scoring.wrong_and_confident(r) for r in faults] == [False, True, False, False]
    assert [scoring.alarmed(r) for r in scoring.healthy(rows)] == [True]
    named, first = scoring.recall_by_cause(rows)["D05"]
    assert (named.hits, named.of, first.hits, first.of) == (2, 2, 1, 2)
    assert {w: (r.hits, r.of) for w, r in scoring.reliability(rows).items()} == {
        "certain": (0, 0),
        "very likely": (0, 1),
        "likely": (1, 2),
    }
    assert scoring.certainty_table(rows) == {"D05": {"likely": [2, 2]}, "D06": {"very likely": [0, 1]}, "G10": {"likely": [0, 1]}}


def test_a_true_word_on_what_a_run_came_to_is_no_false_alarm_and_any_other_word_is() -> None:
    def alarm(*present: tuple[str, str], **came: Any) -> tuple[bool, bool]:
        one = dataclasses.replace(result("healthy", *present, accept=()), **came)
        return scoring.alarmed(one), scoring.accused(one)

    g10, i02, d05 = ("G10", "certain"), ("I02", "certain"), ("D05", "likely")
    assert alarm(g10, verdict="inconclusive") == alarm(i02, verdict="improved", forgot=True) == (False, True)
    assert alarm(g10, i02, verdict="inconclusive", forgot=True) == (False, True)
    assert alarm(g10, verdict="improved") == alarm(i02, verdict="improved", forgot=None) == (True, True)
    assert alarm(g10, d05, verdict="inconclusive") == alarm(d05, verdict="improved") == (True, True)
    assert alarm(verdict="refused") == alarm(crash="...") == (True, True)
    assert alarm(verdict="improved") == alarm(verdict="inconclusive") == (False, False)


def test_a_fault_that_is_not_there_counts_nowhere(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    with pytest.raises(NotInForce, match="changed nothing"):
        edit_config(tmp_path, r=8, alpha=...)
    save_file({"a.lora_B.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert untrained(tmp_path) == 1
    with pytest.raises(NotInForce, match="changed none"):
        rename_keys(tmp_path, lambda name: name.removeprefix("b."))
    rename_keys(tmp_path, lambda name: f"b.{name}")
    gone = dataclasses.replace(result("A01"), crash="Traceback ...\nbenchmarks.faults.place.NotInForce: it is not there\n")
    text = page.markdown([gone, result("B01", ("B01", "certain"))], [])
    assert not gone.in_force and "1 runs with a fault" in text and "1 more count nowhere" in text and "c on s" in text


def test_only_development_runs_bind_the_words() -> None:
    assert scoring.certainty_table([result("D05", ("D05", "likely"), part="held out")]) == {}


def test_intervals_are_clopper_and_pearsons() -> None:
    assert scoring.Rate(0, 59).interval()[1] == pytest.approx(1 - 0.025 ** (1 / 59))
    assert scoring.Rate(5, 10).interval() == pytest.approx((0.187086, 0.812914), abs=1e-5)
    assert scoring.Rate(7, 7).interval()[1] == 1.0 and scoring.Rate(0, 0).share is None


def test_the_expected_chance_is_the_mean_over_all_ways_to_deal() -> None:
    rows = [result("D05", ("D05", "likely")), result("I01", ("D05", "likely")), result("G10", ("G10", "likely"))]
    truths = [r.accept for r in rows]
    dealt = [
        sum(scoring.right_first(dataclasses.replace(r, accept=t)) for r, t in zip(rows, some, strict=True)) / 3
        for some in itertools.permutations(truths)
    ]
    assert scoring.chance(rows) == pytest.approx(sum(dealt) / len(dealt))


def test_the_full_benchmark_holds_enough_of_each_kind() -> None:
    cases = registered()
    healthy = sum(len(case.settings) for case in cases if case.is_healthy)
    assert healthy >= 93 and sum("+" in case.code for case in cases) >= 5
    assert {s.part for case in cases for s in case.settings} == {"development", "held out"}
    assert all(case.line.endswith(".") for case in cases) and {case.name for case in cases} >= SLICE


def test_a_page_without_markers_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "diagnosis.md"
    path.write_text("no markers\n")
    monkeypatch.setattr(page, "PAGE", path)
    with pytest.raises(SystemExit, match="lacks the markers"):
        page.write("| x |")
    assert path.read_text() == "no markers\n"
