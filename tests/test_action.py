"""The GitHub action: its script is run here as the runner would, and nothing that a pull request names becomes a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models_for_tests import save_adapter, save_base, tiny_llama

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEP = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "evaluate")


def act(place: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """The step's script with the inputs in its environment; its exit code and its outputs."""
    (place / "bin").mkdir()
    (place / "bin" / "galvan").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m galvan "$@"\n')
    (place / "bin" / "galvan").chmod(0o755)
    (place / "outputs").touch()
    files = {
        "GITHUB_OUTPUT": place / "outputs",
        "GITHUB_STEP_SUMMARY": place / "summary.md",
        "RUNNER_TEMP": place,
        "OUT": place / "out",
    }
    environment = {
        **os.environ,
        "TRAIN_DATA": "",
        "FAIL_ON": "",
        "HF_HUB_OFFLINE": "1",
        **{k: str(v) for k, v in files.items()},
        **inputs,
    }
    environment["PATH"] = f"{place / 'bin'}:{environment['PATH']}"
    done = subprocess.run(["bash", "-c", STEP["run"]], cwd=place, env=environment, capture_output=True, text=True, check=False)
    return done, dict(line.split("=", 1) for line in (place / "outputs").read_text().splitlines())


def test_every_input_reaches_the_script_by_its_environment_alone() -> None:
    assert "${{" not in STEP["run"]
    assert all("${{" not in step["run"] for step in ACTION["runs"]["steps"])


@pytest.mark.slow
def test_the_verdict_is_the_output_and_the_gate_the_exit_code(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama())
    adapter = save_adapter(tmp_path / "adapter", tiny_llama())
    texts = [f"Letter {n}: the wind rose on day {n * 7 % 13}, and I waited {n} hours." for n in range(12)]
    (tmp_path / "held-out.csv").write_text("text\n" + "\n".join(f'"{t}"' for t in texts) + "\n")
    done, outputs = act(
        tmp_path,
        BASE=str(base),
        ADAPTER=str(adapter),
        DATA=str(tmp_path / "held-out.csv"),
        FAIL_ON="improved,worse,equivalent,inconclusive,refused",
    )
    assert outputs["verdict"] in ("improved", "worse", "equivalent", "inconclusive", "refused"), done.stderr
    assert done.returncode in (1, 4)
    assert (tmp_path / "summary.md").read_text().startswith("#")
    assert Path(outputs["report"], "report.html").is_file()


@pytest.mark.parametrize(
    ("base", "adapter", "data"),
    [("$(touch owned)", "`touch owned`", "; touch owned"), ("--out=owned", "a\nverdict=improved", "--json")],
)
def test_names_from_a_pull_request_are_data(base: str, adapter: str, data: str, tmp_path: Path) -> None:
    done, outputs = act(tmp_path, BASE=base, ADAPTER=adapter, DATA=data)
    assert done.returncode not in (0, 70)
    assert outputs["verdict"] == ""
    assert not (tmp_path / "owned").exists()
