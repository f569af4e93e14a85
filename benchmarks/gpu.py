"""Mistral-7B's shape with random weights on one GPU: how fast galvan trains and scores there, in how much memory, and does it recover?

    python -m benchmarks.gpu --out gpu.json [--layers 2] [--only training] [--tiny]

One H100 or H200, a few minutes; the JSON is written anew after every part, so that what was measured survives what comes next. `--layers` takes so
many of the 32 layers, `--only` the parts whose names begin so; `--tiny` runs the same story with a tiny model on a CPU. Tokens are those predicted.
Shares are of 989 TFLOP/s, the bf16 peak of both cards: training an adapter takes 4 N operations a token, scoring 2 N, N being the weights that every
token is multiplied by.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products, for the test of resuming

import numpy as np
import torch

from galvan import models
from galvan.data.read import read
from galvan.data.tokens import TokenRow
from galvan.measure.scoring import scores
from galvan.models import Located
from galvan.progress import Silent
from galvan.recipe import Lora, Model, Training
from galvan.rundir import Document, read_rows, write_text
from galvan.training.loop import train
from galvan.unpadded import why_not_own

PEAK_FLOPS = 989e12
SEED = 0
MISTRAL = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": None,
}  # fmt: skip
TINY = MISTRAL | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "vocab_size": 4096, "max_position_embeddings": 1024}  # fmt: skip
SHAPES = {"227-token documents": (227, 16, 8), "4,096-token rows": (4096, 4, 6)}  # tokens a document, documents a step, steps
RIVALS = ("HF Trainer", "TRL SFTTrainer")
TARGETS: dict[str, Any] = {"q,k,v,o": ["q_proj", "k_proj", "v_proj", "o_proj"], "all linear": "all-linear"}


class Bench:
    """The JSON as it grows, and what all parts share."""

    def __init__(self, out: Path, tiny: bool, folder: Path, only: str = "") -> None:
        self.out, self.tiny, self.folder, self.only, self.started = out, tiny, folder, only, time.perf_counter()
        self.cuda = torch.cuda.is_available() and not tiny
        self.device = "cuda" if self.cuda else "cpu"
        packages = {name: version(name) for name in ("torch", "transformers", "peft")}
        name = torch.cuda.get_device_name() if self.cuda else platform.machine()
        self.found: dict[str, Any] = {"device": name, "tiny": tiny, "python": platform.python_version(), **packages}

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Add what `work` finds; a part that fails is written down as failed, and the others go on."""
        if name != "base" and not name.startswith(self.only):
            return
        begun = time.perf_counter()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            found = work()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        if self.cuda:
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self.found[name] = found | {"part_seconds": round(time.perf_counter() - begun, 1)}
        self.found["seconds"] = round(time.perf_counter() - self.started, 1)
        write_text(self.out, json.dumps(self.found, indent=2) + "\n")
        print(f"{name}: {self.found[name]}", flush=True)
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def settings(self, quantization: str) -> Model:
        dtype = "bfloat16" if self.cuda else "float32"
        return Model(dtype=dtype, device=self.device, quantization=quantization)  # type: ignore[arg-type]

    def base(self, quantization: str = "none") -> Any:
        return models.load_base(Located("mistral-random", self.folder / "base"), self.settings(quantization))

    def tuned(self, quantization: str = "none", targets: Any = None) -> Any:
        """A fresh adapter on a fresh base."""
        base = self.base(quantization)
        return models.add_lora(
            base, Lora(rank=8, alpha=16.0, dropout=0.0, targets=targets or TARGETS["q,k,v,o"]), "mistral", None, SEED
        )

    def share(self, tokens_per_second: float, multiplications: int, operations: int) -> float | None:
        return round(100 * operations * multiplications * tokens_per_second / PEAK_FLOPS, 1) if self.cuda else None


def rows_of(n: int, length: int, vocabulary: int) -> list[TokenRow]:
    ids = np.random.default_rng(SEED).integers(3, vocabulary, (n, length))
    return [TokenRow(str(i), one, np.concatenate([[-100], one[1:]])) for i, one in enumerate(ids)]


def settings_of(documents_per_step: int, **more: Any) -> Training:
    plain = {
        "epochs": 1.0,
        "accumulation": 1,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "evaluations": 1,
        "checkpoint_seconds": 3600.0,
    }
    return Training(batch_size=documents_per_step, learning_rate=1e-4, **(plain | more))


