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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from galvan import distributed
from galvan.data.tokens import TokenRow
from galvan.errors import DataError, ModelError, RecipeError, ResourceError, Terminated
from galvan.likelihood import causal_lm, supports_chunks
from galvan.progress import Progress, Silent
from galvan.recipe import Training
from galvan.rundir import fingerprint, read_rows, write_rows
from galvan.text import shown
from galvan.training import gradients, sharding, stopping
from galvan.training.checkpoint import Checkpoints, load_state
from galvan.training.gradients import batch_gradient as batch_gradient  # loss_checks measures the name that the steps call
from galvan.training.gradients import evaluate_rows
from galvan.training.live_checks import Expected, require_start, require_true_loss
from galvan.training.movement import STEPS as WATCHED_STEPS
from galvan.training.movement import Modules, copies, gradient_left, movement
from galvan.training.optimizers import build_optimizers, learning_rate_factor, steps_per_epoch, total_steps
from galvan.training.pace import Pace
from galvan.training.packing import collate_packs, require_masked_seams, require_reset
from galvan.unpadded import fallback, supports_unpadded

RowsOfEpoch = Callable[[int], Sequence[TokenRow]]
Watch = Callable[[int, Mapping[str, float], Sequence[Mapping[str, Any]]], str | None]
"""Called with the step, figures by name (what a tracker draws) and, after an evaluation, all rows of `curves.jsonl` so far. A sentence that
it returns then ends the training and says why; one process alone may do so."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What a training run came to; the trace is in `training.jsonl`, the evaluations per document in `curves.jsonl`.

    `kept_step` is the step whose weights the model has now; `stopped_early` says why the run ended before its last step, where it did.
    """

    steps: int
    tokens: int
    trainable_parameters: int
    seconds: float
    resumed_at: int
    optimizer_parameters: int
    kept_step: int
    stopped_early: str | None


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
    expected: Expected | None = None,
    compute: torch.dtype | None = None,
    device: torch.device | None = None,
    before: Sequence[Mapping[str, Any]] = (),
) -> Trained:
    """Train `model` in place and write `training.jsonl`, `curves.jsonl` and checkpoints into `folder`.

    `rows` are the same every epoch, or a function from the epoch (from 0) to its rows, each epoch of the same length as the first or
    near it. `identity` names everything else that the weights depend on; a checkpoint of another identity is not taken. `expected` is
    what some documents must come to at step 0, and `before` are rows that `curves.jsonl` begins with. `compute` is the dtype of matrix products where it is
    not that of the weights. Of several processes each takes its part of every batch and has dropout of its own; the first writes. A run
    goes on with any number of them. With `settings.shard` they share out the blocks' weights, which then move to `device`.
    Raises DataError if nothing is supervised, ModelError if no parameter would train or the loss is no longer finite.
    """
    rows_of_epoch: RowsOfEpoch = rows if callable(rows) else lambda epoch: rows
    first = rows_of_epoch(0)
    _require_something_to_learn(model, first, settings, validation)
    torch.manual_seed(seed + (distributed.rank() << 32))
    distributed.same_start(p for p in model.parameters() if p.requires_grad)
    chunked = supports_chunks(model)
    shared_out = settings.shard and distributed.world() > 1
    unpadded = supports_unpadded(model, chunked, own=not shared_out and compute is None)
    if settings.gradient_checkpointing:
        causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
    if settings.packing and not unpadded:
        require_reset(model)
    if settings.packing or unpadded:
        require_masked_seams(collate_packs([list(first[: settings.batch_size])], torch.device("cpu")))
    of_a_row = next(row for row in first if row.n_supervised)
    require_true_loss(
        model, of_a_row, lambda one, ids, labels: gradients.sum_nll(one, ids, labels, chunked)
    )  # the name that steps call
    if shared_out:
        sharding.shard(model, device or next(model.parameters()).device)
    run = _Run(
        model,
        settings,
        seed,
        folder,
        rows_of_epoch,
        first,
        validation,
        probe,
        progress or Silent(),
        chunked,
        unpadded,
        compute,
        watch,
    )
    if (sentence := fallback(model, unpadded)) is not None:
        run.progress.say(sentence)
    run.begin(identity)
    if not run.step:
        run.curves += map(dict, before)
        run.evaluate()
        require_start(run.curves[len(before) :], expected or Expected({}), next(model.parameters()).dtype)
    run.progress.start("Training", run.steps, "step")
    run.progress.advance(run.step)
    with sigterm_noticed() as asked_to_stop:
        while run.step < run.steps and run.stopped_early is None:
            run.take_step()
            if run.step in run.evaluate_after:
                run.evaluate()
            run.save_if_due(asked_to_stop())
    return run.end()


