"""Documents end to end in one row, with no padding between them: every token that is computed is one that counts.

Two ways lead there, and both are proved on the very model before they are taken (`supports_unpadded`). `galvan.llama` has the forward pass
of the Llama family written out. Any other architecture whose attention goes through transformers' `AttentionInterface` runs its own layers
on [1, N] tokens, and only attention is ours, causal and apart for each document. Where neither gives the numbers that each document gives alone
in transformers, padded rows are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from galvan import llama
from galvan.likelihood import causal_lm, instead_of_decoder, keep_modes, logits_of, sum_nll

NAME = "galvan_unpadded"
UNDERSTOOD = {"sliding_window", "is_causal", "position_ids", "output_attentions", "use_cache", "cache_position"}
TOLERANCE, IN_HALF_PRECISION = 1e-5, 3e-2  # of logits, relative to their norm; gradients may differ by ten times as much
Equal = Callable[[float], bool]  # whether two ways give this model's numbers within a tolerance
_lengths: ContextVar[Sequence[int]] = ContextVar("lengths")
_why_not_own: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()  # by decoder that was tried; None: proved equal


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, dropout: float = 0.0, scaling: float | None = None,
    sliding_window: int | None = None, **other: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query [1, heads, N, d], key and value [1, kv heads, N, d] -> [1, N, heads, d]."""
    strange = [name for name, given in other.items() if given is not None and name not in UNDERSTOOD]
    if attention_mask is not None or strange:
        raise NotImplementedError(f"attention with {strange or 'a mask'}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return llama.attended(q, k, v, _lengths.get(), sliding_window, dropout, scaling)[None], None


AttentionInterface.register(NAME, _attention)


def why_not_own(model: nn.Module) -> str | None:
    """Why this model goes through transformers, or None where it takes `galvan.llama`'s way; it may change as adapters are put in."""
    decoder = causal_lm(model).get_decoder()
    return _why_not_own.get(decoder, "it was not tried") or llama.refusal(decoder)


def fallback(model: nn.Module, unpadded: bool) -> str | None:
    """What people are told where passes do not take `galvan.llama`'s way, and why; None where they do."""
    reason = why_not_own(model)
    if unpadded and reason is None:
        return None
    rows = "without padding" if unpadded else "on padded rows"
    return f"Passes go through transformers' own layers, {rows}: {reason or 'the other ways gave other numbers'}."


@contextmanager
def documents_apart(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Inside, rows of [1, sum(lengths)] tokens are documents of these lengths that do not see each other; backward passes belong inside
    too, for gradient checkpointing computes the forward pass again."""
    with _own_way(lengths) if why_not_own(model) is None else _their_way(model, lengths):
        yield


@contextmanager
def _own_way(lengths: Sequence[int]) -> Iterator[None]:
    token = instead_of_decoder.set(partial(llama.hidden_states, lengths=lengths))
    try:
        yield
    finally:
        instead_of_decoder.reset(token)


@contextmanager
def _their_way(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    config = causal_lm(model).get_decoder().config
    before, config._attn_implementation = config._attn_implementation, NAME
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)
        config._attn_implementation = before


def supports_unpadded(model: nn.Module, chunked: bool, learns: bool = True, own: bool = True) -> bool:
    """True if two documents end to end give the logits, and where the model `learns` the gradients, that each gives alone in transformers,
    on this very model in evaluation mode, in half precision layer by layer where need be. Which way gave them is kept: our own, where it may be taken, or theirs
    with our attention."""
    decoder = causal_lm(model).get_decoder()
    reason = llama.refusal(decoder) if chunked else "its head is not a plain matrix"
    reason = reason if own else "its blocks are called as they are: shared out, or in another dtype"
    if reason is None and not equal_throughout(model, partial(_equal, model, chunked, learns, _own_way)):
        reason = "its numbers differ from transformers'"
    _why_not_own[decoder] = reason
    return reason is None or equal_throughout(model, partial(_equal, model, chunked, learns, partial(_their_way, model)))


def equal_throughout(model: nn.Module, equal: Equal) -> bool:
    """Whether `equal` holds of this model or, in half precision, of each of its layers alone.

    Two right ways round differently there, and what each layer rounds goes through all that follow: after 32 layers they were seen to differ by
    6 % where one layer makes 1 %.
    """
    if equal(tolerance_of(model)):
        return True
    decoder: Any = causal_lm(model).get_decoder()
    layers = getattr(decoder, "layers", None)
    if tolerance_of(model) == TOLERANCE or not isinstance(layers, nn.ModuleList) or len(layers) < 2:
        return False

    def alone(number: int) -> bool:
        with _only_layer(decoder, number):
            return equal(IN_HALF_PRECISION)

    return all(map(alone, range(len(layers))))


@contextmanager
def _only_layer(decoder: Any, number: int) -> Iterator[None]:
    """Inside, the decoder has this layer alone between its embeddings and its last norm."""
    config, layers = decoder.config, decoder.layers
    depth, types = config.num_hidden_layers, getattr(config, "layer_types", None)
    decoder.layers, config.num_hidden_layers = nn.ModuleList([layers[number]]), 1
    if types is not None:
        config.layer_types = [types[number]]
    try:
        yield
    finally:
        decoder.layers, config.num_hidden_layers = layers, depth
        if types is not None:
            config.layer_types = types


def _equal(model: nn.Module, chunked: bool, learns: bool, way: Any, tolerance: float) -> bool:
    """Logits and gradients of two documents by this way against each alone. Adapters that are still zero are given noise meanwhile."""
    weight = causal_lm(model).get_output_embeddings().weight
    parameters = [p for p in model.parameters() if p.requires_grad] if learns else []
    lengths = [61, 37]
    documents = [torch.arange(n, n + n, device=weight.device)[None] * 7919 % weight.shape[0] for n in lengths]
    positions = torch.cat([torch.arange(n, device=weight.device)[None] for n in lengths], dim=1)
    joined = torch.cat(documents, dim=1)
    labels = joined.masked_fill(positions == 0, -100)

    def gradients(total: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(total, parameters, allow_unused=True) if parameters else ()
        return [g for g in found if g is not None]

    try:
        with keep_modes(model), _noise_for_zeros(parameters):
            model.eval()
            with torch.no_grad():
                alone = torch.cat([logits_of(model, ids, chunked) for ids in documents], dim=1)
                with way(lengths):
                    together = logits_of(model, joined, chunked, positions)
            if not close(together, alone, tolerance):
                return False
            if not parameters:
                return True
            expected = gradients(torch.stack([sum_nll(model, ids, ids, chunked) for ids in documents]).sum())
            with way(lengths):
                found = gradients(sum_nll(model, joined, labels, chunked, positions))
        return len(found) == len(expected) and all(map(close, found, expected, [10 * tolerance] * len(found)))
    except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError, KeyError):
        return False


@contextmanager
def _noise_for_zeros(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A fresh LoRA's B is zero: inside it is not, so that a wrong A would be seen."""
    zeros = [p for p in parameters if p.ndim == 2 and not p.any()]
    try:
        for number, p in enumerate(zeros):
            generator = torch.Generator(p.device).manual_seed(number)
            p.data.normal_(0.0, 0.02, generator=generator)
        yield
    finally:
        for p in zeros:
            p.data.zero_()


def tolerance_of(model: nn.Module) -> float:
    weight = causal_lm(model).get_output_embeddings().weight
    return TOLERANCE if weight.dtype == torch.float32 else IN_HALF_PRECISION


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found.float() - expected.float()).norm() <= tolerance * expected.float().norm() + 1e-12)
