"""How fast text is prepared, beside `datasets.load_dataset` and a map that does the same to each row; and near duplicates of many rows.

    python benchmarks/prepare.py [--megabytes 20] [--rows 100000] [--full]
    python benchmarks/prepare.py --only-memory [--sizes 200 800]

Speeds are megabytes of the text itself for each second of one core's time (process time: what other programs take does not count).
"prepare" is the whole stage but for the model's tokenizer, in whose place one that counts characters is put: its speed is the
tokenizer's own and is measured apart. `--full` searches 1,000,000 rows for near duplicates. `--only-memory` prepares jsonl files of those
megabytes, each in a process of its own, and says what it took at most.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from galvan import recipe
from galvan.data import clean, cut
from galvan.data.near import near_duplicates
from galvan.data.prepare import prepare
from galvan.data.read import read
from galvan.text import tidy, words

ROOT = Path(__file__).resolve().parents[1]


def texts(megabytes: float, seed: int = 0) -> list[str]:
    """Prose-like rows of about 600 characters: words by Zipf's law, sentences, quotes and dashes, in paragraphs."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / (rank + 5) for rank in range(len(vocabulary))]
    stream = iter(rng.choices(vocabulary, weights, k=int(megabytes * 1e6 / 5)))
    rows, size = [], 0
    while size < megabytes * 1e6:
        sentences = []
        for _ in range(6):
            spoken = [next(stream, "end") for _ in range(rng.randint(8, 24))]
            sentence = " ".join(spoken).capitalize() + rng.choice([".", ".", ".", "!", "?", "—so."])
            sentences.append(f"“{sentence}”" if rng.random() < 0.1 else sentence)
        rows.append(" ".join(sentences[:3]) + "\n\n" + " ".join(sentences[3:]))
        size += len(rows[-1])
    return rows


def write(folder: Path, rows: list[str]) -> dict[str, Path]:
    paths = {"csv": folder / "a.csv", "jsonl": folder / "a.jsonl"}
    with paths["csv"].open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text"], *([row] for row in rows)])
    paths["jsonl"].write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def seconds(what: Callable[[], Any], times: int = 3) -> float:
    """The best of some tries, in seconds of process time."""
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        what()
        best = min(best, time.process_time() - begun)
    return best


def read_and_clean(path: Path) -> int:
    how = recipe.Cleaning(near_duplicates=None)
    return len(clean.compared(cut.in_order(clean.clean(read(str(path)), clean.Log(), how)), how, clean.Log()))


def prepared(path: Path) -> int:
    data = recipe.Data.model_validate({"source": str(path), "document_tokens": 4096, "clean": {"near_duplicates": None}})
    return len(prepare(data, 42, lambda text: range(len(text))).documents)  # type: ignore[arg-type, return-value]


def peaks(sizes: list[float]) -> None:
    """Peak memory of preparing files of these sizes, one process each, and what more rows cost."""
    measured = []
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as name:
            path, rows = Path(name) / "a.jsonl", 0
            with path.open("w", encoding="utf-8") as stream:
                for part in range(math.ceil(megabytes / 20)):
                    for row in texts(min(20.0, megabytes - 20 * part), seed=part):
                        stream.write(json.dumps({"text": row}, ensure_ascii=False) + "\n")
                        rows += 1
            code = "import sys; from pathlib import Path; from benchmarks.prepare import prepared; from benchmarks.timing import peak_mib\n"
            code += "prepared(Path(sys.argv[1])); print(peak_mib())"
            done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True, cwd=ROOT)
            measured.append((rows, float(done.stdout)))
            print(f"{megabytes:g} MB of text, {rows:,} rows: {measured[-1][1]:,.0f} MiB at most", flush=True)
    for (rows, peak), (more, higher) in pairwise(measured):
        print(
            f"{higher / peak:.2f} times the memory for {more / rows:.1f} times the rows: {(higher - peak) * 2**20 / (more - rows):.0f} bytes a row"
        )


def with_datasets(path: Path, folder: Path) -> int:
    """The same rows through `datasets`: load, tidy, count words, drop the empty and short ones."""
    import datasets

    datasets.disable_progress_bars()
    kind = "csv" if path.suffix == ".csv" else "json"
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        loaded = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)
        mapped = loaded.map(lambda row: {"text": tidy(row["text"]), "n_words": len(words(row["text"]))})
        return len(mapped.filter(lambda row: row["n_words"] >= 3))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--full", action="store_true", help="1,000,000 rows")
    parser.add_argument("--only-near", action="store_true")
    parser.add_argument("--only-memory", action="store_true")
    parser.add_argument("--sizes", type=float, nargs="+", default=[200, 800], help="megabytes")
    asked = parser.parse_args()
    if asked.only_memory:
        peaks(asked.sizes)
        return
    if not asked.only_near:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = texts(asked.megabytes)
            size = sum(len(row.encode()) for row in rows) / 1e6
            for kind, path in write(folder, rows).items():
                cleaning, whole, other = (
                    seconds(lambda p=path: read_and_clean(p)),
                    seconds(lambda p=path: prepared(p)),
                    seconds(lambda p=path: with_datasets(p, folder), 1),
                )  # type: ignore[misc]
                print(
                    f"{kind}: read and clean {size / cleaning:.1f} MB/s, prepare {size / whole:.1f} MB/s, datasets {size / other:.1f} MB/s; galvan is {other / whole:.2f} times as fast"
                )
    count = 1_000_000 if asked.full else asked.rows
    base = texts(count * 0.9 * 400 / 1e6, seed=1)
    sentences = [part for row in base for part in row.split("\n\n")][: round(count * 0.9)]
    many = sentences + [f"{sentences[n * 7 % len(sentences)]} And one more." for n in range(count - len(sentences))]
    begun = time.process_time()
    found = near_duplicates(many, 0.8)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"near duplicates: {len(many):,} rows, {len(found):,} found of {count - len(sentences):,} planted, in {time.process_time() - begun:.0f} s of one core, {peak:.2f} GiB at most"
    )


if __name__ == "__main__":
    main()