def multiplications(shape: dict[str, Any]) -> int:
    h, kv = shape["hidden_size"], shape["hidden_size"] * shape["num_key_value_heads"] // shape["num_attention_heads"]
    return int(shape["num_hidden_layers"] * h * (2 * h + 2 * kv + 3 * shape["intermediate_size"]) + h * shape["vocab_size"])


def make_base(bench: Bench, shape: dict[str, Any]) -> dict[str, Any]:
    """Random weights on disk, for everything after this loads a base as a user does."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(SEED)
    with torch.device(bench.device):
        model = MistralForCausalLM(MistralConfig(**shape, tie_word_embeddings=False)).to(torch.bfloat16)
    model.save_pretrained(bench.folder / "base")
    return {"parameters": sum(p.numel() for p in model.parameters()), "multiplications": multiplications(shape)}


def load(bench: Bench, quantization: str) -> dict[str, Any]:
    begun = time.perf_counter()
    model = bench.base(quantization)
    return {"seconds": round(time.perf_counter() - begun, 1), "weights_gib": round(model.get_memory_footprint() / 2**30, 2)}


def training(
    bench: Bench, shape: dict[str, Any], quantization: str, targets: Any, length: int, documents: int, steps: int
) -> dict[str, Any]:
    """Median tokens a second of the steps after the second."""
    model = bench.tuned(quantization, targets)
    rows = rows_of(documents * steps, length, shape["vocab_size"])
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    train(model, rows, settings_of(documents), SEED, folder)
    trace = list(read_rows(folder / "training.jsonl"))
    seconds = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(trace)][1:]
    speed = documents * (length - 1) / max(statistics.median(seconds), 1e-9)
    return {
        "tokens_per_second": round(speed), "percent_of_peak": bench.share(speed, multiplications(shape), 4), "tokens_per_pass": trace[-1]["tokens_per_pass"],
        "own_forward": why_not_own(model) or True, "losses": [round(row["loss_nats"], 4) for row in trace],
    }  # fmt: skip


def rival(bench: Bench, shape: dict[str, Any], name: str, length: int, documents: int, steps: int) -> dict[str, Any]:
    """The same rows, adapter and settings through another trainer, every document of a step in one pass: no padding, for all are as long."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    rows = rows_of(documents * steps, length, shape["vocab_size"])
    order = np.random.default_rng([SEED, 0]).permutation(len(rows))  # that of galvan's first epoch
    ended: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            if bench.cuda:
                torch.cuda.synchronize()
            ended.append(time.perf_counter())

    common = {
        "output_dir": tempfile.mkdtemp(dir=bench.folder), "per_device_train_batch_size": documents, "num_train_epochs": 1, "learning_rate": 1e-4,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "train_sampling_strategy": "sequential", "bf16": bench.cuda,
        "use_cpu": not bench.cuda, "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": SEED,
    }  # fmt: skip
    model = bench.tuned()
    with models.quiet():
        if name == "HF Trainer":
            from transformers import Trainer, TrainingArguments

            data = [{"input_ids": torch.from_numpy(rows[i].input_ids), "labels": torch.from_numpy(rows[i].labels)} for i in order]
            trainer: Any = Trainer(model=model, args=TrainingArguments(**common), train_dataset=data)
        else:
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            data = Dataset.from_list([{"input_ids": rows[i].input_ids.tolist()} for i in order])
            tokenizer = models.load_tokenizer(models.locate("galvan/spark"))
            trainer = SFTTrainer(
                model=model, args=SFTConfig(max_length=None, **common), train_dataset=data, processing_class=tokenizer
            )
    trainer.pop_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    seconds = [after - before for before, after in itertools.pairwise(ended)][1:]
    speed = documents * (length - 1) / max(statistics.median(seconds), 1e-9)
    losses = [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]
    return {"tokens_per_second": round(speed), "percent_of_peak": bench.share(speed, multiplications(shape), 4), "losses": losses}


def scoring(bench: Bench, shape: dict[str, Any], quantization: str) -> dict[str, Any]:
    """The letters twice over, after one untimed block."""
    tokenizer = models.load_tokenizer(models.locate("galvan/spark"))
    texts = [row.text for row in read("galvan/letters", "text")] * 2
    documents = [Document(str(i), text, "letters", i) for i, text in enumerate(texts[:8] if bench.tiny else texts)]
    model = bench.base(quantization)
    list(scores(model, tokenizer, documents[:32], "warm-up", "test", 514, 16384))
    if bench.cuda:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    tokens = sum(row.n_tokens for row in scores(model, tokenizer, documents, "base", "test", 514, 16384))
    speed = tokens / (time.perf_counter() - begun)
    return {"tokens": tokens, "tokens_per_second": round(speed), "percent_of_peak": bench.share(speed, multiplications(shape), 2)}


