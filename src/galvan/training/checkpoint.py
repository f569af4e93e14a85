"""Checkpoints: trained weights, optimizer, random state and position, in `step-N.safetensors` and a marker `step-N.json` that is written last.

The marker holds the sha256 of the file and of the trace so far, and the fingerprint of the run: what was damaged on the disk, or belongs to another run, is not taken, and
the next older one is. Of several processes each has its own random state in it, and the first writes it; another number of them may go on
from it, with weights shared out or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from galvan import distributed
from galvan.models import disk_error
from galvan.progress import Progress
from galvan.rundir import atomic_path, remove, sha256_file, write_json
from galvan.training.sharding import as_held, named_whole

FORMAT = "galvan-checkpoint-4"
LAST, BEST = "step", "best"
TRACES = ("training.jsonl", "curves.jsonl")
OTHER = "another recipe, text, base or version of a package"


class Found(NamedTuple):
    """A checkpoint that verified: the marker's position, and where its tensors lie."""

    position: dict[str, Any]
    path: Path


class Checkpoints:
    """Those of one run in `folder`, `mark` the fingerprint of all that its weights depend on. The `keep` newest stay."""

    def __init__(self, folder: Path, mark: str, keep: int, progress: Progress) -> None:
        self._folder, self._mark, self._keep, self._progress = folder, mark, keep, progress

    def save(
        self, parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer], position: Mapping[str, Any], best: int | None
    ) -> None:  # fmt: skip
        """Write the state after `position["step"]` steps, then remove what the policy does not keep; `best` is the step of the best weights."""
        random = distributed.gathered((torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None))
        tensors, numbers = _state(parameters, optimizers)
        if distributed.rank():
            return
        for rank, states in enumerate(random):
            tensors |= {
                _random(kind, rank): state for kind, state in zip(("cpu", "cuda"), states, strict=True) if state is not None
            }
        self._write(LAST, tensors, {**position, "numbers": numbers})
        for step in self._steps(LAST)[self._keep :]:
            self._remove(LAST, step)
        for step in self._steps(BEST):
            if step != best:
                self._remove(BEST, step)

    def save_best(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """The weights alone, after the evaluation at `step` found them the best so far."""
        tensors = named_whole({f"weight.{name}": p for name, p in parameters.items()}, lambda: not distributed.rank())
        if not distributed.rank():
            self._write(BEST, tensors, {"step": step})

    def newest(self) -> Found | None:
        """The newest checkpoint of this very run whose checksum holds. It says which was passed over."""
        for step in self._steps(LAST):
            found = self._verified(LAST, step)
            if found is not None:
                return found
        return None

    def restore_best(self, parameters: Mapping[str, nn.Parameter], step: int) -> bool:
        """Put the weights saved as the best at `step` into `parameters`; False if they are not there or damaged."""
        found = self._verified(BEST, step)
        if found is not None:
            _load_weights(load_file(found.path), parameters)
        return found is not None

    def _write(self, kind: str, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        path = self._path(kind, int(position["step"]))
        remove(path.with_suffix(".json"))
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        with atomic_path(path, n_bytes) as temporary:
            try:
                save_file(dict(tensors), temporary)
            except SafetensorError as error:
                raise disk_error(path, error, n_bytes) from error
            digest = sha256_file(temporary)
        marker = {
            "format": FORMAT,
            "fingerprint": self._mark,
            "sha256": digest,
            "traces": self._traces() if kind == LAST else {},
            "position": position,
        }
        write_json(path.with_suffix(".json"), marker)

    def _traces(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 of the rows that go with this checkpoint; later ones are only added behind them."""
        found = ((name, self._folder / name) for name in TRACES)
        return {name: (path.stat().st_size, sha256_file(path)) for name, path in found if path.is_file()}

    def _verified(self, kind: str, step: int) -> Found | None:
        path = self._path(kind, step)
        try:
            marker = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if marker["format"] != FORMAT or marker["fingerprint"] != self._mark:
                self._progress.say(f"The checkpoint of step {step} belongs to {OTHER} and is not taken [checkpoint/other-run].")
                return None
            traces = all(_begins(self._folder / name, *begin) for name, begin in marker["traces"].items())
            if traces and sha256_file(path) == marker["sha256"] and marker["position"]["step"] == step:
                return Found(dict(marker["position"]), path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        self._progress.say(
            f"The checkpoint of step {step} is damaged (its checksum does not hold) and is not taken [checkpoint/damaged]."
        )
        return None

    def _path(self, kind: str, step: int) -> Path:
        return self._folder / f"{kind}-{step:08d}.safetensors"

    def _steps(self, kind: str) -> list[int]:
        """The newest first; only those with a marker are whole."""
        names = (path.stem.removeprefix(f"{kind}-") for path in self._folder.glob(f"{kind}-*.json"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _remove(self, kind: str, step: int) -> None:
        path = self._path(kind, step)
        remove(path.with_suffix(".json"))
        remove(path)


def load_state(found: Found, parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a checkpoint's state into the run and return its position."""
    tensors, position = load_file(found.path), dict(found.position)
    values: dict[str, Any] = {**tensors, **position.pop("numbers", {})}
    _load_weights(tensors, parameters)
    for k, optimizer in enumerate(optimizers):
        place = {name: i for i, name in enumerate(_names(optimizer, parameters))}
        state: dict[int, dict[str, Any]] = {}
        prefix = f"optimizer.{k}."
        for name, value in values.items():
            if name.startswith(prefix):
                of, _, key = name.removeprefix(prefix).rpartition(".")
                state.setdefault(place[of], {})[key] = (
                    as_held(value, parameters[of]) if isinstance(value, Tensor) and of in parameters else value
                )
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    cpu, cuda = (_random(kind, distributed.rank()) for kind in ("cpu", "cuda"))
    if cpu not in tensors:  # a rank that was not there before draws what nobody has drawn
        torch.manual_seed(torch.initial_seed() + int(position["step"]))
        return position
    torch.set_rng_state(tensors[cpu])
    if cuda in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[cuda])
    return position


def _state(
    parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and optimizer state, whole, on the first rank; and what bitsandbytes keeps outside of tensors."""
    held: dict[str, Tensor] = {f"weight.{name}": p for name, p in parameters.items()}
    numbers: dict[str, Any] = {}
    for k, optimizer in enumerate(optimizers):
        names = _names(optimizer, parameters)
        for i, state in optimizer.state_dict()["state"].items():
            inner = next((value for value in state.values() if isinstance(value, dict)), {})  # bitsandbytes wraps its tensors
            named = {f"optimizer.{k}.{names[i]}.{name}": value for name, value in (state | inner).items() if value is not inner}
            held |= {n: v for n, v in named.items() if isinstance(v, Tensor)}
            numbers |= {n: v for n, v in named.items() if not isinstance(v, Tensor)}
    return named_whole(held, lambda: not distributed.rank()), numbers


def _names(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """In the optimizer's own order, which is another one where weights are shared out."""
    names = {id(p): name for name, p in parameters.items()}  # what is not the model's own (D03) is kept by its place
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [names.get(id(p), f"#{n}") for n, p in enumerate(held)]


@torch.no_grad()
def _load_weights(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(as_held(tensors[f"weight.{name}"], parameter))


def _begins(path: Path, n_bytes: int, digest: str) -> bool:
    """Are the first `n_bytes` of a file those with that sha256?"""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(n_bytes)).hexdigest() == digest


def _random(kind: str, rank: int) -> str:
    return f"random.{kind}.{rank}" if rank else f"random.{kind}"