def evaluate_together(model: nn.Module, rows: Sequence[TokenRow]) -> list[dict[str, Any]]:
    """The losses of `rows` under a model that is not trained, as an evaluation on the way gives them; each process takes its part."""
    chunked = supports_chunks(model)
    return distributed.shared(rows, lambda mine: evaluate_rows(model, mine, chunked))


def _require_something_to_learn(
    model: nn.Module, rows: Sequence[TokenRow], settings: Training, validation: Sequence[TokenRow]
) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(
            "training/nothing-trains",
            "No parameter of the model requires a gradient, so nothing would be learned; check training.method and training.lora.targets.",
        )
    if not sum(row.n_supervised for row in rows):
        raise DataError(
            "training/no-targets",
            f"None of the {len(rows)} training rows has a token to learn; look at them with `galvan prepare`.",
        )
    if settings.early_stop and not validation:
        raise RecipeError(
            "training/no-validation",
            "training.early_stop chooses on validation documents, and there are none; raise data.split.validation.",
        )


class _Run:
    """One training in progress: what it has done so far, and how a step, an evaluation and a checkpoint are made."""

    def __init__(
        self, model: nn.Module, settings: Training, seed: int, folder: Path, rows_of_epoch: RowsOfEpoch, first: Sequence[TokenRow],
        validation: Sequence[TokenRow], probe: Sequence[TokenRow], progress: Progress, chunked: bool, unpadded: bool,
        compute: torch.dtype | None, watch: Watch | None,
    ) -> None:  # fmt: skip
        self.model, self.settings, self.seed, self.folder, self.progress = model, settings, seed, folder, progress
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(model, self.parameters, settings)
        self.modules = Modules(model, self.parameters)
        self.sets = {"validation": validation, "probe": probe}
        self.rows_of_epoch, self.first = rows_of_epoch, first
        self.chunked, self.unpadded, self.compute = chunked, unpadded, compute
        self.watch: Watch = watch or (lambda step, figures, curves: None)
        self.sharded = sharding.is_sharded(model)
        self.device = next(iter(self.parameters.values())).device
        self.per_epoch, self.steps = steps_per_epoch(len(first), settings), total_steps(len(first), settings)
        self.evaluate_after = {round(self.steps * k / settings.evaluations) for k in range(1, settings.evaluations + 1)}
        self.trace: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.step, self.resumed_at, self.tokens, self.seconds = 0, 0, 0, 0.0
        self.stopped_early: str | None = None
        self.best: int | None = None
        self._epoch = -1

    def begin(self, identity: str) -> None:
        """Take up the newest checkpoint that verifies, or begin at step 0."""
        mark = fingerprint(
            {
                "identity": identity, "settings": self.settings.identity(), "seed": self.seed, "steps": self.steps, "torch": torch.__version__,
            }
        )  # fmt: skip
        self.checkpoints = Checkpoints(self.folder, mark, self.settings.checkpoints, self.progress)
        found = self.checkpoints.newest()
        position = {"step": 0} if found is None else load_state(found, self.parameters, self.optimizers)
        if len(set(distributed.gathered(int(position["step"])))) > 1:
            raise ResourceError(
                "distributed/folder",
                f"The processes of this run do not see the same files in {shown(str(self.folder))}; give them one folder in common.",
            )
        self.budget = int(position.get("tokens_per_pass", gradients.usual_tokens_per_pass(self.device, self.unpadded)))
        if found is not None:
            self._take_up(position)
        if position.get("threads"):
            torch.set_num_threads(int(position["threads"]))
        self.pace = Pace(torch.get_num_threads() if self.device.type == "cpu" else 1, torch.set_num_threads, self.progress.say)
        self._started, self._saved = time.monotonic() - self.seconds, time.monotonic()
        if self.settings.early_stop and not stopping.enough(len(self.sets["validation"])):
            few = len(self.sets["validation"])
            self.progress.say(
                f"{few} validation documents are too few to be sure of anything, so training.early_stop will not end this run."
            )
        self.model.train()

    def _take_up(self, position: Mapping[str, Any]) -> None:
        self.step = self.resumed_at = int(position["step"])
        self.tokens, self.seconds = int(position["tokens"]), float(position["seconds"])
        self.stopped_early = position.get("stopped_early")
        self.trace = [row for row in read_rows(self.folder / "training.jsonl") if row["step"] <= self.step]
        self.curves = [row for row in read_rows(self.folder / "curves.jsonl") if row["step"] <= self.step]
        self._choose()
        self.progress.say(f"Training goes on at step {self.step} of {self.steps}, from the checkpoint.")

    def evaluate(self) -> None:
        """Score validation and probe documents; with early stop, keep the weights if they are the best and say if it is time to end."""
        figures, known = {}, len(self.curves)
        for name, some in self.sets.items():
            found = self._scored(some)
            self.curves += [{"step": self.step, "set": name, **row} for row in found]
            if found:
                figures[f"{name}/nats_per_token"] = sum(row["nll_nats"] for row in found) / sum(row["n_tokens"] for row in found)
        ended = self.watch(self.step, figures, self.curves)
        for row in self.curves[known:]:
            if not math.isfinite(row["nll_nats"]):
                where = f"After step {self.step} of {self.steps} the NLL of {row['set']} document {shown(row['document'])}"
                raise self._not_finite(f"{where} is {row['nll_nats']}")
        if self.settings.early_stop and self.step:
            standing = self._choose()
            if self.best == self.step:
                self.checkpoints.save_best(self.parameters, self.step)
            if standing is not None and standing.too_long is not None and self.step < self.steps:
                self.stopped_early = standing.too_long
        if ended is not None and self.step < self.steps:
            self.stopped_early = ended

    def _choose(self) -> stopping.Standing | None:
        standing = stopping.standing(self.curves, self.seed) if self.settings.early_stop else None
        self.best = None if standing is None else standing.best
        return standing

    def _scored(self, rows: Sequence[TokenRow]) -> list[dict[str, Any]]:
        with self._computing():
            if not self.sharded:
                return distributed.shared(rows, lambda mine: evaluate_rows(self.model, mine, self.chunked, self.unpadded))
            with sharding.all_or_none():
                found = [evaluate_rows(self.model, [row], self.chunked, self.unpadded)[0] for row, _ in sharding.rounds(rows)]
            parts = distributed.gathered(found)
            return [parts[i % len(parts)][i // len(parts)] for i in range(len(rows))]

    def _computing(self) -> AbstractContextManager[object]:
        return nullcontext() if self.compute is None else torch.autocast(self.device.type, self.compute)

    def take_step(self) -> None:
        """One batch: its gradient, its row in the trace, and a step of every optimizer."""
        batch = self._batch()
        supervised = sum(row.n_supervised for row in batch)
        if supervised:  # an epoch of fewer rows than the first can leave its last steps empty
            rate = self.settings.learning_rate * learning_rate_factor(self.step, self.steps, self.settings)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("factor", 1.0)
            first = self.step < WATCHED_STEPS
            watched = first or self.step + 1 in self.evaluate_after
            left, threads = gradient_left(self.parameters) if first else 0.0, self.pace.threads
            loss = self._fitting_gradient(batch, supervised)
            norm = self._clipped()
            self.tokens += supervised
            self.seconds = time.monotonic() - self._started
            self.trace.append(
                {
                    "step": self.step + 1, "tokens": self.tokens, "learning_rate": rate, "loss_nats": loss, "gradient_norm": norm,
                    "seconds": round(self.seconds, 3), "tokens_per_pass": self.budget, **({"threads": threads} if self.device.type == "cpu" else {}),
                }
            )  # fmt: skip
            figures = {"loss_nats": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": self.tokens}
            self.watch(self.step + 1, {f"train/{name}": figure for name, figure in figures.items()}, ())
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"gradient norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
                raise self._not_finite(f"At step {self.step + 1} of {self.steps} the {what}")
            before = copies(self.parameters) if watched else {}
            for optimizer in self.optimizers:
                optimizer.step()
            if watched:
                moved = movement(self.parameters, before)
                self.trace[-1] |= {"gradient_left": left, "parameters": moved} if first else {}
                self.trace[-1] |= {"modules": self.modules.figures(self.parameters, before, moved)}
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        self.step += 1
        said = (
            f"loss {self.trace[-1]['loss_nats']:.3f}, {self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s" if self.trace else ""
        )
        self.progress.advance(1, said)

    def _batch(self) -> list[TokenRow]:
        epoch, within = divmod(self.step, self.per_epoch)
        if epoch != self._epoch:
            self._rows, self._epoch = self.first if epoch == 0 else self.rows_of_epoch(epoch), epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self._rows))
        size = self.settings.batch_size * self.settings.accumulation
        return [self._rows[i] for i in self._order[within * size : (within + 1) * size]]

    def _fitting_gradient(self, batch: Sequence[TokenRow], supervised: int) -> float:
        """The batch's gradient in passes that fit: out of memory halves the pass and keeps the batch, from this step on."""
        mine = distributed.share(batch, lambda row: len(row.input_ids))
        while True:
            begun, short, loss = time.monotonic(), False, 0.0
            try:
                loss = self._sharded_gradient(batch, supervised) if self.sharded else self._gradient(mine, supervised)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                short = True
            (short,) = distributed.agree(short)
            if not short:
                self.pace.step(time.monotonic() - begun, sum(len(row.input_ids) for row in mine))
                distributed.sum_gradients(sharding.plain(self.parameters.values()))
                return distributed.summed(loss)
            for parameter in self.parameters.values():
                parameter.grad = None
            self.budget = self._smaller(max(len(row.input_ids) for row in batch))

    def _gradient(self, rows: Sequence[TokenRow], supervised: float) -> float:
        packing = self.settings.packing and not self.sharded
        with self._computing():
            return batch_gradient(
                self.model, rows, self.settings.batch_size, self.chunked, packing, self.unpadded, self.budget, supervised
            )

    def _sharded_gradient(self, batch: Sequence[TokenRow], supervised: int) -> float:
        """As many passes on every rank; one that has none left repeats another's with a weight of 0."""
        loss = 0.0
        with sharding.all_or_none():
            for rows, counts in sharding.rounds(gradients.plan(batch, self.settings.batch_size, self.unpadded, self.budget)):
                loss += self._gradient(rows, supervised if counts else math.inf)
        return loss

    def _smaller(self, longest: int) -> int:
        if self.budget <= longest:
            raise ResourceError(
                "memory/step",
                f"One document of {longest} tokens does not fit into the memory of {self.device.type} for training; set "
                "training.gradient_checkpointing to true, lower training.document_tokens, or take a smaller model.",
            )
        budget = max(longest, self.budget // 2)
        self.progress.say(f"Out of memory: passes of {budget} tokens from now on; the batch and its gradient stay the same.")
        return budget

    def _clipped(self) -> float:
        most, parameters = self.settings.max_gradient_norm, list(self.parameters.values())
        return sharding.clip_gradients(parameters, most) if self.sharded else float(nn.utils.clip_grad_norm_(parameters, most))

    def _not_finite(self, what: str) -> ModelError:
        if not distributed.rank():
            write_rows(self.folder / "training.jsonl", self.trace)
        rate = self.settings.learning_rate
        return ModelError("training/non-finite", f"{what}; lower training.learning_rate (now {rate}) or use float32.")

    def save_if_due(self, stop: bool) -> None:
        """A checkpoint at the end, at the stop that SIGTERM asks for, and whenever it is time; Terminated where it asked."""
        stop, due = distributed.agree(stop, time.monotonic() - self._saved >= self.settings.checkpoint_seconds)
        over = self.step == self.steps or self.stopped_early is not None
        if over or stop or due:
            self._save()
        if stop and not over:
            raise Terminated(
                "training/stopped", f"Stopped by SIGTERM after step {self.step} of {self.steps}; the same command goes on there."
            )

    def _save(self) -> None:
        if not distributed.rank():
            write_rows(self.folder / "training.jsonl", self.trace)
            write_rows(self.folder / "curves.jsonl", self.curves)
        position = {
            "step": self.step, "tokens": self.tokens, "seconds": self.seconds, "tokens_per_pass": self.budget, "threads": self.pace.kept,
            "stopped_early": self.stopped_early,
        }  # fmt: skip
        self.checkpoints.save(self.parameters, self.optimizers, position, self.best)
        self._saved = time.monotonic()

    def end(self) -> Trained:
        """The weights that are kept, in evaluation mode and whole."""
        kept = self.step
        if self.best is not None and self.best != self.step:
            if not self.checkpoints.restore_best(self.parameters, self.best):
                raise ResourceError(
                    "training/best-lost", f"The weights of step {self.best}, the best, are not in {shown(str(self.folder))}; delete it and train again."
                )  # fmt: skip
            kept = self.best
        if self.settings.early_stop or self.stopped_early:
            self.progress.say(
                f"{self.stopped_early or 'Training went to its end.'} The weights of step {kept} of {self.step} are kept."
            )
        if self.sharded:
            sharding.gather(self.model)
        self.model.eval()
        held = sum(p.numel() for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"])
        trained = sum(p.numel() for p in self.parameters.values())
        return Trained(self.step, self.tokens, trained, self.seconds, self.resumed_at, held, kept, self.stopped_early)
