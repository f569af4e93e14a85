"""What a training will cost on this device, measured on a small piece of it: the very steps that training takes, on a model of the same blocks.

Time and activations grow by the same amount with every block, so two shallow models with random weights tell those of a deep one; a small model
is built whole. Weights, gradients and optimizer state are counted from the files. Nothing of the base's weights is read.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from galvan import models
from galvan.data.tokens import TokenRow
from galvan.errors import ModelError
from galvan.likelihood import CHUNK_ROWS, causal_lm, supports_chunks
from galvan.models import Choice, Located
from galvan.recipe import Recipe, Training
from galvan.rundir import atomic_path, sha256_file
from galvan.training import gradients, precision
from galvan.training.live_checks import require_true_loss
from galvan.training.movement import copies, movement
from galvan.training.optimizers import build_optimizers
from galvan.training.passes import collate
from galvan.unpadded import documents_apart, supports_unpadded

WHOLE_BYTES = 300_000_000  # models of no more weights are built whole
SHALLOW = (1, 3)  # blocks of the two models that a larger one is told from
SECONDS = 1.0  # each is timed at least so long, and at least three steps
BATCH_ROWS = 32  # of a step that is timed; larger batches are in proportion
EVALUATED = 8
WRITTEN_BYTES = 2**25  # of a file that is written to see how fast checkpoints are
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
STATE_BYTES = {"adamw": 8.0, "muon": 4.0, "adamw8bit": 2.03, "paged_adamw8bit": 2.03}  # a parameter; muon's outer ones take 8

Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Seconds from the checks before the first step to the last checkpoint, and bytes by what holds them; `memory_bytes` is their peak.
    `how` says what was measured."""

    seconds: float
    step_seconds: float
    memory_bytes: int
    parts_bytes: dict[str, int]
    how: str


class _Piece(NamedTuple):
    """A model of `blocks` blocks: seconds of the checks before training, of a step of the batch and of an evaluated token, bytes of one pass
    kept for the way back, and the most that was held while it trained (0 where the system does not say)."""

    blocks: int
    check_seconds: float
    step_seconds: float
    token_seconds: float
    kept_bytes: float
    block_bytes: float
    parameters: int
    trainable: int
    weight_bytes: int
    peak_bytes: int

    def at(self, other: _Piece, blocks: int) -> _Piece:
        """A model of `blocks` blocks on the line through this one and `other`."""
        share = (blocks - self.blocks) / (other.blocks - self.blocks)
        values = [a + share * (b - a) for a, b in zip(self[1:], other[1:], strict=True)]
        return _Piece(blocks, *values[:5], *(round(v) for v in values[5:]))  # type: ignore[arg-type]


