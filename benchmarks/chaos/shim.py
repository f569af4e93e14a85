"""`faults.c` built and put before libc: in a process that started inside `preloaded`, a `Fault` makes the Nth call that writes below a folder fail."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_SOURCE = Path(__file__).with_name("faults.c")
_DATA, _NAME, _GONE = 1, 2, 4
KINDS = {  # what the call gets, and which calls can get it: an open file may be written whatever its permissions are now
    "kill": (-1, _DATA | _NAME | _GONE), "ENOSPC": (errno.ENOSPC, _DATA | _NAME), "EIO": (errno.EIO, _DATA | _NAME | _GONE),
    "EACCES": (errno.EACCES, _NAME | _GONE), "count": (0, _DATA | _NAME | _GONE),
}  # fmt: skip


class Call(NamedTuple):
    """One call that wrote below the folder: `name` is libc's, `to` the new name where it gives one, or the number of the file that is open;
    `number` that of the file which has the name `path`."""

    name: str
    path: str
    to: str
    number: str = "#0"

    def can(self, kind: str) -> bool:
        of = {"unlink": _GONE, "unlinkat": _GONE, "rmdir": _GONE}.get(self.name)
        of = of or (_NAME if self.name in {"open", "mkdir", "mkdirat", "rename", "renameat"} else _DATA)
        return bool(of & KINDS[kind][1])


@dataclasses.dataclass(frozen=True)
class Fault:
    """`kind` of KINDS befalls call `number` (from 1) of those below `folder` that can get it; `log` takes a line for every call."""

    folder: Path
    kind: str
    number: int
    log: Path

    def arm(self) -> None:
        """In the process that is to fail, which must have been started inside `preloaded`."""
        value, of = KINDS[self.kind]
        strings = [os.fsencode(path) for path in (self.folder.resolve(), self.log.absolute())]
        ctypes.CDLL(None).chaos_arm(strings[0], value, of, ctypes.c_long(self.number), strings[1])

    def calls(self) -> list[Call]:
        """What was written, as far as it came."""
        if not self.log.exists():
            return []
        return [Call(*line.split("\t")) for line in self.log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]


def missing() -> str | None:
    """Why no fault can be put in here; None where it can."""
    if sys.platform != "linux":
        return "faults are put into files by LD_PRELOAD, on Linux only"
    return None if shutil.which("cc") else "no C compiler (cc) is here to build the fault-injecting file layer"


@contextmanager
def preloaded() -> Iterator[None]:
    """Processes that are started inside can be given faults; nothing changes where none can."""
    if missing():
        yield
        return
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = f"{_built()}{'' if before is None else ' ' + before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = before


def _built() -> Path:
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    library = _SOURCE.parent / "__pycache__" / f"faults-{digest}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(_SOURCE), "-ldl"], check=True)
        made.replace(library)
    return library
