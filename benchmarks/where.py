"""Where the time of galvan's training step and of its scoring goes: shares of the processor's time by kind of operation.

python -m benchmarks.where     # torch.profiler, one thread, 16 letters at S and M
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.workload import MAX_TOKENS, SEED, TRAINING, Size, Workload
from galvan.measure.scoring import score
from galvan.training.loop import train

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "softmax and likelihood": ("logsumexp", "log_softmax", "softmax", "gather", "exp"),
}


def shares(work: Workload, training: bool) -> tuple[dict[str, float], int]:
    """Kind -> share of self CPU time, and how many operations were called."""
    rows, model = work.rows(), work.lora_model() if training else work.model()
    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as seen:
        if training:
            train(model, rows, TRAINING, SEED, Path(folder))
        else:
            score(model, work.tokenizer, work.documents[:16], "base", "test", MAX_TOKENS)
    spent: Counter[str] = Counter()
    calls = 0
    for event in seen.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "all else")
        spent[kind] += event.self_cpu_time_total
        calls += event.count
    return {kind: spent[kind] / sum(spent.values()) for kind in (*KINDS, "all else")}, calls


def main() -> None:
    torch.set_num_threads(1)
    print("| | " + " | ".join((*KINDS, "all else")) + " | operations |")
    print("| --- |" + " ---: |" * (len(KINDS) + 2))
    for scale in ("S", "M"):
        work = Workload.load(Size(16, 16, 1), scale)
        for what in ("training", "scoring"):
            found, calls = shares(work, what == "training")
            print(f"| {what}, {scale} | " + " | ".join(f"{share:.0%}" for share in found.values()) + f" | {calls:,} |", flush=True)


if __name__ == "__main__":
    main()
