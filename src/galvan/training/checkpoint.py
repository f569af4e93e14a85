"""Checkpoints: trained weights, optimizer, random state and position in one safetensors file, written atomically.

A checkpoint belongs to one run: its fingerprint must match, or it is not taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from galvan.rundir import write_bytes

FORMAT = "galvan-checkpoint-2"


def save_checkpoint(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    position: Mapping[str, Any],
    fingerprint: str,
) -> None:
    """Write the state after `position["step"]` steps; an earlier checkpoint is replaced only when the new one is whole."""
    tensors: dict[str, Tensor] = {f"weight.{name}": p.detach().cpu().contiguous().clone() for name, p in parameters.items()}
    numbers: dict[str, float] = {}  # what bitsandbytes keeps outside of tensors
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            inner = next((value for value in state.values() if isinstance(value, dict)), {})  # bitsandbytes wraps its tensors
            named = {f"optimizer.{k}.{i}.{name}": value for name, value in (state | inner).items() if value is not inner}
            tensors |= {n: v.detach().cpu().contiguous().clone() for n, v in named.items() if isinstance(v, Tensor)}
            numbers |= {n: v for n, v in named.items() if not isinstance(v, Tensor)}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    metadata = {"format": FORMAT, "fingerprint": fingerprint, "position": json.dumps(position), "numbers": json.dumps(numbers)}
    write_bytes(path, save(tensors, metadata=metadata))


def load_checkpoint(
    path: Path, parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer], fingerprint: str
) -> dict[str, Any] | None:
    """Restore the state in `path` and return its position; None if there is no checkpoint of this very run."""
    try:
        with safe_open(path, "pt") as stream:
            metadata = stream.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("fingerprint") != fingerprint:
                return None
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
    for k, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        prefix = f"optimizer.{k}."
        for name, value in (tensors | json.loads(metadata["numbers"])).items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return dict(json.loads(metadata["position"]))
