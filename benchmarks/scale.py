"""What scoring and reading cost as documents grow: processor time a token, and memory at the peak.

    python -m benchmarks.scale [--documents 1000 10000 100000]

A model of 9,000 parameters scores one file of letters, repeated under ids of their own, so that what is measured is galvan's share and
not the model's. Each size is a process of its own, because a peak of memory never goes down; sizes take turns with the smallest one,
so that a machine that slows down slows both. `scores.parquet` is read back as the comparison reads it, in one more process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = 16  # a document: short ones, so that what each costs by itself counts


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    command = [sys.executable, "-m", "benchmarks.scale", "--one", what, str(number), str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        what, number, folder = asked.one
        print(json.dumps({"score": score, "read": read}[what](int(number), Path(folder))))
        return
    least = min(asked.documents)
    print(
        "| documents | tokens | processor microseconds a token | beside | peak of scoring, MiB (before it) | reading, seconds | peak of reading, MiB (before it) |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for number in asked.documents:
            reference = [apart("score", least, Path(scratch))]
            found = apart("score", number, Path(scratch))
            reference.append(apart("score", least, Path(scratch)))
            cost = found["seconds"] / found["tokens"]
            usual = sum(one["seconds"] for one in reference) / sum(one["tokens"] for one in reference)
            back = apart("read", number, Path(scratch))
            print(
                f"| {number:,} | {found['tokens']:,.0f} | {1e6 * cost:.1f} | {cost / usual:.2f} x that of {least:,} | {found['peak']:.0f} ({found['before']:.0f}) | "
                f"{back['seconds']:.1f} | {back['peak']:.0f} ({back['before']:.0f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
