"""What people compute by hand in notebooks, computed the same way on the same live models, so that a figure can be recognised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from galvan.likelihood import plain_token_nll
from galvan.measure.live import behind, encode, evaluation_mode

BATCH = 8  # a batch that people pad; all texts at once is tried as well


@contextmanager
def as_found(*models: nn.Module) -> Iterator[None]:
    """Switches, active adapters, requires_grad and modes are, afterwards, what they were, whatever was called meanwhile."""
    modules = [module for model in models for module in model.modules()]
    layers = [module for module in modules if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    names = ("_disable_adapters", "_active_adapter")
    flags = [(layer, name, getattr(layer, name)) for layer in layers for name in names if hasattr(layer, name)]
    modes = [(module, module.training) for module in modules]
    active = [(model, model.active_adapter) for model in models if isinstance(model, PeftModel)]
    gradients = [(p, p.requires_grad) for model in models for p in model.parameters()]
    try:
        yield
    finally:
        for layer, name, value in flags:
            setattr(layer, name, value)
        for module, mode in modes:
            module.training = mode
        for model, adapter in active:
            model.active_adapter = adapter
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)


@torch.no_grad()
def sums(model: nn.Module, rows: Sequence[Tensor]) -> list[float]:
    """NLL in nats of each row [1, T], its T - 1 targets added up in float64."""
    device = next(model.parameters()).device
    return [float(plain_token_nll(model, row.to(device)).double().sum()) for row in rows]


@torch.no_grad()
def wrong_ways(model: nn.Module, rows: Sequence[Tensor], bos: int | None, padding: int, most: int) -> dict[str, float]:
    """Perplexity over all rows, computed wrongly, by the code of the cause: two BOS, none, labels shifted twice, padding scored.

    `most` is the number of positions that the model has.
    """
    device = next(model.parameters()).device
    found: dict[str, float] = {}
    begins = bos is not None and all(int(row[0, 0]) == bos for row in rows)
    if begins and max(row.shape[1] for row in rows) < most:
        front = torch.tensor([[bos]])
        found["E03"] = _perplexity(sums(model, [torch.cat([front, row], 1) for row in rows]), [row.shape[1] for row in rows])
        bare = [row[:, 1:] for row in rows if row.shape[1] > 2]
        found["E04"] = _perplexity(sums(model, bare), [row.shape[1] - 1 for row in bare])
    long = [row.to(device) for row in rows if row.shape[1] > 2]
    if long:
        twice = [_cross_entropy(model(input_ids=row, use_cache=False).logits[:, :-2], row[:, 2:]) for row in long]
        found["E11"] = _perplexity([float(t.sum()) for t in twice], [row.shape[1] - 2 for row in long])
    if len({row.shape[1] for row in rows}) > 1:
        found["G02"] = _padded(model, rows, padding, len(rows))
        if len(rows) > BATCH:
            found["G02 in batches"] = _padded(model, rows, padding, BATCH)
    return found


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").double()


def _padded(model: nn.Module, rows: Sequence[Tensor], padding: int, size: int) -> float:
    """exp(mean over batches of the mean loss), every position of a padded batch a target."""
    device, means = next(model.parameters()).device, []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = torch.full((len(part), max(row.shape[1] for row in part)), padding)
        for i, row in enumerate(part):
            ids[i, : row.shape[1]] = row[0]
        mask = torch.zeros_like(ids)
        for i, row in enumerate(part):
            mask[i, : row.shape[1]] = 1
        means.append(float(plain_token_nll(model, ids.to(device), mask.to(device)).double().mean()))
    return math.exp(min(sum(means) / len(means), 700.0))


def _perplexity(nll: Sequence[float], counts: Sequence[int]) -> float:
    return math.exp(min(sum(nll) / sum(counts), 700.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Answers of a generating function to one prompt: three for the tuned model, then one for the base."""

    tuned: tuple[str, ...]
    base: str

    @property
    def differ(self) -> bool:
        """Whether one model gave several answers."""
        return len(set(self.tuned)) > 1


def ask(generate: Callable[[Any, str], object], base: nn.Module, tuned: nn.Module, prompt: str) -> Asked:
    """Ask `generate` for one prompt several times, as the notebook would.

    The random state goes on from call to call: a function that seeds itself gives the same words, one that does not will not.
    """
    return Asked(tuple(str(generate(tuned, prompt)) for _ in range(3)), str(generate(base, prompt)))


def not_first(models: Sequence[nn.Module], tokenizer: Any, prompt: str, answer: str) -> tuple[int, list[int]]:
    """The answer's tokens, and for each model how many of them its own logits, without a cache, do not put first.

    The prompt may stand before the answer or not. (0, ...) where nothing is left, or the prompt's tokens change with what follows.
    """
    start, row = (encode(tokenizer, [text]) for text in (prompt, prompt + answer.removeprefix(prompt)))
    if not start or not row or not torch.equal(row[0][:, : start[0].shape[1]], start[0]):
        return 0, [0 for _ in models]
    with evaluation_mode(*models):
        return row[0].shape[1] - start[0].shape[1], [behind(model, row[0], start[0].shape[1]) for model in models]
