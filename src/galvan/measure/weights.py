"""What the weights of live models say: do two models have the same, does one hold the adapter's update already, has a merge kept it?

Every figure is taken on a few matrices spread evenly over the model, and of an update B A without forming it where that is enough.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from galvan.errors import ModelError
from galvan.measure.facts import Drift, FileFacts, Load, Share
from galvan.models import Located, safetensors_header, weight_files

SAMPLED = 16
MERGED = 4  # modules whose update is formed whole
_ADAPTER = re.compile(r"\.(?:lora_|modules_to_save\.|ia3_|token_adapter)")
NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip  # Dettmers et al. 2023, QLoRA, appendix E


def spread(items: Sequence[Any], most: int = SAMPLED) -> list[Any]:
    """At most `most` of `items`, evenly."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model below any adapter, by the names that they have without one."""
    named = ((name, p) for name, p in model.named_parameters() if p.device.type != "meta" and not _ADAPTER.search(name))
    return {re.sub(r"^(?:base_model\.model\.)+|\.base_layer|\.original_module", "", name): p for name, p in named}


@torch.no_grad()
def drift(first: Mapping[str, Tensor], second: Mapping[str, Tensor], dimensions: tuple[int, ...] = (2,)) -> Drift | None:
    """The same matrices of two models beside each other; None where all of them lie in the same memory, or none is in both."""
    common = [
        n for n, w in first.items() if w.ndim in dimensions and w.is_floating_point() and n in second and second[n].shape == w.shape
    ]
    names = spread([n for n in common if first[n].data_ptr() != second[n].data_ptr()])
    if not names:
        return None
    different, apart, own, other, dot, coarser = 0, 0.0, 0.0, 0.0, 0.0, False
    for name in names:
        a, b = first[name].detach(), second[name].detach().to(first[name].device)
        different += not torch.equal(a.to(b.dtype), b)
        a, b = a.float(), b.float()
        coarser |= _coarse(a) != _coarse(b)
        apart, own, other, dot = (
            x + float(y)
            for x, y in zip(
                (apart, own, other, dot), ((a - b).square().sum(), a.square().sum(), b.square().sum(), (a * b).sum()), strict=True
            )
        )
    scale = max(own, 1e-30)
    return Drift(len(names), different, (apart / scale) ** 0.5, dot / max((own * other) ** 0.5, 1e-30), coarser)


