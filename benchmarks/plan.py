"""How well `galvan plan` predicts: memory and time of a training, worked out in one process and then really needed in another.

python -m benchmarks.plan [S M L] [--methods METHOD ...]   # prints a table; every ratio should lie within 0.8 to 1.2

Memory is the peak resident size of a process that loads the base and trains. Time is processor time on one thread, so that another process on
the same machine does not change what is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, checkpointing": {"gradient_checkpointing": True},
    "full": {"method": "full", "learning_rate": 1e-5},
    "lora, all-linear, rank 32": {"lora": {"rank": 32, "targets": "all-linear"}},
}
STEPS = {"S": 6, "M": 3, "L": 2}
PROBE = 8  # training documents that are scored at the start and at the end


def child(what: str, scale: str, method: str, folder: Path) -> dict[str, Any]:
    """`predict` or `train` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan", "--child", what, scale, method, str(folder)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_child(what: str, scale: str, method: str, folder: Path) -> dict[str, Any]:

    import torch

    from benchmarks.timing import peak_mib
    from benchmarks.workload import SEED, TRAINING, Size, Workload
    from galvan import models
    from galvan.models import Choice, Located
    from galvan.recipe import Model, Recipe, Training
    from galvan.training import cost
    from galvan.training.loop import train

    torch.set_num_threads(1)
    asked = Training.model_validate(TRAINING.model_dump() | METHODS[method] | {"batch_size": 16, "accumulation": 1, "epochs": 1.0})
    rows = Workload.load(Size(16 * STEPS[scale], 0, 1), scale).rows()
    base, device, dtype = Located(scale, folder), Choice("cpu", ""), Choice("float32", "")
    settings = Model(base=str(folder), dtype="float32", device="cpu")
    if what == "predict":
        scored = sum(len(row.input_ids) for row in rows[:PROBE])
        found = cost.measure(base, Recipe(model=settings, training=asked), rows, scored, device, dtype, time.process_time)
        return {"seconds": found.seconds, "bytes": found.memory_bytes, "parts": found.parts_bytes}
    model = models.load_base(base, settings, device, dtype)
    if asked.method == "lora":
        model = models.add_lora(model, asked.lora, scale, None, SEED)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        train(model, rows, asked, SEED, Path(work), (), rows[:PROBE])
    return {"seconds": time.process_time() - begun, "bytes": peak_mib() * 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("scales", nargs="*", default=["S", "M", "L"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(in_child(*asked.child[:3], Path(asked.child[3]))))
        return
    from benchmarks.workload import Size, Workload

    print(
        "| size | method | predicted MiB | peak MiB | ratio | predicted s | processor s | ratio |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for scale in asked.scales:
        with tempfile.TemporaryDirectory() as folder:
            Workload.load(Size(16, 0, 1), scale).model().save_pretrained(folder)
            for method in asked.methods:
                told, real = (child(what, scale, method, Path(folder)) for what in ("predict", "train"))
                print(
                    f"| {scale} | {method} | {told['bytes'] / 2**20:,.0f} | {real['bytes'] / 2**20:,.0f} | {told['bytes'] / real['bytes']:.2f} "
                    f"| {told['seconds']:.1f} | {real['seconds']:.1f} | {told['seconds'] / real['seconds']:.2f} |",
                    flush=True,
                )
                print(
                    "  " + ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in told["parts"].items()),
                    file=sys.stderr,
                    flush=True,
                )


if __name__ == "__main__":
    main()
