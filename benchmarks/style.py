"""How long the style of 300 texts takes, the command's start included in the last row; no model, no torch.

Limits hold for processor time, so that a busy machine does not fail them; the clock's time is printed beside it.

python benchmarks/style.py [TEXTS]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from galvan.data.read import read
from galvan.style import judge_style
from galvan.style.files import passages

LIMIT_SECONDS = 10.0


def texts(source: str) -> list[str]:
    """Every text of a bundled collection, in passages of 50 words or more."""
    return [piece for row in read(source) for piece in passages(row.text, 50)]


def main(n: int) -> int:
    letters, plain, quarter = texts("galvan/letters"), texts("galvan/plain"), n // 4
    sets = {
        name: [letters[(3 * i + k) % len(letters)] for i in range(quarter)]
        for k, name in enumerate(("author", "held-out", "tuned"))
    }
    sets["base"] = [plain[i % len(plain)] for i in range(quarter)]
    start, started = time.perf_counter(), time.process_time()
    found = judge_style(sets["author"], sets["base"], sets["tuned"], sets["held-out"])
    print(
        f"judge_style, {n} texts: {time.process_time() - started:.2f} s of processor, {time.perf_counter() - start:.2f} s by the clock ({found.closer})"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, some in sets.items():
            Path(folder, f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some), encoding="utf-8")
        options = [part for name in sets for part in (f"--{name}", f"{name}.jsonl")]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "galvan", "style", *options, "--json"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=False,
            env=os.environ,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"galvan style, {n} texts, with its start: {seconds:.2f} s of processor, {time.perf_counter() - start:.2f} s by the clock"
    )
    return int(seconds > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
