"""What the first steps of a training run really do to each parameter: its gradient, its step, and the entries that changed.

A loss can fall through the last layers alone, or not at all while the log looks healthy; these figures show it after three steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

STEPS = 3  # watched; a copy of the parameters is held on the CPU during each


@torch.no_grad()
def gradient_left(parameters: Mapping[str, nn.Parameter]) -> float:
    """Norm of all gradients that are there before this step's own is added: 0 unless somebody forgot to clear them."""
    left = [p.grad.norm() for p in parameters.values() if p.grad is not None]
    return float(torch.stack([norm.float().cpu() for norm in left]).norm()) if left else 0.0


def copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


@torch.no_grad()
def movement(parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """By parameter: norm of its gradient, norm of the step from `before`, share of its entries that the step changed."""
    found = {}
    for name, p in parameters.items():
        now, gradient = p.detach().cpu(), 0.0 if p.grad is None else float(p.grad.norm())
        step = float((now.float() - before[name].float()).norm())
        found[name] = [gradient, step, float((now != before[name]).float().mean())]
    return found
