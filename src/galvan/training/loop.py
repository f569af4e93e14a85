"""The training loop: one story from the first evaluation to the last.

The loss of a step is the NLL of all its supervised tokens divided by their number, so that neither the split into passes nor
uneven rows change the gradient. Order is a function of seed and epoch only. Validation and probe documents are scored at step 0
and along the way, per document, in evaluation mode: running losses are not comparable, these are.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from galvan import distributed
from galvan.data.tokens import TokenRow
from galvan.errors import DataError, ModelError, ResourceError, Terminated
from galvan.likelihood import causal_lm, supports_chunks
from galvan.progress import Progress, Silent
from galvan.recipe import Training
from galvan.rundir import fingerprint, read_rows, write_rows
from galvan.text import shown
from galvan.training import gradients
from galvan.training.checkpoint import load_checkpoint, save_checkpoint
from galvan.training.gradients import batch_gradient as batch_gradient  # loss_checks measures the name that the steps call
from galvan.training.gradients import evaluate_rows
from galvan.training.live_checks import require_true_loss
from galvan.training.movement import STEPS as WATCHED_STEPS
from galvan.training.movement import copies, gradient_left, movement
from galvan.training.optimizers import build_optimizers, learning_rate_factor, steps_per_epoch, total_steps
from galvan.training.pace import Pace
from galvan.training.packing import collate_packs, require_masked_seams, require_reset
from galvan.unpadded import supports_unpadded

RowsOfEpoch = Callable[[int], Sequence[TokenRow]]
Watch = Callable[[int, Mapping[str, float]], None]  # step, and figures by name: what a tracker draws


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What a training run came to; the trace is in `training.jsonl`, the evaluations per document in `curves.jsonl`."""

    steps: int
    tokens: int
    trainable_parameters: int
    seconds: float
    resumed_at: int
    optimizer_parameters: int


