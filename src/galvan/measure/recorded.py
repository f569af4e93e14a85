"""What the program that trained an adapter wrote beside it: galvan's `training.json`, a Trainer's `trainer_state.json`, leftovers of
sharded training. Only text is read; `training_args.bin` and optimizer states are pickles and stay closed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from galvan.errors import DataError, ModelError
from galvan.measure.course import Course, course
from galvan.measure.facts import Recorded
from galvan.models import Located, read_config
from galvan.rundir import read_rows, sha256_file

_SHARDED = (
    "*.distcp",
    ".metadata",
    "global_step*",
    "zero_to_fp32.py",
    "pytorch_model_fsdp*",
    "*_optim_states.pt",
    "ds_config*.json",
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_WEIGHTS = "adapter_model.safetensors"
REPAIRED = "galvan-repair.json"  # lies in a corrected copy, whose bytes are not those that training wrote


def recorded(tuned: Located) -> Recorded | None:
    """The record beside `tuned`; None if there is none. A record that is damaged counts as none: it is not what is examined."""
    folder = tuned.path.resolve()
    sharded = tuple(sorted({p.name for pattern in _SHARDED for p in folder.glob(pattern)}))
    ours = folder.parent / "training.json"
    try:
        if ours.is_file():
            left_out = {"adapter_sha256"} if (folder / REPAIRED).is_file() else set()
            return _ours(
                {k: v for k, v in read_config(ours).items() if k not in left_out}, folder.parent / "training.jsonl", sharded
            )
        state = _trainer_state(folder)
        if state is not None:
            return _trainer(read_config(state), folder, sharded)
    except (DataError, ModelError):
        pass
    return Recorded(sharded=sharded) if sharded else None


def _ours(training: Mapping[str, Any], log: Path, sharded: tuple[str, ...]) -> Recorded:
    def field(name: str, *kinds: type) -> Any:
        value = training.get(name)
        return value if isinstance(value, kinds) else None

    return Recorded(
        "galvan",
        base_sha256=field("base_sha256", str),
        adapter_sha256=field("adapter_sha256", str),
        rank=field("rank", int, float),
        alpha=field("alpha", int, float),
        use_rslora=field("use_rslora", bool),
        trainable_parameters=field("trainable_parameters", int),
        optimizer_parameters=field("optimizer_parameters", int),
        steps=field("steps", int),
        course=course(list(read_rows(log))) if log.is_file() else None,
        sharded=sharded,
    )


def _trainer_state(folder: Path) -> Path | None:
    """The adapter's own, its parent's, or that of the last checkpoint inside it."""
    places = [folder, folder.parent, *_checkpoints(folder)[::-1]]
    return next((path for place in places if (path := place / "trainer_state.json").is_file()), None)


def _checkpoints(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _trainer(state: Mapping[str, Any], folder: Path, sharded: tuple[str, ...]) -> Recorded:
    here = _CHECKPOINT.fullmatch(folder.name)
    best = _best_step(state)
    found = state.get("log_history")
    history = found if isinstance(found, list) else []
    return Recorded(
        "transformers",
        steps=state.get("global_step") if isinstance(state.get("global_step"), int) else None,
        checkpoint=int(here[1]) if here else None,
        best_step=best,
        same_as_best=_same_as_best(folder, best),
        course=_trainer_course(history),
        sharded=sharded,
    )


def _trainer_course(history: Sequence[Any]) -> Course | None:
    seen = course(trainer_rows(history))
    evaluated = [row for row in history if isinstance(row, Mapping) and isinstance(row.get("eval_loss"), int | float)]
    if seen is None or not evaluated or not isinstance(evaluated[0].get("step"), int):
        return seen
    return dataclasses.replace(seen, first_eval_step=evaluated[0]["step"], first_eval=float(evaluated[0]["eval_loss"]))


def _best_step(state: Mapping[str, Any]) -> int | None:
    """`best_global_step`, or in older versions the number in `best_model_checkpoint`."""
    step, path = state.get("best_global_step"), state.get("best_model_checkpoint")
    if isinstance(step, int):
        return step
    match = _CHECKPOINT.search(path) if isinstance(path, str) else None
    return int(match[1]) if match else None


def _same_as_best(folder: Path, best: int | None) -> bool | None:
    """Whether the adapter is the file of the best checkpoint; None where that is not there any more."""
    own = folder / _WEIGHTS
    for place in (folder, folder.parent):
        other = place / f"checkpoint-{best}" / _WEIGHTS
        if best is not None and other.is_file() and own.is_file():
            return sha256_file(own) == sha256_file(other)
    return None


def trainer_rows(history: Sequence[Any]) -> list[dict[str, Any]]:
    """A Trainer's log as rows of ours. Its loss is a mean over the steps since the line before."""
    names = {"loss": "loss_nats", "learning_rate": "learning_rate", "grad_norm": "gradient_norm"}
    rows = [row for row in history if isinstance(row, Mapping) and "loss" in row]
    return [{"step": row.get("step"), **{ours: row[theirs] for theirs, ours in names.items() if theirs in row}} for row in rows]
