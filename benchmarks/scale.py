"""What scoring and judging cost as documents grow: processor time a token, and memory at the peak.

    python -m benchmarks --only scale

A model of 9,000 parameters scores one file of letters, repeated under ids of their own, so that what is measured is galvan's share and
not the model's. Each size is a process of its own, because a peak of memory never goes down; sizes take turns with the smallest one,
so that a machine that slows down slows both. In one more process `scores.parquet` is judged, with a second arm beside it: the first with noise and a gain, for judging asks no model.
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


def two_arms(number: int, folder: Path) -> dict[str, float]:
    """Put a second arm into the file of the first."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, path = np.random.default_rng(0), folder / f"scores-{number}.parquet"
    whole = path.with_suffix(".both.parquet")
    with pq.ParquetFile(path) as stream, pq.ParquetWriter(whole, stream.schema_arrow, compression="zstd") as writer:
        for batch in stream.iter_batches(4096):
            writer.write_batch(batch)
        for batch in stream.iter_batches(4096):
            lists = batch.column("token_nll_nats")
            flat = lists.flatten().to_numpy().astype(np.float64)
            other = (flat + rng.normal(-0.01, 0.2, len(flat))).astype(np.float32)
            begins = lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py()
            columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {
                "arm": pa.array(["tuned"] * batch.num_rows),
                "nll_nats": pa.array(np.add.reduceat(other.astype(np.float64), begins)),
                "token_nll_nats": pa.ListArray.from_arrays(pa.array([*begins, len(flat)], pa.int32()), pa.array(other)),
            }
            writer.write_table(pa.table(columns).cast(stream.schema_arrow))
    whole.replace(path)
    return {}


def judge(number: int, folder: Path) -> dict[str, float]:
    from galvan.compare import compare

    before, started = peak_mib(), time.process_time()
    found = compare(folder / f"scores-{number}.parquet", 0.01)
    assert found.test is not None and found.test.n_documents == number
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
            apart("two_arms", number, Path(scratch))
            judged = apart("judge", number, Path(scratch))
            rows += [
                Row(
                    "Scoring, its own cost",
                    f"{number:,} documents, {cost / usual:.2f} x that of {least:,}",
                    "µs/token",
                    [1e6 * cost],
                ),
                Row("Scoring, peak of memory", f"{number:,} documents ({found['before']:.0f} before it)", "MiB", [found["peak"]]),
                Row("Judging two arms", f"{number:,} documents", "s", [judged["seconds"]]),
                Row("Judging, peak of memory", f"{number:,} documents ({judged['before']:.0f} before it)", "MiB", [judged["peak"]]),
            ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="One size, in a process of its own.")
    parser.add_argument("what", choices=["score", "two_arms", "judge"])
    parser.add_argument("number", type=int)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    print(json.dumps({"score": score, "two_arms": two_arms, "judge": judge}[asked.what](asked.number, asked.folder)))


if __name__ == "__main__":
    main()
