"""Checkpoints: trained weights, optimizer, random state and position in one safetensors file, written atomically.

A checkpoint belongs to one run: its fingerprint must match, or it is not taken. Of several processes each has its own random state in it,
and the first writes it; another number of them may go on from it.
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

from galvan import distributed
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
    random = distributed.gathered((torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None))
    if distributed.rank():
        return
    tensors: dict[str, Tensor] = {f"weight.{name}": p.detach().cpu().contiguous().clone() for name, p in parameters.items()}
    numbers: dict[str, float] = {}  # what bitsandbytes keeps outside of tensors
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            inner = next((value for value in state.values() if isinstance(value, dict)), {})  # bitsandbytes wraps its tensors
            named = {f"optimizer.{k}.{i}.{name}": value for name, value in (state | inner).items() if value is not inner}
            tensors |= {n: v.detach().cpu().contiguous().clone() for n, v in named.items() if isinstance(v, Tensor)}
            numbers |= {n: v for n, v in named.items() if not isinstance(v, Tensor)}
    for rank, states in enumerate(random):
        tensors |= {_random(kind, rank): state for kind, state in zip(("cpu", "cuda"), states, strict=True) if state is not None}
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
    position = dict(json.loads(metadata["position"]))
    cpu, cuda = (_random(kind, distributed.rank()) for kind in ("cpu", "cuda"))
    if cpu not in tensors:  # a rank that was not there before draws what nobody has drawn
        torch.manual_seed(torch.initial_seed() + int(position["step"]))
        return position
    torch.set_rng_state(tensors[cpu])
    if cuda in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[cuda])
    return position


def _random(kind: str, rank: int) -> str:
    return f"random.{kind}.{rank}" if rank else f"random.{kind}"
