"""What a run will do, worked out before a model is loaded: rows and tokens, steps and learning rate, time and memory.

Counts are exact: they come from the very rows that training will see. Time and memory are estimates and say how they were made.
A warning has a code and lets the run go on; an error stops it here, where nothing has been spent.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from galvan.data.facts import Notice
from galvan.data.tokens import TokenRow
from galvan.errors import DataError, GalvanError, ResourceError
from galvan.models import Choice, Located, read_config, safetensors_header, weight_files
from galvan.recipe import Recipe
from galvan.rundir import Document
from galvan.statistics.plan import plan

_LOADED_BYTES = 600_000_000  # what PyTorch and transformers take before there is a model
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BYTES = 0.56  # half a byte a weight and its share of the scales
_EFFICIENCY = 0.5  # of a bare matrix product's speed, reached by a model
_FEW_STEPS, _LONG_WARMUP, _TRUNCATED, _EOS = 20, 0.3, 0.02, 0.5
_LITTLE_RATE = {"lora": 3e-3, "full": 3e-4}  # integrated learning rate below which AdamW hardly moves what it trains


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A value that was not measured but worked out; `how` says from what. None: it could not be."""

    value: float | None
    how: str


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """What the files say about a base: parameters, bytes of weights when loaded, width, depth, vocabulary, trained parameters."""

    parameters: int
    weight_bytes: int
    hidden: int
    layers: int
    vocabulary: int
    trainable: int


@dataclasses.dataclass(frozen=True, slots=True)
class Preflight:
    """The whole of `preflight.json`. Tokens count every id of a row once; supervised are those that are trained on."""

    rows: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    truncated_tokens: int
    eos_kept_share: float | None
    epochs: float
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    warmup_share: float
    integrated_learning_rate: float
    seconds: Estimate
    memory_bytes: Estimate
    memory_available_bytes: int | None
    detectable_percent: list[float | None]
    warnings: list[Notice]
    errors: list[Notice]

    def refuse(self) -> None:
        """Raises the first error, if there is one: DataError, or ResourceError where memory is what is missing."""
        for error in self.errors:
            kind: type[GalvanError] = ResourceError if error.code.startswith("memory/") else DataError
            raise kind(error.code, error.message)

    def summary(self) -> list[str]:
        """What people read before they start, a sentence a line."""
        kept = "no end is learned" if self.eos_kept_share is None else f"{self.eos_kept_share:.0%} of the rows keep their end"
        lines = [
            f"Training sees {self.rows:,} rows of {self.tokens:,} tokens, {self.supervised_tokens:,} of them learned; "
            f"{self.truncated_rows:,} rows lose {self.truncated_tokens:,} tokens; {kept}.",
            f"{self.steps:,} steps ({self.steps_per_epoch:,} an epoch, {self.epochs:g} epochs), {self.warmup_share:.0%} of them warm-up; "
            f"integrated learning rate {self.integrated_learning_rate:.2g}.",
        ]
        if self.seconds.value is not None:
            lines.append(f"About {duration(self.seconds.value)} ({self.seconds.how}).")
        if self.memory_bytes.value is not None:
            available = "" if self.memory_available_bytes is None else f" of {self.memory_available_bytes / 2**30:.1f} GiB free"
            lines.append(f"About {self.memory_bytes.value / 2**30:.1f} GiB{available} ({self.memory_bytes.how}).")
        seen = [f"{percent:.1f}" for percent in self.detectable_percent if percent is not None]
        if seen:
            lines.append(
                f"The test part can show a change of {seen[0]} to {seen[-1]} % of perplexity, if gains spread as they usually do."
            )
        return lines

    def to_text(self) -> str:
        """The summary, and what was found, a line each."""
        found = [("warning", one) for one in self.warnings] + [("error", one) for one in self.errors]
        return "\n".join([*self.summary(), *(f"{level}[{one.code}]: {one.message}" for level, one in found)])


