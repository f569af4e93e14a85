"""One epoch of LoRA on the same rows in the same order: galvan's loop, and TRL's SFTTrainer at its best setting on a CPU.

That setting is one row a pass with 16 passes accumulated, without checkpointing of gradients: padded batches and packing are slower there.
"""

from __future__ import annotations

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


def measure(work: Workload) -> list[Row]:
    rows = work.rows()
    assert len(rows) % (TRAINING.batch_size * TRAINING.accumulation) == 0
    mean_loss: dict[str, float] = {}

    def galvan() -> float:
        model = work.lora_model()
        with tempfile.TemporaryDirectory() as folder:
            seconds = train(model, rows, TRAINING, SEED, Path(folder)).seconds
            mean_loss["galvan"] = statistics.mean(row["loss_nats"] for row in read_rows(Path(folder) / "training.jsonl"))
        return seconds

    def trl() -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = _sft_trainer(work, rows, folder)
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
        (mean_loss["trl"],) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        return seconds

    seconds = take_turns({"galvan": galvan, "TRL SFTTrainer, 1 row x 16 passes": trl}, work.size.rounds)
    if abs(mean_loss["galvan"] - mean_loss["trl"]) > AGREEMENT_NATS:
        raise SystemExit(f"The trainers did not do the same work: the mean losses are {mean_loss}.")
    return throughput("LoRA training", sum(row.n_supervised for row in rows), seconds)


def _sft_trainer(work: Workload, rows: list[TokenRow], folder: str) -> Any:
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
        trainer = SFTTrainer(model=work.lora_model(), args=settings, train_dataset=data, processing_class=work.tokenizer)
    trainer.pop_callback(PrinterCallback)
    return trainer
