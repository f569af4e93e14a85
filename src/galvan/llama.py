"""The Llama family's forward pass written out: documents end to end without padding, each attending to itself alone.

It is transformers' arithmetic on the loaded model's own modules and weights (Llama, Mistral, Qwen 2 and 3, Gemma), in fewer passes over
memory: the model's linear layers, rotary table and activation are called as they are, whatever PEFT or bitsandbytes made of them; norms,
rotation, attention and plain LoRA are ours. transformers' model is the specification: `unpadded` holds both side by side on every model
that is loaded, and this pass is not taken where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FAMILIES = {"llama", "mistral", "qwen2", "qwen3", "gemma"}
LONG = 2048  # tokens of a document, on average, from which PyTorch's choice of a kernel for each is faster than one call for all


def refusal(decoder: Any) -> str | None:
    """Why this decoder cannot go this way now, or None where it may; whether its numbers are right is for the proof to show."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return "autocast is on"
    family = decoder.config.model_type
    if family not in FAMILIES:
        return f"its architecture is {family}"
    if decoder.config.rope_parameters["rope_type"] in {"dynamic", "longrope"}:
        return "its RoPE depends on the length of the row"
    ours = [decoder, decoder.norm, decoder.rotary_emb]
    for layer in decoder.layers:
        ours += [layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm]
    return "its modules carry hooks" if any(m._forward_hooks or m._forward_pre_hooks for m in ours) else None


