"""The whole job as a user runs it: likelihoods of 481 documents under a base and under its adapter, from the shell's call to the end.

`galvan score` is one process, and checks the adapter before it scores it. lm-eval is asked twice, once a model, one document at a time; the plain
script loads transformers' model, sums `labels=` losses, puts the adapter in with PEFT, and sums again. Each is a fresh process; its peak of
memory is the operating system's own figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.timing import Row, noise_of
from benchmarks.workload import MAX_TOKENS, SEED, Workload

AGREEMENT = 1e-4  # relative, of the sums


@dataclasses.dataclass
class Ended:
    """One or two processes, one after the other: wall time, largest peak of memory, and the sum of NLLs of each model."""

    seconds: float
    peak_mib: float
    nats: list[float]


def measure(work: Workload) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts, adapter, data = folder / "texts.json", folder / "adapter", folder / "texts.csv"
        texts.write_text(json.dumps(list(_texts(work))), encoding="utf-8")
        _csv(data, json.loads(texts.read_text(encoding="utf-8")))
        _adapter(work, adapter)
        base = str(work.base.path)
        jobs = {
            "galvan score": lambda n: _galvan(data, adapter, folder / f"run-{n}"),
            "lm-eval HFLM, batch 1, two runs": lambda n: _both(_one("lm-eval", base, texts), _one("lm-eval", base, texts, adapter)),
            "transformers and PEFT, plain script": lambda n: _one("plain", base, texts, adapter),
        }
        found: dict[str, list[Ended]] = {name: [] for name in jobs}
        for n in range(work.size.jobs):
            for name, job in jobs.items():
                with noise_of():
                    found[name].append(job(n))
    sums = [one.nats for ended in found.values() for one in ended]
    if any(len(nats) != 2 or not np.allclose(nats, sums[0], rtol=AGREEMENT) for nats in sums):
        raise SystemExit(f"The scorers did not do the same work: the sums are {sums}.")
    return [*_rows("Base and adapter, whole job", "s", found, "seconds"), *_rows("Peak of memory", "MiB", found, "peak_mib")]


def _rows(what: str, unit: str, found: dict[str, list[Ended]], field: str) -> Iterator[Row]:
    figures = {name: [float(getattr(one, field)) for one in ended] for name, ended in found.items()}
    ours = float(np.median(figures["galvan score"]))
    for name, values in figures.items():
        yield Row(what, name, unit, values, None if name == "galvan score" else float(np.median(values)) / ours)


def _texts(work: Workload) -> Iterator[str]:
    """As many documents as asked for: half of them letters, half the same with their words in another order, which no cleaning takes for copies."""
    rng, n = np.random.default_rng(SEED), work.size.job_documents
    letters = [document.text for document in work.documents[: (n + 1) // 2]]
    yield from letters
    for i in range(n - len(letters)):
        yield " ".join(rng.permutation(letters[i % len(letters)].split()))


def _csv(path: Path, texts: Sequence[str]) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["text"], *([text] for text in texts)])


def _adapter(work: Workload, folder: Path) -> None:
    import torch

    from galvan import models
    from galvan.measure.arms import randomize

    tuned = work.lora_model()
    randomize(tuned, 0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if ".lora_B." in name:
                weight.mul_(0.1)
    models.save(tuned, folder)


def _galvan(data: Path, adapter: Path, out: Path) -> Ended:
    import pyarrow.parquet as pq

    command = [
        sys.executable,
        "-m",
        "galvan",
        "score",
        "galvan/spark",
        str(adapter),
        "--data",
        str(data),
        "--out",
        str(out),
        "--offline",
    ]
    seconds, peak, _ = _run(command)
    table = pq.read_table(out / "scores.parquet", columns=["arm", "nll_nats"]).to_pylist()
    arms = list(dict.fromkeys(row["arm"] for row in table))
    return Ended(seconds, peak, [sum(row["nll_nats"] for row in table if row["arm"] == arm) for arm in arms])


def _one(what: str, *arguments: object) -> Ended:
    seconds, peak, out = _run([sys.executable, "-m", "benchmarks.job", what, *map(str, arguments)])
    return Ended(seconds, peak, json.loads(out.splitlines()[-1]))


def _both(first: Ended, second: Ended) -> Ended:
    return Ended(first.seconds + second.seconds, max(first.peak_mib, second.peak_mib), first.nats + second.nats)


# The peak of a process is read by a small one that starts it: a child inherits the peak of a large parent.
LAUNCHER = """
import os, resource, sys
status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)[1])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
sys.exit(status)
"""


def _run(command: Sequence[str]) -> tuple[float, float, str]:
    """Wall time, peak MiB and output of a process."""
    with tempfile.TemporaryDirectory() as folder:
        peak = Path(folder) / "peak"
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", LAUNCHER, str(peak), *command], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        return seconds, float(peak.read_text(encoding="utf-8")), done.stdout


def _lm_eval(base: str, texts: list[str], adapter: str | None) -> list[float]:
    from types import SimpleNamespace

    from lm_eval.models.huggingface import HFLM

    judge = HFLM(
        pretrained=base, peft=adapter, backend="causal", max_length=MAX_TOKENS - 1, batch_size=1, add_bos_token=False, dtype="float32",
        device="cpu",
    )  # fmt: skip
    return [-sum(judge.loglikelihood_rolling([SimpleNamespace(args=(text,)) for text in texts], disable_tqdm=True))]


def _plain(base: str, texts: list[str], adapter: str) -> list[float]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in texts]

    def total(model: torch.nn.Module) -> float:
        return sum(float(model(input_ids=row, labels=row).loss) * (row.shape[1] - 1) for row in ids)

    with torch.no_grad():
        plain = total(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval())
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return [plain, total(PeftModel.from_pretrained(fresh, adapter).eval())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job", description="One contestant, in a process of its own.")
    parser.add_argument("what", choices=["lm-eval", "plain"])
    parser.add_argument("base")
    parser.add_argument("texts")
    parser.add_argument("adapter", nargs="?")
    asked = parser.parse_args()
    texts = json.loads(Path(asked.texts).read_text(encoding="utf-8"))
    print(json.dumps({"lm-eval": _lm_eval, "plain": _plain}[asked.what](asked.base, texts, asked.adapter)))


if __name__ == "__main__":
    main()
