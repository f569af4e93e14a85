"""Several documents in one row, so that short ones do not wait for long ones: less padding, the same mathematics.

Each document keeps positions from 0 of its own, by which transformers tells documents apart and lets none attend to another. Not every
architecture does: `resets_attention` perturbs one document of a packed row on the live model and looks at the others' logits, and
training refuses to pack where they move (E08). The first token of each document is never a target, so nothing is learned across a
seam; training looks at its first documents before it starts (E09).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from galvan.data.tokens import IGNORE, TokenRow
from galvan.errors import ModelError

Pack = list[TokenRow]


class Pass(NamedTuple):
    """One forward pass, each [B, T] int64; positions None where every row is one document."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor | None


def plan_packs(rows: Sequence[TokenRow], capacity: int) -> list[Pack]:
    """First fit, longest first: rows together in packs of at most `capacity` ids; a longer row is a pack of its own."""
    packs: list[Pack] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda r: -len(r.input_ids)):
        length = len(row.input_ids)
        fits = next((i for i, left in enumerate(room) if left >= length), None)
        if fits is None:
            packs.append([row])
            room.append(capacity - length)
        else:
            packs[fits].append(row)
            room[fits] -= length
    return packs


def plan_packed_passes(rows: Sequence[TokenRow], tokens_per_pass: int) -> list[list[Pack]]:
    """Packs as long as the longest row, which keeps attention as cheap as without packing, in passes of `tokens_per_pass` ids at most."""
    capacity = max(len(row.input_ids) for row in rows)
    packs = plan_packs(rows, capacity)
    size = max(1, tokens_per_pass // capacity)
    return [packs[start : start + size] for start in range(0, len(packs), size)]


def collate_packs(packs: Sequence[Pack], device: torch.device) -> Pass:
    """[B, T] ids, labels and positions; padding on the right is a document of its own and never looked at or trained on."""
    width = max(sum(len(row.input_ids) for row in pack) for pack in packs)
    ids = np.zeros((len(packs), width), dtype=np.int64)
    labels = np.full((len(packs), width), IGNORE, dtype=np.int64)
    positions = np.zeros((len(packs), width), dtype=np.int64)
    for i, pack in enumerate(packs):
        at = 0
        for row in pack:
            end = at + len(row.input_ids)
            ids[i, at:end] = row.input_ids
            labels[i, at + 1 : end] = row.labels[1:]  # position 0 of a document is never a target
            positions[i, at:end] = np.arange(len(row.input_ids))
            at = end
        positions[i, at:] = np.arange(width - at)
    return Pass(*(torch.from_numpy(array).to(device) for array in (ids, labels, positions)))


def seams_learned(one: Pass) -> int:
    """E09: how many labels stand on the first token of a document; anything but 0 is learned across a seam."""
    assert one.position_ids is not None
    return int(((one.position_ids == 0) & (one.labels != IGNORE)).sum())


def require_masked_seams(one: Pass) -> None:
    """ModelError if a label stands on the first token of a document in `one`."""
    learned = seams_learned(one)
    if learned:
        raise ModelError(
            "E09",
            f"{learned} labels stand on the first token of a packed document, to be learned from the end of another; they must be -100.",
        )


@torch.no_grad()
def contamination(model: nn.Module, vocabulary: int) -> float:
    """E08: the most that any logit of a document moves when the document packed before it is another. Modes are restored."""
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        first, second = (np.arange(n) * 7919 % vocabulary for n in (5, 6))
        logits = []
        for start in (0, vocabulary // 2):
            rows = [
                TokenRow("first", np.asarray((first + start) % vocabulary, dtype=np.int64), first),
                TokenRow("second", second, second),
            ]
            one = collate_packs([rows[:2]], device)
            logits.append(
                model(input_ids=one.input_ids, position_ids=one.position_ids, use_cache=False).logits[0, len(first) :].float()
            )
        return float((logits[0] - logits[1]).abs().max())
    finally:
        for module, mode in modes:
            module.training = mode


def resets_attention(model: nn.Module) -> bool:
    """True if packed documents do not see each other in this very model."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    try:
        return contamination(model, int(embeddings.weight.shape[0])) == 0.0
    except (TypeError, ValueError, RuntimeError):
        return False


def require_reset(model: nn.Module) -> None:
    """ModelError unless this model keeps packed documents apart."""
    if not resets_attention(model):
        raise ModelError(
            "E08", "training.packing is on, but in this model a packed document changes the next one's logits; set it to false."
        )
