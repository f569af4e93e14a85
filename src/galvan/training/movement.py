"""What the steps of a training run really do to each parameter and module: gradient, step, entries that changed, distance from the start.

A loss can fall through the last layers alone, or not at all while the log looks healthy; these figures show it after three steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from galvan.training.sharding import whole

STEPS = 3  # watched parameter by parameter; a copy of the parameters is held on the CPU during each


@torch.no_grad()
def gradient_left(parameters: Mapping[str, nn.Parameter]) -> float:
    """Norm of all gradients that are there before this step's own is added: 0 unless somebody forgot to clear them."""
    left = [whole(p.grad).norm() for p in parameters.values() if p.grad is not None]
    return float(torch.stack([norm.float().cpu() for norm in left]).norm()) if left else 0.0


def copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: whole(p.detach()).to("cpu", copy=True) for name, p in parameters.items()}


@torch.no_grad()
def movement(parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """By parameter: norm of its gradient, norm of the step from `before`, share of its entries that the step changed."""
    found = {}
    for name, p in parameters.items():
        now, gradient = whole(p.detach()).cpu(), 0.0 if p.grad is None else float(whole(p.grad).norm())
        step = float((now.float() - before[name].float()).norm())
        found[name] = [gradient, step, float((now != before[name]).float().mean())]
    return found


class Modules:
    """The same by module, cheap enough for every evaluation: an adapted layer counts as one, a layer that is trained whole by its parameters.

    `start` are the factors as they were before the first step, from which dW is counted: with PiSSA and OLoRA they are not zero.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self._layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A") and len(module.lora_A)}
        self._start = copies({name: p for name, p in parameters.items() if ".lora_A." in name or ".lora_B." in name})
        self._weight_norms: dict[str, float | None] = {}

    @torch.no_grad()
    def figures(
        self, parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor], moved: Mapping[str, list[float]]
    ) -> dict[str, dict[str, float | None]]:
        """By module, from what `movement` found: `gradient_norm`; `update_ratio`, norm of the step over that of what it changed; `changed_share` of its entries;
        `delta_ratio`, |dW|_F / |W|_F of an adapted layer since the start, None for others."""
        grouped: dict[str, list[str]] = {}
        for name in parameters:
            grouped.setdefault(name.split(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0], []).append(name)
        return {module: self._of(module, names, parameters, before, moved) for module, names in grouped.items()}

    def _of(
        self, module: str, names: list[str], parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor],
        moved: Mapping[str, list[float]],
    ) -> dict[str, float | None]:  # fmt: skip
        held = sum(float(before[name].float().square().sum()) for name in names) ** 0.5
        entries = sum(before[name].numel() for name in names)
        return {
            "gradient_norm": sum(moved[name][0] ** 2 for name in names) ** 0.5,
            "update_ratio": sum(moved[name][1] ** 2 for name in names) ** 0.5 / held if held else None,
            "changed_share": sum(moved[name][2] * before[name].numel() for name in names) / entries,
            "delta_ratio": self._delta_ratio(module, names, parameters),
        }

    def _delta_ratio(self, module: str, names: list[str], parameters: Mapping[str, nn.Parameter]) -> float | None:
        a, b = (next((name for name in names if part in name), None) for part in (".lora_A.", ".lora_B."))
        if a is None or b is None or module not in self._layers:
            return None
        layer: Any = self._layers[module]
        if module not in self._weight_norms:
            self._weight_norms[module] = _weight_norm(layer)
        weight = self._weight_norms[module]
        now = {name: whole(parameters[name].detach()).cpu().double() for name in (a, b)}
        if now[a].ndim != 2 or not weight:
            return None
        left = torch.cat([now[b], -self._start[b].double()], dim=1)
        right = torch.cat([now[a], self._start[a].double()], dim=0)
        square = ((left.T @ left) * (right @ right.T)).sum().clamp_min(0)  # |L R|_F^2 without the matrix L R
        scale = float(layer.scaling[next(iter(layer.lora_A))])
        return scale * math.sqrt(float(square)) / weight


def _weight_norm(layer: Any) -> float | None:
    from peft.utils.integrations import dequantize_module_weight

    try:
        return float(whole(dequantize_module_weight(layer.get_base_layer())).float().norm())
    except (AttributeError, TypeError, NotImplementedError, RuntimeError):
        return None