def is_out_of_memory(error: Exception) -> bool:
    """True for what torch raises where a device or the machine has no memory left; on a CPU that is a plain RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM is only noted, so that a step is finished and saved; the function says whether it came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def train(
    model: nn.Module,
    rows: Sequence[TokenRow] | RowsOfEpoch,
    settings: Training,
    seed: int,
    folder: Path,
    validation: Sequence[TokenRow] = (),
    probe: Sequence[TokenRow] = (),
    identity: str = "",
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train `model` in place and write `training.jsonl`, `curves.jsonl` and checkpoints into `folder`.

    `rows` are the same every epoch, or a function from the epoch (from 0) to its rows, each epoch of the same length as the first or
    near it. `identity` names everything else that the weights depend on; a checkpoint of another identity is not taken. Of several
    processes each takes its part of every batch and has dropout of its own; the first writes. A run goes on with any number of them.
    Raises DataError if nothing is supervised, ModelError if no parameter would train or the loss is no longer finite.
    """
    progress = progress or Silent()
    rows_of_epoch: RowsOfEpoch = rows if callable(rows) else lambda epoch: rows
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ModelError(
            "training/nothing-trains",
            "No parameter of the model requires a gradient, so nothing would be learned; check training.method and training.lora.targets.",
        )
    first_epoch = rows_of_epoch(0)
    if not sum(row.n_supervised for row in first_epoch):
        raise DataError(
            "training/no-targets",
            f"None of the {len(first_epoch)} training rows has a token to learn; look at them with `galvan prepare`.",
        )
    torch.manual_seed(seed + (distributed.rank() << 32))
    distributed.same_start(parameters.values())
    optimizers = build_optimizers(model, parameters, settings)
    chunked = supports_chunks(model)
    unpadded = supports_unpadded(model, chunked)
    if settings.gradient_checkpointing:
        causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
    if settings.packing and not unpadded:
        require_reset(model)
    if settings.packing or unpadded:
        require_masked_seams(collate_packs([list(first_epoch[: settings.batch_size])], torch.device("cpu")))
    of_a_row = next(row for row in first_epoch if row.n_supervised)
    require_true_loss(
        model, of_a_row, lambda one, ids, labels: gradients.sum_nll(one, ids, labels, chunked)
    )  # the name that the steps call
    per_epoch, steps = steps_per_epoch(len(first_epoch), settings), total_steps(len(first_epoch), settings)
    evaluate_after = {round(steps * k / settings.evaluations) for k in range(1, settings.evaluations + 1)}

    mark = fingerprint(
        {
            "identity": identity,
            "settings": settings.model_dump(exclude={"checkpoint_seconds"}),
            "seed": seed,
            "steps": steps,
            "torch": torch.__version__,
        }
    )
    checkpoint = folder / "checkpoint.safetensors"
    position = load_checkpoint(checkpoint, parameters, optimizers, mark) or {"step": 0, "tokens": 0, "seconds": 0.0}
    start, tokens = int(position["step"]), int(position["tokens"])
    if len(set(distributed.gathered(start))) > 1:
        raise ResourceError(
            "distributed/folder",
            f"The processes of this run do not see the same files in {shown(str(folder))}; give them one folder in common.",
        )
    device = next(model.parameters()).device
    budget = int(position.get("tokens_per_pass", gradients.TOKENS_PER_UNPADDED_PASS if unpadded else gradients.TOKENS_PER_PASS))
    trace = [row for row in read_rows(folder / "training.jsonl") if row["step"] <= start] if start else []
    curves = [row for row in read_rows(folder / "curves.jsonl") if row["step"] <= start] if start else []
    if start:
        progress.say(f"Training goes on at step {start} of {steps}, from the checkpoint.")

    def evaluate(step: int) -> None:
        for name, some in (("validation", validation), ("probe", probe)):
            found = distributed.shared(some, lambda mine: evaluate_rows(model, mine, chunked, unpadded))
            curves.extend({"step": step, "set": name, **row} for row in found)
            if watch is not None and found:
                watch(
                    step, {f"{name}/nats_per_token": sum(row["nll_nats"] for row in found) / sum(row["n_tokens"] for row in found)}
                )
            for row in found:
                if not math.isfinite(row["nll_nats"]):
                    raise not_finite(
                        f"After step {step} of {steps} the NLL of {name} document {shown(row['document'])} is {row['nll_nats']}"
                    )

    def not_finite(what: str) -> ModelError:
        if not distributed.rank():
            write_rows(folder / "training.jsonl", trace)
        return ModelError(
            "training/non-finite", f"{what}; lower training.learning_rate (now {settings.learning_rate}) or use float32."
        )

    def save(step: int) -> None:
        if not distributed.rank():
            write_rows(folder / "training.jsonl", trace)
            write_rows(folder / "curves.jsonl", curves)
        position = {"step": step, "tokens": tokens, "seconds": seconds, "tokens_per_pass": budget, "threads": pace.kept}
        save_checkpoint(checkpoint, parameters, optimizers, position, mark)

    def fitting_gradient(batch: Sequence[TokenRow], supervised: int) -> float:
        """The batch's gradient in passes that fit: out of memory halves the pass and keeps the batch, from this step on."""
        nonlocal budget
        mine, short = distributed.share(batch, lambda row: len(row.input_ids)), False
        while True:
            begun = time.monotonic()
            try:
                loss = batch_gradient(model, mine, settings.batch_size, chunked, settings.packing, unpadded, budget, supervised)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                short = True
            (short,) = distributed.agree(short)
            if not short:
                pace.step(time.monotonic() - begun, sum(len(row.input_ids) for row in mine))
                distributed.sum_gradients(parameters.values())
                return distributed.summed(loss)
            short = False
            longest = max(len(row.input_ids) for row in batch)
            for parameter in parameters.values():
                parameter.grad = None
            if budget <= longest:
                raise ResourceError(
                    "memory/step",
                    f"One document of {longest} tokens does not fit into the memory of {device.type} for training; set "
                    "training.gradient_checkpointing to true, lower training.document_tokens, or take a smaller model.",
                )
            budget = max(longest, budget // 2)
            progress.say(f"Out of memory: passes of {budget} tokens from now on; the batch and its gradient stay the same.")

    if position.get("threads"):
        torch.set_num_threads(int(position["threads"]))
    pace = Pace(torch.get_num_threads() if device.type == "cpu" else 1, torch.set_num_threads, progress.say)
    started, seconds = time.monotonic() - float(position["seconds"]), float(position["seconds"])
    saved = time.monotonic()
    model.train()
    if not start:
        evaluate(0)
    progress.start("Training", steps, "step")
    progress.advance(start)
    epoch_rows, order, epoch_now = first_epoch, np.empty(0, dtype=np.int64), -1
    with sigterm_noticed() as asked_to_stop:
        for step in range(start, steps):
            epoch, within = divmod(step, per_epoch)
            if epoch != epoch_now:
                epoch_rows, epoch_now = rows_of_epoch(epoch), epoch
                order = np.random.default_rng([seed, epoch]).permutation(len(epoch_rows))
            size = settings.batch_size * settings.accumulation
            batch = [epoch_rows[i] for i in order[within * size : (within + 1) * size]]
            supervised = sum(row.n_supervised for row in batch)
            if supervised:  # an epoch of fewer rows than the first can leave its last steps empty
                rate = settings.learning_rate * learning_rate_factor(step, steps, settings)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate * group.get("factor", 1.0)
                watched = step < WATCHED_STEPS
                left = gradient_left(parameters) if watched else 0.0
                threads = pace.threads
                loss = fitting_gradient(batch, supervised)
                norm = float(nn.utils.clip_grad_norm_(list(parameters.values()), settings.max_gradient_norm))
                tokens += supervised
                seconds = time.monotonic() - started
                trace.append(
                    {
                        "step": step + 1,
                        "tokens": tokens,
                        "learning_rate": rate,
                        "loss_nats": loss,
                        "gradient_norm": norm,
                        "seconds": round(seconds, 3),
                        "tokens_per_pass": budget,
                        **({"threads": threads} if device.type == "cpu" else {}),
                    }
                )
                if watch is not None:
                    watch(
                        step + 1,
                        {"train/loss_nats": loss, "train/learning_rate": rate, "train/gradient_norm": norm, "train/tokens": tokens},
                    )
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise not_finite(
                        f"At step {step + 1} of {steps} the "
                        + (f"gradient norm is {norm}" if math.isfinite(loss) else f"loss is {loss}")
                    )
                before = copies(parameters) if watched else {}
                for optimizer in optimizers:
                    optimizer.step()
                if watched:
                    trace[-1] |= {"gradient_left": left, "parameters": movement(parameters, before)}
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
            progress.advance(1, f"loss {trace[-1]['loss_nats']:.3f}, {tokens / max(seconds, 1e-9):,.0f} tokens/s" if trace else "")
            if step + 1 in evaluate_after:
                evaluate(step + 1)
            stopping, due = distributed.agree(asked_to_stop(), time.monotonic() - saved >= settings.checkpoint_seconds)
            if step + 1 == steps or stopping or due:
                save(step + 1)
                saved = time.monotonic()
            if step + 1 < steps and stopping:
                raise Terminated(
                    "training/stopped", f"Stopped by SIGTERM after step {step + 1} of {steps}; the same command goes on there."
                )
    model.eval()
    held = sum(p.numel() for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    return Trained(steps, tokens, sum(p.numel() for p in parameters.values()), seconds, start, held)
