"""What scoring and reading cost as documents grow: processor time a token, and memory at the peak.

    python -m benchmarks --only scale

A model of 9,000 parameters scores one file of letters, repeated under ids of their own, so that what is measured is galvan's share and
not the model's. Each size is a process of its own, because a peak of memory never goes down; sizes take turns with the smallest one,
so that a machine that slows down slows both. `scores.parquet` is read back as the comparison reads it, in one more process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import Row, peak_mib

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = 16  # a document: short ones, so that what each costs by itself counts


def score(number: int, folder: Path) -> dict[str, float]:
    """Score `number` documents under one arm, from disk to disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from galvan import models
    from galvan.data.read import read
    from galvan.data.store import spool_of
    from galvan.measure.scoring import scores, write_scores
    from galvan.rundir import Document

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = models.load_tokenizer(models.locate("galvan/spark"))
    shape = {"hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer))).eval()
    letters = [" ".join(row.text.split()[:WORDS]) for row in read("galvan/letters", "text")]
    documents = spool_of(Document, (Document(str(i), letters[i % len(letters)], "letters", i) for i in range(number)), folder)
    list(scores(model, tokenizer, documents[:100], "warm-up", "test", 514))  # what is only paid once
    before, started = peak_mib(), time.process_time()
    tokens = 0

    def counted():  # type: ignore[no-untyped-def]
        nonlocal tokens
        for row in scores(model, tokenizer, documents, "base", "test", 514):
            tokens += row.n_tokens
            yield row

    write_scores(folder / f"scores-{number}.parquet", counted())
    return {"seconds": time.process_time() - started, "tokens": tokens, "before": before, "peak": peak_mib()}


def read(number: int, folder: Path) -> dict[str, float]:
    from galvan.compare import read_scores

    before, started = peak_mib(), time.process_time()
    read_scores(folder / f"scores-{number}.parquet")
    return {"seconds": time.process_time() - started, "before": before, "peak": peak_mib()}


def apart(what: str, number: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", what, str(number), str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def measure(sizes: Sequence[int]) -> list[Row]:
    """Processor microseconds a token and MiB at the peak; each size beside the smallest, before and after it."""
    least, rows = min(sizes), []
    with tempfile.TemporaryDirectory() as scratch:
        for number in sizes:
            first, found, last = (apart("score", n, Path(scratch)) for n in (least, number, least))
            usual = (first["seconds"] + last["seconds"]) / (first["tokens"] + last["tokens"])
            cost = found["seconds"] / found["tokens"]
            back = apart("read", number, Path(scratch))
            rows += [
                Row(
                    "Scoring, its own cost",
                    f"{number:,} documents, {cost / usual:.2f} x that of {least:,}",
                    "µs/token",
                    [1e6 * cost],
                ),
                Row("Scoring, peak of memory", f"{number:,} documents ({found['before']:.0f} before it)", "MiB", [found["peak"]]),
                Row(
                    "Reading the scores, peak of memory",
                    f"{number:,} documents ({back['before']:.0f} before it)",
                    "MiB",
                    [back["peak"]],
                ),
            ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="One size, in a process of its own.")
    parser.add_argument("what", choices=["score", "read"])
    parser.add_argument("number", type=int)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    print(json.dumps({"score": score, "read": read}[asked.what](asked.number, asked.folder)))


if __name__ == "__main__":
    main()
