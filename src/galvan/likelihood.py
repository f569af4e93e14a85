"""Token log-likelihoods without a [tokens, vocabulary] array: what training and scoring both stand on.

The plain version, `plain_token_nll`, is the specification; `token_nll` gives the same numbers from the hidden states in chunks.
`supports_chunks` proves on a live model that both agree before the chunked one is used: heads with soft-capping, scaling or
biases of their own (Gemma 2, Granite, Cohere) differ, and then the plain version is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

CHUNK_ROWS = 1024  # rows of logits alive at once; at 32,000 words of vocabulary 128 MB in fp32
IGNORE = -100

# What computes the hidden states instead of the decoder itself, of (decoder, ids, positions); `unpadded` sets it.
instead_of_decoder: ContextVar[Callable[[nn.Module, Tensor, Tensor | None], Tensor] | None] = ContextVar("decoder", default=None)


def plain_token_nll(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """NLL in nats of token t+1 given tokens up to t, float32, shape [B, T-1]. One matrix of logits: slow and plain."""
    logits = (
        model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False).logits[:, :-1].float()
    )
    return F.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")


class _ChunkedNLL(torch.autograd.Function):
    """Sum of NLLs of `targets` under `hidden @ weight.T`; the gradient is formed chunk by chunk in the forward pass.

    That costs no second pass through the head and keeps one chunk of logits alive, whatever the number of rows.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        hidden_grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = F.linear(hidden[rows], weight).float()
            target = targets[rows, None]
            log_z = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (log_z - logits.gather(1, target)).sum()
            if hidden_grad is None and weight_grad is None:
                continue
            logits_grad = torch.exp_(logits.sub_(log_z))
            logits_grad.scatter_add_(1, target, torch.full_like(target, -1, dtype=logits_grad.dtype))
            logits_grad = logits_grad.to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[rows] = logits_grad @ weight
            if weight_grad is not None:
                weight_grad += logits_grad.T @ hidden[rows]
        ctx.hidden_grad, ctx.weight_grad, ctx.weight_dtype = hidden_grad, weight_grad, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_grad = None if ctx.hidden_grad is None else ctx.hidden_grad.mul_(grad)
        weight_grad = None if ctx.weight_grad is None else ctx.weight_grad.mul_(grad).to(ctx.weight_dtype)
        return hidden_grad, weight_grad, None


@contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Whatever `train` or `eval` inside, every module is in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    get_base_model: Any = getattr(model, "get_base_model", None)
    inner = model if get_base_model is None else get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


def _hidden(model: nn.Module, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
    # No mask: rows are padded on the right, and a causal model cannot look there.
    decoder, instead = causal_lm(model).get_decoder(), instead_of_decoder.get()
    if instead is not None:
        return instead(decoder, input_ids, position_ids)
    return decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def sum_nll(model: nn.Module, input_ids: Tensor, labels: Tensor, chunked: bool, position_ids: Tensor | None = None) -> Tensor:
    """Differentiable sum of NLLs in nats, scalar float32.

    `input_ids` and `labels` are [B, T], padded on the right; `labels[b, t]` is the token at t or IGNORE. Position t is
    predicted from positions before t, so the first column is never a target. `position_ids` [B, T] that begin again at 0 keep packed
    documents apart: transformers then lets none attend to another (`training.packing.resets_attention` proves it on a live model).
    """
    targets = labels[:, 1:]
    wanted = targets != IGNORE
    if chunked:
        hidden = _hidden(model, input_ids, position_ids)[:, :-1][wanted]
        weight = causal_lm(model).get_output_embeddings().weight
        if not torch.is_grad_enabled():
            weight = weight.detach()  # autograd asks for its gradient otherwise, and the forward pass would form it
        return _ChunkedNLL.apply(hidden, weight, targets[wanted])  # type: ignore
    logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits[:, :-1][wanted].float()
    return F.cross_entropy(logits, targets[wanted], reduction="sum")


@torch.no_grad()
def token_nll(model: nn.Module, input_ids: Tensor, chunked: bool, position_ids: Tensor | None = None) -> Tensor:
    """As `plain_token_nll`, [B, T-1] float32 nats, through the hidden states where `chunked`."""
    if not chunked:
        return plain_token_nll(model, input_ids, position_ids=position_ids)
    hidden = _hidden(model, input_ids, position_ids)[:, :-1]
    weight = causal_lm(model).get_output_embeddings().weight
    targets = input_ids[:, 1:].reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    nll = torch.empty(rows.shape[0], dtype=torch.float32, device=rows.device)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        logits = F.linear(rows[part], weight).float()
        nll[part] = torch.logsumexp(logits, dim=-1) - logits.gather(1, targets[part, None])[:, 0]
    return nll.view(input_ids.shape[0], -1)


def logits_of(model: nn.Module, input_ids: Tensor, chunked: bool, position_ids: Tensor | None = None) -> Tensor:
    """[B, T, V] float32 by the way that likelihoods take; for proofs on few tokens."""
    if not chunked:
        return model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits.float()  # type: ignore[no-any-return]
    return F.linear(_hidden(model, input_ids, position_ids), causal_lm(model).get_output_embeddings().weight).float()


def _head_is_last(model: nn.Module, head: nn.Module, input_ids: Tensor) -> bool:
    """True if the logits are what the head gives, and no more. Soft-capping hardly moves small logits, so the head gives large ones."""
    given: list[Tensor] = []

    def large(module: nn.Module, args: Any, logits: Tensor) -> Tensor:
        given.append(torch.linspace(-1000, 1000, logits.numel()).to(logits).view_as(logits))
        return given[-1]

    handle = head.register_forward_hook(large)
    try:
        logits = model(input_ids=input_ids, use_cache=False).logits
    finally:
        handle.remove()
    return len(given) == 1 and torch.allclose(logits.float(), given[0].float())


@torch.no_grad()
def supports_chunks(model: nn.Module, tolerance: float | None = None) -> bool:
    """True if the chunked path gives this very model's likelihoods, tried on one row of tokens. Mode is restored."""
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    if tolerance is None:
        tolerance = 1e-4 if head.weight.dtype == torch.float32 else 5e-2
    try:
        with keep_modes(model):
            model.eval()
            ids = torch.arange(17, device=head.weight.device)[None] * 7919 % head.weight.shape[0]
            same = torch.allclose(token_nll(model, ids, True), plain_token_nll(model, ids), atol=tolerance, rtol=1e-3)
            return same and _head_is_last(model, head, ids)
    except (NotImplementedError, AttributeError, TypeError):
        return False