def measure(
    base: Located, recipe: Recipe, rows: Sequence[TokenRow], scored_tokens: int, device: Choice, dtype: Choice, clock: Clock = time.perf_counter
) -> Cost:  # fmt: skip
    """The cost of training `recipe` on `rows`, where every evaluation scores `scored_tokens`. A few seconds; ModelError as `load_base` raises it."""
    settings = recipe.training
    learned = sorted((row for row in rows if row.n_supervised), key=lambda row: len(row.input_ids))
    size = min(settings.batch_size * settings.accumulation, BATCH_ROWS, len(learned))
    batch = [learned[round((k + 0.5) * len(learned) / size - 0.5)] for k in range(size)]
    blocks = blocks_of(base)
    held = precision.of(settings, recipe.model.quantization, dtype.value)
    depths = [blocks] if blocks <= max(SHALLOW) or _weight_bytes(base, held.weights) <= WHOLE_BYTES else list(SHALLOW)
    pieces = [_piece(base, recipe, depth, batch, learned, device, held, clock) for depth in depths]
    whole = pieces[0] if len(pieces) == 1 else pieces[0].at(pieces[1], blocks)
    tokens, batch_tokens = sum(len(row.input_ids) for row in rows) * settings.epochs, sum(len(row.input_ids) for row in batch)
    step_seconds = whole.step_seconds / batch_tokens * sum(len(row.input_ids) for row in rows) / max(1, len(rows))
    step_seconds *= min(len(rows), settings.batch_size * settings.accumulation)
    seconds = whole.check_seconds + whole.step_seconds * tokens / batch_tokens
    seconds += whole.token_seconds * scored_tokens * (settings.evaluations + 1)
    a_checkpoint = whole.trainable * (4 + STATE_BYTES[settings.optimizer]) * _seconds_a_byte(clock)
    seconds += a_checkpoint * (1 + seconds // max(settings.checkpoint_seconds, step_seconds))
    parts = _parts(whole, settings, learned, _vocabulary(base), held.weights, device.value)
    told = f"{blocks} blocks" if len(pieces) == 1 else f"{SHALLOW[0]} and {SHALLOW[1]} of {blocks} blocks"
    how = (
        f"measured on {device.value} just now: steps of {size} documents on a model of {told}, in {torch.get_num_threads()} threads"
    )
    return Cost(seconds, step_seconds, sum(parts.values()), parts, how)


def _parts(whole: _Piece, settings: Training, rows: Sequence[TokenRow], vocabulary: int, dtype: str, device: str) -> dict[str, int]:
    """Bytes by what holds them at the peak: in a pass, or in a watched step, when activations and logits are gone. The measured peak has the
    last word: what it is above what can be counted are libraries, and what they keep."""
    longest = len(rows[-1].input_ids)
    chunk = min(CHUNK_ROWS, max(longest, gradients.usual_tokens_per_pass(torch.device(device), True)))
    watched = (8 if settings.method == "lora" else 4) * whole.trainable  # of a watched step: before, and the start of an adapter
    passing = round(whole.kept_bytes + (whole.block_bytes if settings.gradient_checkpointing else 0))
    logits = chunk * vocabulary * (4 if dtype == "float32" else 6) + (4 * whole.trainable if settings.method == "full" else 0)
    in_a_pass = passing + logits >= watched
    parts = {
        "weights": whole.weight_bytes,
        "gradients": 4 * whole.trainable,
        "optimizer": round(STATE_BYTES[settings.optimizer] * whole.trainable),
        **({"activations": passing, "logits": logits} if in_a_pass else {"copies": watched}),
    }
    return parts | {"libraries": max(0, whole.peak_bytes - sum(parts.values()))}


def _piece(
    base: Located, recipe: Recipe, blocks: int, batch: Sequence[TokenRow], rows: Sequence[TokenRow], device: Choice,
    held: precision.Precision, clock: Clock,
) -> _Piece:  # fmt: skip
    settings = recipe.training
    model: Any = _shallow(base, recipe, blocks, device, held.weights)
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    if settings.method == "lora":
        lora = settings.lora.model_copy(update={"layers": None, "start": "default"})
        model = models.add_lora(model, lora, base.name, None, 0)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    begun, chunked = clock(), supports_chunks(model)
    unpadded = supports_unpadded(model, chunked)
    require_true_loss(model, batch[0], lambda one, ids, labels: gradients.sum_nll(one, ids, labels, chunked))
    check_seconds = clock() - begun
    model.train()
    budget = gradients.usual_tokens_per_pass(torch.device(device.value), unpadded)
    largest = max(gradients.plan(list(reversed(rows))[: len(batch)], settings.batch_size, unpadded, budget), key=_tokens)
    whole_block = kept_bytes(model, largest, chunked, unpadded) / blocks
    if settings.gradient_checkpointing:
        causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
    compute = None if held.compute == held.weights else getattr(torch, held.compute)
    with torch.autocast(device.value, compute or torch.bfloat16, enabled=compute is not None):
        kept = kept_bytes(model, largest, chunked, unpadded)
        optimizers = build_optimizers(model, trainable, settings)

        def step() -> None:
            gradients.batch_gradient(model, batch, settings.batch_size, chunked, settings.packing, unpadded)
            nn.utils.clip_grad_norm_(list(trainable.values()), settings.max_gradient_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        reset_peak(device.value)
        before = copies(trainable)
        step()
        movement(trainable, before)
        step_seconds = _timed(step, device.value, clock)
        peak = peak_bytes(device.value)
        some = batch[:EVALUATED]
        scored = _timed(lambda: gradients.evaluate_rows(model, some, chunked, unpadded), device.value, clock)
    parameters = sum(p.numel() for p in model.parameters())
    found = _Piece(
        blocks, check_seconds, step_seconds, scored / _tokens(some), kept, whole_block, parameters, sum(p.numel() for p in trainable.values()),
        weight_bytes + sum(p.numel() * p.element_size() for name, p in trainable.items() if "lora_" in name), peak,
    )  # fmt: skip
    gc.collect()
    return found


def kept_bytes(model: nn.Module, rows: Sequence[TokenRow], chunked: bool, unpadded: bool) -> int:
    """Bytes that one pass over `rows` keeps for the way back, weights left out; a block that is checkpointed keeps what goes into it."""
    from galvan.training.packing import collate_packs

    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold its own graph in a ring that nothing ever frees

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if unpadded:
            one = collate_packs([list(rows)], device)
            with documents_apart(model, [len(row.input_ids) for row in rows]):
                gradients.sum_nll(model, one.input_ids, one.labels, chunked, one.position_ids)
        else:
            gradients.sum_nll(model, *collate(rows, device), chunked)
    return sum(found.values())


def _timed(work: Callable[[], object], device: str, clock: Clock) -> float:
    """Median seconds of at least three turns, after one that is not counted."""
    work()
    taken, begun = [], clock()
    for turn in range(100):
        before = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - before)
        if turn >= 2 and clock() - begun > SECONDS:
            break
    return statistics.median(taken)


def _seconds_a_byte(clock: Clock) -> float:
    """Of writing a checkpoint and its checksum, where temporary files lie."""
    with tempfile.TemporaryDirectory() as folder:
        path, begun = Path(folder, "written"), clock()
        with atomic_path(path, WRITTEN_BYTES) as temporary:
            temporary.write_bytes(bytes(WRITTEN_BYTES))
            sha256_file(temporary)
        return (clock() - begun) / WRITTEN_BYTES


def _shallow(base: Located, recipe: Recipe, blocks: int, device: Choice, dtype: str) -> Any:
    """A model of the base's architecture with `blocks` blocks and random weights, quantised where the recipe asks for it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with models.quiet():
        config = AutoConfig.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
        config.num_hidden_layers = blocks
        for name in ("layer_types", "mlp_layer_types"):
            if isinstance(getattr(config, name, None), list):
                setattr(config, name, getattr(config, name)[:blocks])
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        if recipe.model.quantization == "none":
            return model.to(device.value).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            return models.load_base(Located(base.name, Path(folder)), recipe.model, device, Choice(dtype, ""))


def blocks_of(base: Located) -> int:
    config = models.read_config(base.path / "config.json")
    blocks = next((config[name] for name in ("num_hidden_layers", "n_layer") if isinstance(config.get(name), int)), 0)
    if blocks < 1:
        raise ModelError("plan/blocks", "The base's config does not say how many blocks it has, so its cost cannot be worked out.")
    return int(blocks)


def _vocabulary(base: Located) -> int:
    return int(models.read_config(base.path / "config.json").get("vocab_size", 0))


def _weight_bytes(base: Located, dtype: str) -> int:
    shapes = [shape for path in models.weight_files(base) for _, shape in models.safetensors_header(path).values()]
    return sum(math.prod(shape) for shape in shapes) * WIDTHS[dtype]


def _tokens(rows: Sequence[TokenRow]) -> int:
    return sum(len(row.input_ids) for row in rows)


def reset_peak(device: str) -> None:
    """From now on `peak_bytes` counts anew, where the system can: without what was freed and not given back to it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: str) -> int:
    """The most that this process held on the device since then, on a CPU with its libraries; 0 where the system does not say."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