def preflight(
    recipe: Recipe, rows: Sequence[TokenRow], test: Sequence[Document], n_tokens: Sequence[int], scored_tokens: int, eos: int | None,
    base: Located, device: Choice, dtype: Choice, speed: Callable[[str, str, int], float] | None = None,
) -> Preflight:  # fmt: skip
    """What training on `rows` and judging on `test` (`n_tokens` long) will be.

    `scored_tokens` is what each evaluation on the way scores, `eos` the id of the end-of-text token where ends are learned. `speed`
    measures the device in floating-point operations a second (device, dtype, width); the default times a matrix product.
    """
    from galvan.training.optimizers import learning_rate_factor, steps_per_epoch, total_steps

    settings = recipe.training
    steps, per_epoch = total_steps(len(rows), settings), steps_per_epoch(len(rows), settings)
    warmup = min(steps, math.ceil(settings.warmup_ratio * steps))
    size = size_of(base, recipe, dtype.value)
    tokens = sum(len(row.input_ids) for row in rows)
    result = Preflight(
        rows=len(rows),
        tokens=tokens,
        supervised_tokens=sum(row.n_supervised for row in rows),
        truncated_rows=sum(row.cut_tokens > 0 for row in rows),
        truncated_tokens=sum(row.cut_tokens for row in rows),
        eos_kept_share=None
        if eos is None or not rows
        else sum(bool(len(r.labels)) and int(r.labels[-1]) == eos for r in rows) / len(rows),
        epochs=settings.epochs,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=warmup,
        warmup_share=warmup / steps,
        integrated_learning_rate=math.fsum(
            settings.learning_rate * learning_rate_factor(step, steps, settings) for step in range(steps)
        ),
        seconds=_seconds(
            size,
            settings.method,
            tokens * settings.epochs,
            scored_tokens * (settings.evaluations + 1),
            device,
            dtype,
            speed or measured_speed,
        ),
        memory_bytes=_memory(size, dtype.value),
        memory_available_bytes=available_bytes(device.value),
        detectable_percent=_detectable(test, n_tokens, recipe.evaluation.margin_nats),
        warnings=[],
        errors=[],
    )
    result.errors.extend(errors(result))
    result.warnings.extend(warnings(result, recipe))
    return result


def errors(found: Preflight) -> list[Notice]:
    """What makes training pointless or impossible."""
    said = []
    if not found.supervised_tokens:
        said.append(
            Notice(
                "training/no-targets",
                f"None of the {found.rows:,} training rows has a token to learn; look at data.column and training.document_tokens.",
            )
        )
    if (
        found.memory_bytes.value is not None
        and found.memory_available_bytes is not None
        and found.memory_bytes.value > 2 * found.memory_available_bytes
    ):
        said.append(
            Notice("memory/preflight", f"The model and its training need about {found.memory_bytes.value / 2**30:.1f} GiB and {found.memory_available_bytes / 2**30:.1f} GiB are free; take a smaller model, model.quantization nf4, or another device.")
        )  # fmt: skip
    return said


def warnings(found: Preflight, recipe: Recipe) -> list[Notice]:
    """What a person should know and may want."""
    settings, said = recipe.training, []
    whole = found.tokens + found.truncated_tokens
    if found.truncated_tokens > _TRUNCATED * whole:
        said.append(
            Notice(
                "preflight/truncated",
                f"{found.truncated_tokens:,} of {whole:,} tokens are cut off and never learned; raise training.document_tokens or lower data.document_tokens.",
            )
        )
    if found.eos_kept_share is not None and found.eos_kept_share < _EOS:
        said.append(
            Notice(
                "preflight/ends-lost",
                f"Only {found.eos_kept_share:.0%} of the rows keep their end-of-text token; the model will not learn where texts end.",
            )
        )
    if found.steps < _FEW_STEPS:
        said.append(
            Notice(
                "preflight/few-steps",
                f"{found.steps} steps are few; more training.epochs or a smaller training.batch_size gives more.",
            )
        )
    if found.warmup_share > _LONG_WARMUP:
        said.append(
            Notice(
                "preflight/long-warmup", f"{found.warmup_steps} of {found.steps} steps are warm-up; lower training.warmup_ratio."
            )
        )
    if found.integrated_learning_rate < _LITTLE_RATE[settings.method]:
        said.append(
            Notice(
                "preflight/little-learning",
                f"All learning rates together come to {found.integrated_learning_rate:.1g}, less than the {_LITTLE_RATE[settings.method]:g} below which training with method {settings.method} hardly moves a weight; raise training.learning_rate or training.epochs.",
            )
        )
    need, free = found.memory_bytes.value, found.memory_available_bytes
    if need is not None and free is not None and free < need <= 2 * free:
        said.append(
            Notice(
                "preflight/memory",
                f"About {need / 2**30:.1f} GiB may be needed and {free / 2**30:.1f} GiB are free; a smaller training.batch_size does not help, a smaller model does.",
            )
        )
    return said