def hidden_states(decoder: Any, input_ids: Tensor, position_ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """[1, N] ids of documents of these `lengths` end to end, positions from 0 in each -> last hidden states [1, N, hidden]."""

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = module.attention_dropout if module.training else 0.0
        return attended(q, k, v, lengths, _window(module), dropout, module.scaling)

    return _through(decoder, input_ids[0], position_ids, attend)[None]


# Of (attention module, q [N, heads, d], k and v [N, kv heads, d]) the values that each token takes in, [N, heads, d].
Attend = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def _through(decoder: Any, ids: Tensor, position_ids: Tensor, attend: Attend) -> Tensor:
    """All layers, [N] ids and [1, N] positions -> [N, hidden]."""
    x = decoder.embed_tokens(ids)
    cos, sin = _angles(decoder, x, position_ids)
    for layer in decoder.layers[: decoder.config.num_hidden_layers]:
        if layer.training and layer.gradient_checkpointing:
            x = checkpoint(_layer, layer, x, cos, sin, attend, use_reentrant=False)
        else:
            x = _layer(layer, x, cos, sin, attend)
    return _norm(decoder.norm, x)


def _angles(decoder: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the model's own rotary table, which knows its scaling; each [N, 1, head / 2], for both halves are alike."""
    cos, sin = (table[0, :, None].chunk(2, dim=-1)[0] for table in decoder.rotary_emb(x, position_ids))
    return cos, sin


def _layer(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
    """One decoder layer, [N, hidden] -> [N, hidden]; `cos` and `sin` are [N, 1, head / 2]."""
    attention, mlp = layer.self_attn, layer.mlp
    rows = _norm(layer.input_layernorm, x)
    q, k, v = (
        _project(p, rows).view(len(x), -1, attention.head_dim) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        q, k = _norm(attention.q_norm, q), _norm(attention.k_norm, k)
    q, k = _Rotated.apply(q, cos, sin), _Rotated.apply(k, cos, sin)  # type: ignore[no-untyped-call]
    x = x + _project(attention.o_proj, attend(attention, q, k, v).flatten(1))
    rows = _norm(layer.post_attention_layernorm, x)
    gate, up = _project(mlp.gate_proj, rows), _project(mlp.up_proj, rows)
    is_silu = type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")  # PyTorch's, and transformers' of the same
    return x + _project(mlp.down_proj, _Gated.apply(gate, up) if is_silu else mlp.act_fn(gate) * up)  # type: ignore[no-untyped-call]


def _window(module: Any) -> int | None:
    """How many tokens this layer looks back, itself included; None: all."""
    return getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))


class Cache:
    """Keys and values of rows that grow together, token by token; room for them is taken once. Rows are padded on the left.

    `real` [B, room] is False where a row is padding.
    """

    def __init__(self, decoder: Any, real: Tensor) -> None:
        self.decoder, self.real, self.seen = decoder, real, 0
        config, like = decoder.config, decoder.embed_tokens.weight
        shape = (len(real), config.num_key_value_heads, real.shape[1], decoder.layers[0].self_attn.head_dim)
        self.keys, self.values = ({layer.self_attn.layer_idx: like.new_empty(shape) for layer in decoder.layers} for _ in range(2))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.real = self.real[rows]
        for some in (self.keys, self.values):
            some.update({layer: one[rows] for layer, one in some.items()})

    def next_states(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[B, T] ids at these positions, after all that was seen -> hidden states of the last of them, [B, hidden]."""
        rows, width = ids.shape
        begin, end = self.seen, self.seen + width
        at = torch.arange(end, device=ids.device)
        distance = at[begin:, None] - at
        causal = (distance >= 0) & self.real[:, None, None, :end] | (
            distance == 0
        )  # a pad sees itself: of nothing there is no mean

        def attend(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[module.layer_idx], self.values[module.layer_idx]
            q, k, v = (x.view(rows, width, -1, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
            keys[:, :, begin:end], values[:, :, begin:end] = k, v
            window = _window(module)
            mask = causal if window is None or end <= window else causal & (distance < window)
            out = F.scaled_dot_product_attention(
                q, keys[:, :, :end], values[:, :, :end], attn_mask=mask, scale=module.scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
            return out.transpose(1, 2).flatten(0, 1)

        states = _through(self.decoder, ids.flatten(), positions.reshape(1, -1), attend)
        self.seen = end
        return states.view(rows, width, -1)[:, -1]


def attended(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], window: int | None, dropout: float, scaling: float | None
) -> Tensor:
    """q [N, heads, d], k and v [N, kv heads, d] -> [N, heads, d]: causal attention, one call a document, or one for all on a GPU."""
    if not dropout and _flash_takes(q) and (sum(lengths) < LONG * len(lengths) or (window is not None and window < max(lengths))):
        return _attended_at_once(q, k, v, lengths, window, scaling)
    parts = []
    for one in zip(*(torch.split(x, list(lengths)) for x in (q, k, v)), strict=True):
        query, key, value = (x.transpose(0, 1)[None] for x in one)
        n = len(one[0])
        band = None if window is None or n <= window else _band(n, window, q.device)
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=band,
            dropout_p=dropout,
            scale=scaling,
            is_causal=band is None,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def _flash_takes(q: Tensor) -> bool:
    """Whether FlashAttention can be called on documents end to end: a launch for each of many short ones leaves a GPU idle."""
    width = q.shape[-1]
    return (
        q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and width <= 256 and width % 8 == 0 and _flash_is_there(q.device)
    )


@lru_cache
def _flash_is_there(device: torch.device) -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _attended_at_once(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], window: int | None, scaling: float | None) -> Tensor:
    longest, seams = max(lengths), _seams(tuple(lengths), q.device)
    back = window - 1 if window is not None and window < longest else None
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, seams, seams, longest, longest, 0.0, True, False, scale=scaling, window_size_left=back, window_size_right=None if back is None else 0
    )[0]  # fmt: skip
    return out


@lru_cache(maxsize=4)
def _seams(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where documents begin, and the end of the last; int32. Kept, for every layer of a pass asks for it, and a training pass may be next."""
    with torch.inference_mode(False):
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """True where a token may look: itself and the `window` - 1 before it; [length, length]."""
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < window)


def _project(module: Any, x: Tensor) -> Tensor:
    """`module(x)`; of a plain LoRA the same with the update added where the base's product lies, instead of three passes over it."""
    if not _is_plain_lora(module, x):
        return module(x)  # type: ignore[no-any-return]
    out = module.base_layer(x)
    for name in module.active_adapters:
        if name in module.lora_A:
            kept, factor = _dropped(module.lora_dropout[name], x)
            a, b = (part[name].weight.to(x.dtype) for part in (module.lora_A, module.lora_B))
            out = torch.addmm(out, F.linear(kept, a) * (module.scaling[name] * factor), b.T)
    return out  # type: ignore[no-any-return]


def _is_plain_lora(module: Any, x: Tensor) -> bool:
    """PEFT's own layer, over 4 bits too, switched on, not merged, no variant such as DoRA, no bias of its own; its factors may be held in
    float32 over a base in half precision, as mixed precision has it: PEFT would take all of `x` to float32 for them."""
    if (
        type(module).__name__ not in ("Linear", "Linear4bit")
        or isinstance(module, nn.Linear)
        or module.disable_adapters
        or module.merged
    ):
        return False
    plain = not module.lora_variant and not any(module.lora_bias.values())
    return plain and all(a.weight.dtype in (x.dtype, torch.float32) for a in module.lora_A.values())


def _dropped(dropout: Any, x: Tensor) -> tuple[Tensor, float]:
    """`x` with a share of its values at 0, and what the others are to be multiplied by; the share is that asked for, to 1 in 65,536.

    16 random bits a value: torch's own dropout draws a number for each, which on a CPU takes longer than the products of a small LoRA.
    """
    p = getattr(dropout, "p", 0.0)
    if not p or not dropout.training:
        return x, 1.0
    out_of_65536 = round(p * 65536)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None).view(torch.int16)
    keep = bits[: x.numel()].view(x.shape) >= out_of_65536 - 32768
    return torch.where(keep, x, 0.0), 65536 / (65536 - out_of_65536)


def _norm(module: Any, x: Tensor) -> Tensor:
    gemma = hasattr(module, "eps")
    gain, eps = (module.weight + 1.0, module.eps) if gemma else (module.weight, module.variance_epsilon)
    if x.is_cuda and not (gemma and x.dtype != torch.float32):  # Gemma adds the 1 in float32
        return F.rms_norm(x, gain.shape, gain, eps)  # one kernel there
    return _RMSNorm.apply(x, gain, eps) if x.dtype == torch.float32 else module(x)  # type: ignore


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * gain over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        scale: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, gain)
        return (x * scale).mul_(gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, scale, gain = ctx.saved_tensors
        unit = x * scale
        gain_grad = (grad * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad = grad * gain
        along = torch.linalg.vecdot(grad, unit)[..., None].div_(-x.shape[-1])
        return grad.addcmul_(unit, along).mul_(scale), gain_grad, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up, of which silu(gate) is computed again on the way back: a fifth of what a layer would keep till then."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Rotated(torch.autograd.Function):
    """Rotary position embedding of [N, heads, d]: pairs (i, i + d / 2) turned by their angle; the gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    left, right = out.chunk(2, dim=-1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=right).addcmul_(a, sin, value=sign)
    return out
