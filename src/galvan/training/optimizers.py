"""What turns a gradient into a step: the schedule of the learning rate, and the optimizers of a method."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from galvan.errors import ModelError
from galvan.likelihood import causal_lm
from galvan.recipe import Training
from galvan.training.muon import Muon


def steps_per_epoch(n_rows: int, settings: Training) -> int:
    return math.ceil(n_rows / (settings.batch_size * settings.accumulation))


def total_steps(n_rows: int, settings: Training) -> int:
    """Optimizer steps of the run; the last batch of an epoch may be smaller, none is dropped."""
    return max(1, math.ceil(settings.epochs * steps_per_epoch(n_rows, settings)))


def learning_rate_factor(step: int, total: int, settings: Training) -> float:
    """The learning rate of step `step` (from 0) as a share of its peak: linear warm-up, then the schedule, never quite 0."""
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    left = (total - step) / max(1, total - warmup)
    if settings.schedule == "constant":
        return 1.0
    return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


EIGHT_BIT = {"adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}


def _bitsandbytes(name: str) -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise ModelError(
            "training/no-bitsandbytes",
            "training.optimizer is in 8 bits, which needs bitsandbytes: pip install 'galvan[qlora]', or set it to adamw.",
        ) from None
    return getattr(bitsandbytes.optim, name)


def _alike(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group's whole parameters and those that are shared out, which one fused step cannot take together."""
    kinds = [[p for p in group["params"] if isinstance(p, DTensor) is shared] for shared in (False, True)]
    return [{**group, "params": some} for some in kinds if some] or [group]


def build_optimizers(model: nn.Module, parameters: Mapping[str, nn.Parameter], settings: Training) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the inner matrices and AdamW for embeddings, head and vectors. A group's `factor` times the rate
    of the step is its own rate (LoRA+)."""
    inner: list[nn.Parameter] = []
    if settings.optimizer == "muon":
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding)] + [causal_lm(model).get_output_embeddings()]
        outer = {id(table.weight) for table in tables}
        inner = [p for p in parameters.values() if p.ndim == 2 and id(p) not in outer]
    taken = {id(p) for p in inner}
    rest = {name: p for name, p in parameters.items() if id(p) not in taken}
    groups: list[dict[str, Any]] = [{"params": list(rest.values()), "factor": 1.0}]
    ratio = settings.lora.b_rate_ratio
    if settings.method == "lora" and ratio != 1.0:
        faster = {name: ".lora_B." in name or ".lora_embedding_B" in name for name in rest}
        groups = [
            {"params": [p for name, p in rest.items() if faster[name] == b], "factor": ratio if b else 1.0} for b in (False, True)
        ]
    groups = [part for group in groups for part in _alike(group)]
    kind: Any = functools.partial(torch.optim.AdamW, fused=next(iter(rest.values())).device.type != "mps")
    if settings.optimizer in EIGHT_BIT:
        kind = _bitsandbytes(EIGHT_BIT[settings.optimizer])
    adamw = kind(groups, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)
    return [adamw] + ([Muon(inner, lr=settings.learning_rate, weight_decay=settings.weight_decay)] if inner else [])
