"""One epoch of LoRA on the same rows in the same order: galvan's loop, and TRL's SFTTrainer and the HF Trainer at their best on a CPU.

That setting is one row a pass with 16 passes accumulated, without checkpointing of gradients: padded batches and packing are slower there.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Row, take_turns, throughput
from benchmarks.workload import SEED, TRAINING, Workload
from galvan import models
from galvan.data.tokens import TokenRow
from galvan.rundir import read_rows
from galvan.training.loop import train

AGREEMENT_NATS = 1e-3  # of the mean loss of the steps: a faster loop that learns something else is no faster
DROPOUT_NATS = 0.05  # dropout draws differ between loops


def measure(work: Workload, dropout: float = 0.0) -> list[Row]:
    rows = work.rows()
    assert len(rows) % (TRAINING.batch_size * TRAINING.accumulation) == 0
    mean_loss: dict[str, float] = {}

    def galvan() -> float:
        model = work.lora_model(dropout)
        with tempfile.TemporaryDirectory() as folder:
            seconds = train(model, rows, TRAINING, SEED, Path(folder)).seconds
            mean_loss["galvan"] = statistics.mean(row["loss_nats"] for row in read_rows(Path(folder) / "training.jsonl"))
        return seconds

    def peer(name: str, build: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = build(work, rows, folder, dropout)
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
        (mean_loss[name],) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        return seconds

    contestants = {"galvan": galvan}
    for name, build in (("TRL SFTTrainer", _sft_trainer), ("HF Trainer", _hf_trainer)):
        contestants[f"{name}, 1 row x 16 passes"] = functools.partial(peer, name, build)
    ceiling = work.matmul_rate()
    seconds = take_turns(contestants, work.size.rounds)
    ceiling = max(ceiling, work.matmul_rate())  # of two moments: a machine that rests for one of them is not the limit
    spread = max(mean_loss.values()) - min(mean_loss.values())
    if spread > (AGREEMENT_NATS if not dropout else DROPOUT_NATS):
        raise SystemExit(f"The trainers did not do the same work: the mean losses are {mean_loss}.")
    tokens = sum(row.n_supervised for row in rows)
    what = f"LoRA training, {work.scale}" + (f", dropout {dropout}" if dropout else "")
    share = 4 * work.multiplications() * tokens / statistics.median(seconds["galvan"]) / ceiling
    return [*throughput(what, tokens, seconds), Row(what, "galvan, of the matrix-product rate", "%", [100 * share])]


def _hf_trainer(work: Workload, rows: list[TokenRow], folder: str, dropout: float) -> Any:
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    order = np.random.default_rng([SEED, 0]).permutation(len(rows))
    data = [{"input_ids": torch.from_numpy(rows[i].input_ids), "labels": torch.from_numpy(rows[i].labels)} for i in order]
    effective_batch = TRAINING.batch_size * TRAINING.accumulation
    with models.quiet():
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=1, gradient_accumulation_steps=effective_batch, num_train_epochs=1,
            learning_rate=TRAINING.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=TRAINING.max_gradient_norm,
            train_sampling_strategy="sequential", use_cpu=True, logging_steps=len(rows) // effective_batch, save_strategy="no", report_to=[],
            disable_tqdm=True, seed=SEED,
        )  # fmt: skip
        trainer = Trainer(model=work.lora_model(dropout), args=settings, train_dataset=data)
    trainer.pop_callback(PrinterCallback)
    return trainer


def _sft_trainer(work: Workload, rows: list[TokenRow], folder: str, dropout: float) -> Any:
    from datasets import Dataset, disable_progress_bars
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    order = np.random.default_rng([SEED, 0]).permutation(len(rows))  # that of galvan's first epoch
    effective_batch = TRAINING.batch_size * TRAINING.accumulation
    with models.quiet():
        settings = SFTConfig(
            output_dir=folder, per_device_train_batch_size=1, gradient_accumulation_steps=effective_batch, num_train_epochs=1,
            learning_rate=TRAINING.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=TRAINING.max_gradient_norm,
            train_sampling_strategy="sequential", max_length=None, use_cpu=True, bf16=False, gradient_checkpointing=False,
            logging_steps=len(rows) // effective_batch, save_strategy="no", report_to=[], disable_tqdm=True, seed=SEED,
        )  # fmt: skip
        data = Dataset.from_list([{"input_ids": rows[i].input_ids.tolist()} for i in order])
        trainer = SFTTrainer(model=work.lora_model(dropout), args=settings, train_dataset=data, processing_class=work.tokenizer)
    trainer.pop_callback(PrinterCallback)
    return trainer
