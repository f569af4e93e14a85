"""What can go wrong outside our own code. Each error is also the standard one it replaces, so callers may catch either.

A message is one sentence: what was asked, what was found (file and line), what to do. `code` is stable and machine readable.
Anything that is not a GalvanError is a bug of ours (exit 70) and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_GATE_NOT_MET = 1
EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_MODEL = 4
EXIT_RESOURCES = 5
EXIT_INCONCLUSIVE = 6
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class GalvanError(Exception):
    """A problem that the user can mend. `code` names it for machines, `exit_code` is what the process ends with."""

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, code: str, message: str) -> None:
        super().__init__("\\n".join(message.splitlines()))  # one line, whatever a name or a library put into it
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[GalvanError], tuple[str, str]]:
        return type(self), (self.code, str(self))  # as it comes back from another process


class RecipeError(GalvanError, ValueError):
    """The command line or the recipe asks for something that does not exist or contradicts itself."""

    exit_code = EXIT_USAGE


class DataError(GalvanError, ValueError):
    """The text cannot be read, or is not what was promised."""

    exit_code = EXIT_DATA


class ModelError(GalvanError, RuntimeError):
    """A model, tokenizer or adapter is missing, damaged or unusable."""

    exit_code = EXIT_MODEL


class ComparisonRefused(GalvanError, RuntimeError):
    """Base and tuned may not be compared: an integrity check or a control failed."""

    exit_code = EXIT_MODEL


class GateNotMet(GalvanError, RuntimeError):
    """Done, but the fine-tune is not shown to have worked, and what was asked for needs that."""

    exit_code = EXIT_GATE_NOT_MET


class ResourceError(GalvanError, OSError):
    """Disk, memory, time or the network gave out."""

    exit_code = EXIT_RESOURCES


class Terminated(GalvanError, RuntimeError):
    """SIGTERM came; what was done is saved."""

    exit_code = EXIT_TERMINATED
