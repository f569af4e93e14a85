"""What this machine offers: versions, devices, memory, disk, Hub login. Each fact is looked up, none is guessed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from galvan.guards import FLOORS, too_old
from galvan.rundir import SCHEMA_VERSION, existing_parent, to_json
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.models import Choice

PARTS = ("galvan", "torch", "transformers", "peft", "tokenizers", "safetensors", "huggingface_hub", "pyarrow", "numpy", "scipy")
OPTIONAL = {"bitsandbytes": "4-bit bases (galvan[qlora])"}


@dataclasses.dataclass(frozen=True, slots=True)
class Examination:
    """Facts about this machine; sizes in bytes. `problems` are sentences that each say what to do."""

    schema_version: int
    python: str
    platform: str
    versions: dict[str, str | None]
    optional: dict[str, str | None]
    cores: int
    memory_bytes: int | None
    free_disk_bytes: int
    device: str
    device_reason: str
    dtype: str
    dtype_reason: str
    hub_login: bool
    hub_cache: str
    problems: list[str]

    def to_json(self) -> str:
        return to_json(self)

    def to_text(self) -> str:
        lines = [
            f"Python {self.python} on {self.platform}, {self.cores} cores, {_gib(self.memory_bytes)} memory, {_gib(self.free_disk_bytes)} disk free here"
        ]
        lines += [f"  {name:<16} {found or 'not installed'}" for name, found in self.versions.items()]
        lines += [f"  {name:<16} {found or 'not installed: needed for ' + OPTIONAL[name]}" for name, found in self.optional.items()]
        lines += [f"Device {self.device}: {self.device_reason}", f"Numbers {self.dtype}: {self.dtype_reason}"]
        lines.append(
            f"Hub: {'logged in' if self.hub_login else 'not logged in (only gated and private models need it)'}, cache {shown(self.hub_cache)}"
        )
        return "\n".join([*lines, *(f"problem: {p}" for p in self.problems)] + ([] if self.problems else ["No problem found."]))


def examine() -> Examination:
    """Look at this machine. Imports torch if it is there; uses no network."""
    versions = {name: _version(name) for name in PARTS}
    problems = [f"{name} is not installed; run pip install galvan again." for name, found in versions.items() if found is None]
    for name in FLOORS:
        found = versions.get(name, _version(name))
        if found is not None and (sentence := too_old(name, found)) is not None:
            problems.append(sentence)
    device, dtype = _device(versions["torch"] is not None)
    free = shutil.disk_usage(existing_parent(Path.cwd())).free
    if free < 2 << 30:
        problems.append(f"Only {_gib(free)} of disk is free here; a run needs room for checkpoints.")
    login, cache = _hub(versions["huggingface_hub"] is not None)
    return Examination(
        SCHEMA_VERSION, platform.python_version(), platform.platform(), versions, {name: _version(name) for name in OPTIONAL},
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _memory(), free,
        device.value, device.reason, dtype.value, dtype.reason, login, cache, problems,
    )  # fmt: skip


def _device(has_torch: bool) -> tuple[Choice, Choice]:
    from galvan.models import Choice, choose_device, choose_dtype

    if not has_torch:
        return Choice("none", "PyTorch is not installed"), Choice("none", "PyTorch is not installed")
    device = choose_device("auto")
    return device, choose_dtype("auto", device.value)


def _hub(installed: bool) -> tuple[bool, str]:
    """Is there a login, and where is the cache?"""
    if not installed:
        return False, "none: huggingface_hub is not installed"
    from huggingface_hub import constants, get_token

    return get_token() is not None, constants.HF_HUB_CACHE


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / (1 << 30):.1f} GiB"
