"""Checks of the loss on the live model, one short row each, before the first step: is it what it is said to be?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from galvan.data.tokens import IGNORE, TokenRow
from galvan.errors import ModelError
from galvan.recipe import CONTINUE
from galvan.text import shown
from galvan.training.passes import collate

_ROW_TOKENS = 32
_TARGETS = 8
TOLERANCE = 0.02  # share of the loss; in bfloat16 two ways to the same sum differ by thousandths
TARGET_TOLERANCE = 0.1  # of single targets, whose rounding does not average out; a shifted label differs by halves

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@torch.no_grad()
def independent_nll(model: nn.Module, row: TokenRow) -> float:
    """Sum of NLLs in nats from the logits of a plain forward pass, in float64, token by token: the definition."""
    ids = torch.from_numpy(row.input_ids)[None].to(next(model.parameters()).device)
    log_probabilities = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1).cpu()
    return -sum(float(log_probabilities[t - 1, int(row.labels[t])]) for t in range(1, len(row.labels)) if row.labels[t] != IGNORE)


@torch.no_grad()
def loss_error(model: nn.Module, row: TokenRow, loss: Loss) -> float:
    """E11: how far `loss` is from the definition, as a share of it. Modes are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        expected = independent_nll(model, row)
        given = float(loss(model, *collate([row], next(model.parameters()).device)))
        return abs(given - expected) / max(abs(expected), 1e-6)
    finally:
        for module, mode in modes:
            module.training = mode


def target_error(model: nn.Module, row: TokenRow, loss: Loss) -> float:
    """E11: as `loss_error`, target by target: the sum over a row may come out right where its labels stand one place off."""
    targets = np.flatnonzero(row.labels[1:] != IGNORE) + 1
    errors = []
    for target in targets[np.linspace(0, len(targets) - 1, min(_TARGETS, len(targets))).round().astype(int)]:
        labels = np.full_like(row.labels, IGNORE)
        labels[target] = row.labels[target]
        errors.append(loss_error(model, TokenRow(row.id, row.input_ids, labels), loss))
    return float(np.median(errors)) if errors else 0.0


@torch.no_grad()
def padding_error(model: nn.Module, row: TokenRow, padding: int = 5) -> float:
    """E13: the most that a logit at a real position moves when the row is padded on the right. Modes are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        ids = torch.from_numpy(row.input_ids)[None].to(next(model.parameters()).device)
        padded = torch.cat([ids, torch.zeros_like(ids[:, :1]).repeat(1, padding)], dim=1)
        bare, longer = (model(input_ids=x, use_cache=False).logits[0, : ids.shape[1]].float() for x in (ids, padded))
        return float((bare - longer).abs().max() / bare.abs().max().clamp_min(1e-6))
    finally:
        for module, mode in modes:
            module.training = mode


def base_losses(model: nn.Module, rows: Sequence[TokenRow]) -> dict[str, float]:
    """Sum of NLLs in nats of each row under a model that nothing has been added to."""
    return {row.id: independent_nll(model, row) for row in rows if row.n_supervised}


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """NLL sums in nats by document that training must begin at: those of the base, or of the adapter `continued`, whose run counted
    in the same precision if `alike`."""

    nll_nats: Mapping[str, float]
    continued: str | None = None
    alike: bool = True


def require_start(rows: Iterable[Mapping[str, Any]], expected: Expected, dtype: torch.dtype) -> None:
    """ModelError if a document's NLL at step 0, rows as in `curves.jsonl`, is not what training must begin at.

    A fresh adapter begins by changing nothing; where it does, it was put into another base, or its start is no start. One that is gone on
    with begins where its own training ended.
    """
    share = 1e-3 if dtype == torch.float32 and expected.alike else TOLERANCE
    for row in rows:
        known = expected.nll_nats.get(row["document"])
        if known is None or abs(row["nll_nats"] - known) <= share * abs(known) + 1e-3:
            continue
        found = f"Before the first step document {shown(row['document'])} has an NLL of {row['nll_nats']:.4f} nats, and {known:.4f}"
        if expected.continued is not None:
            raise ModelError(
                "training/step-0",
                f"{found} where {shown(expected.continued)} was left; another base or other text is under it now. Train afresh with {CONTINUE}=null.",
            )
        raise ModelError(
            "training/step-0",
            f"{found} under the base; an adapter must begin at the base. Check training.lora.start and that nothing else is in the model.",
        )


def require_true_loss(model: nn.Module, row: TokenRow, loss: Loss) -> None:
    """ModelError if `loss`, which is what training calls, is not the NLL of the next token (E11), or if logits depend on padding (E13)."""
    learned = np.flatnonzero(row.labels[1:] != IGNORE) + 1
    begin = max(0, int(learned[0]) - _ROW_TOKENS // 2) if len(learned) else 0
    part = TokenRow(row.id, row.input_ids[begin : begin + _ROW_TOKENS], row.labels[begin : begin + _ROW_TOKENS])
    error, by_target = loss_error(model, part, loss), target_error(model, part, loss)
    if error > TOLERANCE or by_target > TARGET_TOLERANCE:
        raise ModelError(
            "E11",
            f"The training loss of this model is {max(error, by_target):.0%} away from the NLL of the next token; its head or its labels are out of step.",
        )
    if padding_error(model, part) > TOLERANCE:
        raise ModelError(
            "E13",
            "The logits of this model change when a row is padded on the right, so the loss would depend on the batch; it is not causal.",
        )