def _coarse(weight: Tensor) -> bool:
    """True if every number is one of bfloat16 or float16, or if the blocks of 64 hold at most 16 numbers each, as after 4-bit rounding, or
    if each row lies on an even grid of at most 256 levels, as after rounding to integers of 8 bits or fewer."""
    if torch.equal(weight.bfloat16().float(), weight) or torch.equal(weight.half().float(), weight):
        return True
    blocks = weight.flatten()[: 64 * 64]
    few = len(blocks) >= 64 and all(len(block.unique()) <= 16 for block in blocks[: len(blocks) // 64 * 64].view(-1, 64))
    return few or all(_on_a_grid(row) for row in spread(list(weight), MERGED))


def _on_a_grid(row: Tensor) -> bool:
    """Whether its numbers are multiples of their smallest difference, at most 128 of them; those of a trained row are no multiples."""
    numbers = row.double().flatten().sort().values
    gaps = numbers.diff()
    gaps = gaps[gaps > 0]
    if len(gaps) < 8:
        return False
    multiples = numbers / gaps.min()
    return bool((multiples.abs() <= 128.5).all()) and bool((multiples - multiples.round()).abs().max() < 0.02)


@torch.no_grad()
def changed_entries(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float | None:
    """Share of entries that differ, in the matrices that differ at all; None where none does, or nothing is apart."""
    names = [n for n, w in first.items() if w.ndim == 2 and n in second and second[n].shape == w.shape]
    shares = [float((first[n].to(second[n].device, second[n].dtype) != second[n]).float().mean()) for n in spread(names)]
    return fmean(x) if (x := [share for share in shares if share]) else None


def source_drift(model: nn.Module) -> Drift | None:
    """The model's weights beside those in the folder, or in the Hub's cache, that it says it was loaded from; None if that is not here."""
    folder = _source(str(getattr(getattr(model, "config", None), "_name_or_path", "") or ""))
    try:
        paths = weight_files(Located(str(folder), folder)) if folder else []
    except ModelError:
        return None
    held = {
        n: w for n, w in base_weights(model).items() if w.ndim in (1, 2) and w.is_floating_point()
    }  # biases may be trained alone
    where = {name: path for path in paths for name in safetensors_header(path) if name in held}
    from safetensors import safe_open

    tensors = {}
    kinds = [sorted(name for name in where if held[name].ndim == ndim) for ndim in (1, 2)]
    for name in [name for kind in kinds for name in spread(kind, SAMPLED // 2)]:
        with safe_open(where[name], framework="pt") as stream:
            tensors[name] = stream.get_tensor(name).to(held[name].dtype)
    return drift(tensors, held, (1, 2))


def _source(name: str) -> Path | None:
    try:
        if name and Path(name).is_dir():
            return Path(name)
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(name, "config.json") if name else None
    except (OSError, ValueError):
        return None
    return Path(config).parent if isinstance(config, str) else None


def load_of(model: nn.Module) -> Load:
    """How `model` was loaded: dtype of its weights, kind of quantisation, attention."""
    weights = [p.dtype for p in base_weights(model).values() if p.is_floating_point()]
    config = getattr(model, "config", None)
    packed = getattr(config, "quantization_config", None)
    kind = packed.get("quant_method") if isinstance(packed, dict) else getattr(packed, "quant_method", None)
    name = str(max(set(weights), key=weights.count)).removeprefix("torch.") if weights else "none"
    return Load(name, None if kind is None else str(getattr(kind, "value", kind)), getattr(config, "_attn_implementation", None))


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """LoRA layers around matrices that can be read, by the names that the modules have in the base."""
    layers = {re.sub(r"^(?:base_model\.model\.)+", "", n): m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    return {
        n: m for n, m in layers.items() if (w := getattr(m.get_base_layer(), "weight", None)) is not None and w.is_floating_point()
    }


def dead_targets(model: nn.Module) -> tuple[str, ...]:
    """Adapted modules whose own weight is zero throughout: what they feed is not used."""
    return tuple(name for name, layer in lora_layers(model).items() if not bool(layer.get_base_layer().weight.any()))


def with_weight_norms(files: FileFacts, model: nn.Module) -> FileFacts:
    layers = lora_layers(model)
    norms = {
        m.module: float(layers[m.module].get_base_layer().weight.detach().float().norm())
        for m in files.modules
        if m.module in layers
    }
    modules = tuple(dataclasses.replace(m, weight_norm=norms.get(m.module)) for m in files.modules)
    return dataclasses.replace(files, modules=modules)


@torch.no_grad()
def share_in_base(model: nn.Module) -> Share | None:
    """dot(W, d) / dot(d, d) of each unmerged module: about 0 in the base that an adapter was made for, 1 where d was added already."""
    shares = []
    for layer in spread(list(lora_layers(model).values())):
        if layer.merged or len(layer.active_adapters) != 1 or layer.active_adapters[0] not in layer.lora_A:
            continue
        name, weight = layer.active_adapters[0], layer.get_base_layer().weight.detach().float()
        a, b = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
        if a.ndim != 2 or weight.shape not in ((b.shape[0], a.shape[1]), (a.shape[1], b.shape[0])):
            continue
        weight = weight if weight.shape == (b.shape[0], a.shape[1]) else weight.T
        size = float(layer.scaling[name]) * float(((b.T @ b) * (a @ a.T)).sum())
        if size > 0:
            shares.append(float(((b.T @ weight) * a).sum()) / size)
    return _share(shares)


def _share(values: Sequence[float]) -> Share | None:
    return Share(fmean(values), pstdev(values), len(values)) if values else None


@torch.no_grad()
def share_in_merge(tuned: nn.Module, base: Mapping[str, Tensor]) -> Share | None:
    """What merged modules have kept of their update, against the base's own weights: dot(W' - W, d) / dot(d, d)."""
    shares: list[float] = []
    for name, layer in lora_layers(tuned).items():
        own, below = base.get(f"{name}.weight"), layer.get_base_layer().weight
        if layer.merged and own is not None and own.data_ptr() != below.data_ptr() and len(shares) < MERGED:
            delta = sum(layer.get_delta_weight(a).float() for a in layer.merged_adapters)
            shares.append(float(((below.float() - own.float()) * delta).sum() / delta.square().sum().clamp_min(1e-30)))
    return _share(shares)


@torch.no_grad()
def after_merge(model: nn.Module) -> dict[str, Share]:
    """What a merge into bfloat16 and into 4-bit weights would keep of the update: dot(Q(W + d) - Q(W), d) / dot(d, d)."""
    found: dict[str, list[float]] = {"bfloat16": [], "nf4": []}
    layers = [m for m in lora_layers(model).values() if not m.merged and any(a in m.lora_A for a in m.active_adapters)]
    for layer in spread(layers, MERGED):
        weight = layer.get_base_layer().weight.detach().float()
        delta = sum(layer.get_delta_weight(a).float() for a in layer.active_adapters if a in layer.lora_A)
        for grid, rounded in (("bfloat16", _bfloat16), ("nf4", _nf4)):
            kept = ((rounded(weight + delta) - rounded(weight)) * delta).sum() / delta.square().sum().clamp_min(1e-30)
            found[grid].append(float(kept))
    return {grid: share for grid, values in found.items() if (share := _share(values))}


def _bfloat16(weight: Tensor) -> Tensor:
    return weight.bfloat16().float()


def _nf4(weight: Tensor, block: int = 64) -> Tensor:
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % block)).view(-1, block)
    scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-12)
    levels = torch.tensor(NF4, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(flat / scale, middles)] * scale).flatten()[: weight.numel()].view_as(weight)
