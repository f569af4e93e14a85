"""What the loss of this very run is worth, measured on the live model before its first step and kept in `training.json`.

`live_checks` refuses to train where the loss is wrong; these are the figures by which causes E08, E09, E11, E13, F01 and F03 are excluded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from galvan.data.tokens import IGNORE, TokenRow
from galvan.likelihood import supports_chunks
from galvan.training import loop
from galvan.training.live_checks import independent_nll, padding_error
from galvan.training.packing import collate_packs, contamination, seams_learned

_LENGTHS = (32, 20, 12, 8)  # uneven rows, on which another normalisation shows


@dataclasses.dataclass(frozen=True, slots=True)
class LossChecks:
    """Shares of the loss. `loss_error`: the training loss of uneven rows in one pass against the definition (NLL of each target from plain
    logits, divided by the targets); `passes_error`: in a pass a row; `padding_error`: how far padding moves a logit. `contamination` and
    `seams_learned` are None where nothing is packed."""

    loss_error: float
    passes_error: float
    padding_error: float
    contamination: float | None
    seams_learned: int | None


def loss_checks(model: nn.Module, rows: Sequence[TokenRow], packing: bool) -> LossChecks | None:
    """Measure on up to four rows, cut short; None where no row has a target or nothing trains. Modes are restored, and no gradient is left."""
    learned = [row for row in rows if row.n_supervised]
    batch = [cut for row, n in zip(learned, _LENGTHS, strict=False) if (cut := _part(row, n)).n_supervised]
    if not batch or not any(p.requires_grad for p in model.parameters()):
        return None
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    model.eval()
    model.zero_grad(set_to_none=True)
    try:
        chunked = supports_chunks(model)
        expected = sum(independent_nll(model, row) for row in batch) / sum(row.n_supervised for row in batch)
        errors = [
            abs(loop.batch_gradient(model, batch, size, chunked) - expected) / max(expected, 1e-6) for size in (len(batch), 1)
        ]
        moved, seams = None, None
        if packing:
            moved = contamination(model, int(model.get_input_embeddings().weight.shape[0]))  # type: ignore[operator]
            seams = seams_learned(collate_packs([batch], torch.device("cpu")))
        return LossChecks(errors[0], errors[1], padding_error(model, batch[0]), moved, seams)
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _part(row: TokenRow, length: int) -> TokenRow:
    """At most `length` ids around the first target."""
    first = int(np.flatnonzero(row.labels[1:] != IGNORE)[0]) + 1
    begin = max(0, first - length // 2)
    return TokenRow(row.id, row.input_ids[begin : begin + length], row.labels[begin : begin + length])
