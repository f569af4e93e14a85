"""Documents end to end in one row, with no padding between them: every token that is computed is one that counts.

The model's own layers run on [1, N] tokens; only attention is ours, one causal call a document, so that none sees another. Any
architecture whose attention goes through transformers' `AttentionInterface` can run so; whether this very model gives the same numbers
is not assumed but proved on it (`supports_unpadded`), and where it does not, padded rows are used as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from galvan.likelihood import causal_lm, keep_modes, sum_nll, token_nll

NAME = "galvan_unpadded"
UNDERSTOOD = {"sliding_window", "is_causal", "position_ids", "output_attentions", "use_cache", "cache_position"}
_lengths: ContextVar[Sequence[int]] = ContextVar("lengths")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, dropout: float = 0.0, scaling: float | None = None,
    sliding_window: int | None = None, **other: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query [1, heads, N, d], key and value [1, kv heads, N, d] -> [1, N, heads, d]."""
    strange = [name for name, given in other.items() if given is not None and name not in UNDERSTOOD]
    if attention_mask is not None or strange:
        raise NotImplementedError(f"attention with {strange or 'a mask'}")
    grouped = query.shape[1] != key.shape[1]
    parts = []
    lengths = list(_lengths.get())
    for q, k, v in zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True):
        band = None if sliding_window is None or q.shape[2] <= sliding_window else _band(q.shape[2], sliding_window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=band, dropout_p=dropout, scale=scaling, is_causal=band is None, enable_gqa=grouped
        )
        parts.append(out.transpose(1, 2))
    return torch.cat(parts, dim=1), None


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """True where a token may look: itself and the `window` - 1 before it; [length, length]."""
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(NAME, _attention)


@contextmanager
def documents_apart(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Inside, rows of [1, sum(lengths)] tokens are documents of these lengths that do not see each other; backward passes belong inside
    too, for gradient checkpointing computes the forward pass again."""
    config = causal_lm(model).get_decoder().config
    before, config._attn_implementation = config._attn_implementation, NAME
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)
        config._attn_implementation = before


def supports_unpadded(model: nn.Module, chunked: bool, tolerance: float | None = None) -> bool:
    """True if two documents end to end give the NLL and the gradients that each gives alone, on this very model in evaluation mode."""
    weight = causal_lm(model).get_output_embeddings().weight
    if tolerance is None:
        tolerance = 1e-4 if weight.dtype == torch.float32 else 5e-2
    parameters = [p for p in model.parameters() if p.requires_grad]
    documents = [
        torch.arange(start, start + length, device=weight.device)[None] * 7919 % weight.shape[0]
        for start, length in ((1, 13), (5, 9))
    ]
    positions = torch.cat([torch.arange(ids.shape[1], device=weight.device)[None] for ids in documents], dim=1)
    lengths, joined = [ids.shape[1] for ids in documents], torch.cat(documents, dim=1)
    labels = joined.masked_fill(positions == 0, -100)

    def gradients(total: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(total, parameters, allow_unused=True) if parameters else ()
        return [g for g in found if g is not None]

    try:
        with keep_modes(model):
            model.eval()
            with torch.set_grad_enabled(bool(parameters)):
                alone = torch.cat([token_nll(model, ids, chunked) for ids in documents], dim=1)
                expected = gradients(torch.stack([sum_nll(model, ids, ids, chunked) for ids in documents]).sum())
                with documents_apart(model, lengths):
                    together = token_nll(model, joined, chunked, positions)[positions[:, 1:] != 0]
                    found = gradients(sum_nll(model, joined, labels, chunked, positions))
        same = torch.allclose(together, alone[0], atol=tolerance, rtol=tolerance)
        return same and len(found) == len(expected) and all(map(_close, found, expected, [tolerance] * len(found)))
    except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError):
        return False


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= 10 * tolerance * b.norm() + 1e-12)
