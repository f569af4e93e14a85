"""Galvan's command in a process of its own, real signals and exit codes and all, without paying for `import torch` each time.

The processes are forked from a server that has imported everything and computed nothing.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.chaos.shim import preloaded

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch", "transformers.models.mistral.modeling_mistral", "transformers.models.auto.modeling_auto", "peft", "scipy.stats", "pyarrow.parquet",
        "galvan.cli", "galvan.story", "galvan.training.loop", "galvan.measure.arms", "galvan.measure.integrity", "galvan.report", "galvan.compare",
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    """How a process ended: its exit code (negative: the signal) and what it wrote."""

    code: int
    out: str
    err: str


class Running:
    """`galvan ARGUMENTS` in the folder `cwd`; what it writes lies in files beside that folder. `first` is called in its process, before it."""

    def __init__(
        self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, file_bytes: int | None = None, first: Callable[[], None] | None = None
    ) -> None:  # fmt: skip
        self._streams = [cwd.parent / f"{cwd.name}.{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        self.process = CONTEXT.Process(target=_galvan, args=(arguments, cwd, self._streams, dict(env or {}), file_bytes, first))
        with preloaded():  # the first start brings up the server that all are forked from
            self.process.start()

    def wait(self) -> Done:
        self.process.join(600)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after ten minutes: {self._read()}")
        out, err = self._read()
        return Done(int(self.process.exitcode or 0), out, err)

    def _read(self) -> list[str]:
        return [path.read_text(encoding="utf-8") if path.exists() else "" for path in self._streams]

    def when(self, ready: Callable[[], bool], signal_number: int = signal.SIGKILL, later_seconds: float = 0.0) -> Done:
        """Wait until `ready`, and a little longer, and send the signal; the process may be quicker and end by itself."""
        while self.process.is_alive() and not ready():
            time.sleep(0.001)
        time.sleep(later_seconds)
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal_number)
        return self.wait()


def galvan(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, file_bytes: int | None = None, first: Callable[[], None] | None = None
) -> Done:  # fmt: skip
    return Running(*arguments, cwd=cwd, env=env, file_bytes=file_bytes, first=first).wait()


def _galvan(
    arguments: tuple[str, ...], cwd: Path, streams: list[Path], env: dict[str, str], file_bytes: int | None, first: Callable[[], None] | None
) -> None:  # fmt: skip
    import torch

    from galvan.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.pop("LD_PRELOAD", None)
    os.environ.update(env)
    for number, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    torch.set_num_threads(1)
    if first is not None:
        first()
    sys.argv = ["galvan", *arguments]
    main()
