"""The gradient of a step and the evaluation along the way: the same rows in passes that fit, whatever the way through the model.

Every pass is divided by the supervised tokens of the whole batch, so that neither the split into passes nor uneven rows change the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from galvan.data.tokens import TokenRow
from galvan.likelihood import IGNORE, token_nll
from galvan.likelihood import sum_nll as sum_nll  # the name that the first check of the loss calls too
from galvan.training.packing import Pass, collate_packs, plan_packed_passes
from galvan.training.passes import collate, plan_passes, plan_unpadded
from galvan.unpadded import documents_apart

TOKENS_PER_PASS = 2048
TOKENS_PER_UNPADDED_PASS = 1024
TOKENS_PER_GPU_PASS = 8192  # whether padded or not; where they do not fit, training goes on with half as many


def usual_tokens_per_pass(device: torch.device, unpadded: bool) -> int:
    """Tokens that go through the model at once, padding included, unless memory says otherwise or one row is longer."""
    if device.type == "cuda":
        return TOKENS_PER_GPU_PASS
    return TOKENS_PER_UNPADDED_PASS if unpadded else TOKENS_PER_PASS


@torch.no_grad()
def evaluate_rows(model: nn.Module, rows: Sequence[TokenRow], chunked: bool, unpadded: bool = False) -> list[dict[str, Any]]:
    """NLL sum in nats of every row on its own, in evaluation mode; {"document", "n_tokens", "nll_nats"} in the order of `rows`."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    result = []
    for some in plan_unpadded(rows, usual_tokens_per_pass(device, True)) if unpadded else [[row] for row in rows]:
        one = collate_packs([some], device)
        lengths = [len(row.input_ids) for row in some]
        with documents_apart(model, lengths) if unpadded else nullcontext():
            nll = token_nll(model, one.input_ids, chunked, one.position_ids if unpadded else None)[0]
        sums = (nll.double() * (one.labels[0, 1:] != IGNORE)).cpu().tensor_split(np.cumsum(lengths)[:-1].tolist())
        for row, part in zip(some, sums, strict=True):
            result.append({"document": row.id, "n_tokens": row.n_supervised, "nll_nats": float(part.sum())})
    model.train(was_training)
    return result


def plan(batch: Sequence[TokenRow], rows_per_pass: int, unpadded: bool, tokens_per_pass: int) -> list[list[TokenRow]]:
    """The batch in passes; each of them planned again stays one pass."""
    return plan_unpadded(batch, tokens_per_pass) if unpadded else plan_passes(batch, rows_per_pass, tokens_per_pass)


def batch_gradient(
    model: nn.Module, batch: Sequence[TokenRow], rows_per_pass: int, chunked: bool, packed: bool = False, unpadded: bool = False,
    tokens_per_pass: int | None = None, supervised: float | None = None,
) -> float:  # fmt: skip
    """Mean NLL in nats over the supervised tokens of `batch`; its gradient is added to the parameters' own.

    Every pass is divided by the tokens of the whole batch, not by its own: the passes cannot change the gradient, packed, padded or not.
    Where `batch` is this process's part of a larger one, `supervised` are the tokens of all of that.
    """
    if not batch:
        return 0.0
    device = next(model.parameters()).device
    budget = tokens_per_pass or usual_tokens_per_pass(device, unpadded)
    supervised = supervised or sum(row.n_supervised for row in batch)
    loss = 0.0
    if unpadded:
        for rows in plan(batch, rows_per_pass, unpadded, budget):
            one = collate_packs([rows], device)
            with documents_apart(model, [len(row.input_ids) for row in rows]):
                nll = sum_nll(model, one.input_ids, one.labels, chunked, one.position_ids) / supervised
                torch.autograd.backward(nll)
            loss += float(nll.detach())
        return loss
    if packed:
        passes = [collate_packs(packs, device) for packs in plan_packed_passes(batch, budget)]
    else:
        passes = [Pass(*collate(part, device), None) for part in plan(batch, rows_per_pass, unpadded, budget)]
    for one in passes:
        nll = sum_nll(model, one.input_ids, one.labels, chunked, one.position_ids) / supervised
        torch.autograd.backward(nll)
        loss += float(nll.detach())
    return loss