def size_of(base: Located, recipe: Recipe, dtype: str) -> Size | None:
    """The size of a base from its headers and config alone; None where these do not say."""
    config = read_config(base.path / "config.json")
    config = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    shapes = {name: shape for path in weight_files(base) for name, (_, shape) in safetensors_header(path).items()}
    hidden, layers, vocabulary = (
        _first(config, *names) for names in (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"), ("vocab_size",))
    )
    if hidden is None or layers is None or vocabulary is None:
        return None
    parameters = sum(math.prod(shape) for shape in shapes.values())
    inner = {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 2 and vocabulary not in shape and "wpe" not in name and "norm" not in name
    }
    targets, rank = recipe.training.lora.targets, recipe.training.lora.rank
    adapted = [
        shape
        for name, shape in inner.items()
        if targets == "all-linear" or name.removesuffix(".weight").rsplit(".", 1)[-1] in targets
    ]
    trainable = parameters if recipe.training.method == "full" else sum(rank * sum(shape) for shape in adapted)
    quantised = sum(math.prod(shape) for shape in inner.values()) if recipe.model.quantization == "nf4" else 0
    weight_bytes = int(quantised * _NF4_BYTES + (parameters - quantised) * _DTYPE_BYTES.get(dtype, 4))
    return Size(parameters, weight_bytes, hidden, layers, vocabulary, trainable)


def _first(config: dict[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _seconds(
    size: Size | None,
    method: str,
    trained: float,
    scored: float,
    device: Choice,
    dtype: Choice,
    speed: Callable[[str, str, int], float],
) -> Estimate:
    """Operations by the usual count (2 a weight forward; backward 2 more for activations, and 2 for weights if these train)."""
    if size is None:
        return Estimate(None, "the base's config does not say its size")
    per_second = speed(device.value, dtype.value, size.hidden) * _EFFICIENCY
    operations = size.parameters * ((6 if method == "full" else 4) * trained + 2 * scored)
    return Estimate(
        float(f"{operations / per_second:.2g}"),
        f"{'6' if method == 'full' else '4'} operations a weight and trained token, 2 a scored one, at {_EFFICIENCY:.0%} of the {per_second / _EFFICIENCY / 1e9:,.0f} GFLOP/s "
        f"that a matrix product reached on {device.value} just now; right within a factor of three",
    )


def measured_speed(device: str, dtype: str, width: int) -> float:
    """Floating-point operations a second of a matrix product of 512 rows as wide as the model, timed for a tenth of a second."""
    import torch

    kind, width = getattr(torch, dtype), min(8192, max(64, width))
    a, b = torch.ones(512, width, device=device, dtype=kind), torch.ones(width, width, device=device, dtype=kind)

    def waited(times: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        elif device == "mps":
            torch.mps.synchronize()
        return max(time.perf_counter() - begun, 1e-9)

    waited(2)
    times = max(1, min(1000, round(0.1 / waited(1))))
    return 2.0 * 512 * width * width * times / waited(times)


def _memory(size: Size | None, dtype: str) -> Estimate:
    """Weights, gradient and Adam's moments of what trains (12 bytes each), and the activations of one pass."""
    from galvan.training.gradients import TOKENS_PER_PASS

    if size is None:
        return Estimate(None, "the base's config does not say its size")
    width = _DTYPE_BYTES.get(dtype, 4)
    activations = TOKENS_PER_PASS * size.layers * size.hidden * 17 * width + TOKENS_PER_PASS * size.vocabulary * 4
    total = _LOADED_BYTES + size.weight_bytes + 12 * size.trainable + activations
    return Estimate(
        float(total),
        f"0.6 GB of libraries, {size.weight_bytes / 2**30:.2f} GiB weights, 12 bytes for each of {size.trainable:,} trained parameters, 17 values a layer and channel of a pass of {TOKENS_PER_PASS:,} tokens",
    )


def available_bytes(device: str) -> int | None:
    """Memory that is free on `device` now; None where the system does not say."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123
            return next((int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")), None)
    except OSError:
        return None


def _detectable(test: Sequence[Document], n_tokens: Sequence[int], margin: float) -> list[float | None]:
    """The smallest change of perplexity, in per cent, that `test` would show in 8 of 10 cases, for each assumed spread (METHODS S2.3)."""
    usable = [(document, count) for document, count in zip(test, n_tokens, strict=True) if count > 0]
    if len(usable) < 2:
        return []
    found = plan(
        [count for _, count in usable],
        margin=margin,
        sources=[d.source for d, _ in usable],
        positions=[d.position for d, _ in usable],
    )
    return [row.mde80_percent for row in found.rows]


def duration(seconds: float) -> str:
    """Whole days, hours, minutes or seconds, whichever there are at least two of."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(1, seconds):.0f} seconds"
