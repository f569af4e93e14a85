"""How long the command line takes to answer what needs no model, as a whole process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import Row
from benchmarks.workload import Workload


def measure(work: Workload) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "wrong.yaml"
        recipe.write_text("training:\n  learning_rat: 1e-4\n", encoding="utf-8")
        commands = {"galvan --help": (["--help"], 0), "a wrong recipe": (["run", str(recipe)], 2)}
        return [
            Row("Start", name, "s", [_wall(arguments, expected) for _ in range(work.size.starts)])
            for name, (arguments, expected) in commands.items()
        ]


def _wall(arguments: list[str], expected: int) -> float:
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "galvan", *arguments], capture_output=True, check=False)
    seconds = time.perf_counter() - started
    if ended.returncode != expected:
        raise SystemExit(f"galvan {' '.join(arguments)} ended with {ended.returncode}, not {expected}: {ended.stderr.decode()}")
    return seconds
