"""A step's batch in passes that fit: rows of like length together, padded on the right, weighted by their tokens.

The loss of a step is the sum of NLLs over all its supervised tokens divided by their number, whatever the passes: the
gradient is that of one big batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from galvan.data.tokens import IGNORE, TokenRow


def plan_passes(rows: Sequence[TokenRow], rows_per_pass: int, tokens_per_pass: int) -> list[list[TokenRow]]:
    """Group rows by length; a pass has at most `rows_per_pass` rows and, padding included, `tokens_per_pass` tokens (or one row)."""
    passes: list[list[TokenRow]] = []
    for row in sorted(rows, key=lambda r: -len(r.input_ids)):
        last = passes[-1] if passes else None
        if last is None or len(last) >= rows_per_pass or (len(last) + 1) * len(last[0].input_ids) > tokens_per_pass:
            passes.append([row])
        else:
            last.append(row)
    return passes


def plan_unpadded(rows: Sequence[TokenRow], tokens_per_pass: int) -> list[list[TokenRow]]:
    """Rows in their order, end to end, in passes of at most `tokens_per_pass` tokens (or one row)."""
    passes: list[list[TokenRow]] = []
    room = 0
    for row in rows:
        room -= len(row.input_ids)
        if not passes or room < 0:
            passes.append([])
            room = tokens_per_pass - len(row.input_ids)
        passes[-1].append(row)
    return passes


def collate(rows: Sequence[TokenRow], device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids, labels), each [B, T] int64, padded on the right; pad positions hold id 0 and are never looked at or trained on."""
    width = max(len(row.input_ids) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = row.input_ids
        labels[i, : len(row.labels)] = row.labels
    return torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