class _Stop(Exception):
    pass


class _StopsAfter(Silent):
    """A run that dies after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if amount and self.left < 0:
            raise _Stop


def resume(bench: Bench, shape: dict[str, Any]) -> dict[str, Any]:
    """Four steps undisturbed, and four of which the run died after two: the same bytes? With deterministic kernels."""
    rows, settings = rows_of(16, 61, shape["vocab_size"]), settings_of(4, checkpoint_seconds=0.0)
    adapters = []
    torch.use_deterministic_algorithms(True)
    try:
        for stop in (None, 2):
            folder = Path(tempfile.mkdtemp(dir=bench.folder))
            if stop is not None:
                with suppress(_Stop):
                    train(bench.tuned(), rows, settings, SEED, folder, progress=_StopsAfter(stop))
            model = bench.tuned()
            ended = train(model, rows, settings, SEED, folder)
            adapters.append((ended.resumed_at, {n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad}))
            del model
    finally:
        torch.use_deterministic_algorithms(False)
    (_, whole), (resumed_at, again) = adapters
    return {"resumed_at": resumed_at, "identical": all(torch.equal(p, again[n]) for n, p in whole.items())}


@contextmanager
def little_memory(gib: float) -> Iterator[None]:
    """Inside, this process may take only so much of the GPU."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / torch.cuda.get_device_properties(0).total_memory))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def out_of_memory(bench: Bench, shape: dict[str, Any]) -> dict[str, Any]:
    """A batch that does not fit into 12 GiB beyond the weights: the pass is halved until it does, and the loss stays the same."""
    if not bench.cuda:
        return {"skipped": "a limit on memory can be set on a GPU only"}
    rows, losses, passes = rows_of(16, 1024, shape["vocab_size"]), [], []
    for gib in (None, 12.0):
        model, folder = bench.tuned(), Path(tempfile.mkdtemp(dir=bench.folder))
        torch.cuda.empty_cache()
        with little_memory(1e6 if gib is None else gib + torch.cuda.memory_allocated() / 2**30):
            train(model, rows, settings_of(16), SEED, folder)
        (row,) = read_rows(folder / "training.jsonl")
        losses.append(row["loss_nats"]), passes.append(row["tokens_per_pass"])
        del model
    return {"tokens_per_pass": passes, "losses": losses, "halved": passes[1] < passes[0]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true", help="A tiny model on the CPU: shows that it works.")
    parser.add_argument("--layers", type=int, default=32, help="Of the 32 so many.")
    parser.add_argument("--only", default="", help="The parts whose names begin so.")
    asked = parser.parse_args(arguments)
    shape = TINY if asked.tiny else MISTRAL | {"num_hidden_layers": asked.layers}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked.out, asked.tiny, Path(folder), asked.only)
        if not (bench.cuda or bench.tiny):
            raise SystemExit("No GPU is at hand; --tiny shows on a CPU that it works.")
        bench.part("base", lambda: make_base(bench, shape))
        for quantization in ("none", "nf4"):
            bench.part(f"load, {quantization}", lambda q=quantization: load(bench, q))  # type: ignore[misc]
            bench.part(f"scoring, {quantization}", lambda q=quantization: scoring(bench, shape, q))  # type: ignore[misc]
            for (name, targets), (rows, numbers) in itertools.product(TARGETS.items(), SHAPES.items()):
                sizes = (31, 2, 4) if bench.tiny else numbers
                bench.part(
                    f"training, {quantization}, {name}, {rows}",
                    lambda q=quantization, t=targets, s=sizes: training(bench, shape, q, t, *s),  # type: ignore[misc]
                )
        for name, (rows, numbers) in itertools.product(RIVALS, SHAPES.items()):
            sizes = (31, 2, 4) if bench.tiny else numbers
            bench.part(f"{name}, none, q,k,v,o, {rows}", lambda n=name, s=sizes: rival(bench, shape, n, *s))  # type: ignore[misc]
        bench.part("resume", lambda: resume(bench, shape))
        bench.part("out of memory", lambda: out_of_memory(bench, shape))


if __name__ == "__main__":
    main()
