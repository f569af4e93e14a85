"""The registry: what is injected, where, and which answers are right. A case registers itself where it is written.

`accept` are the codes of which any one is right (METHODS topic 8: several acceptable causes a case); an error that galvan stops with
counts by its own code. A case that accepts nothing is healthy, and naming anything is a false alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.faults.ground import Setting
from benchmarks.faults.place import Place, Said

Inject = Callable[[Place], Said]

FIRST = (Setting("llama", "letters-1", 0), Setting("llama", "letters-2", 1))
SEEN = (Setting("mistral", "letters-3", 10), Setting("llama", "docstrings", 11))  # held out once; rules were mended on it since
DEVELOPMENT = (*FIRST, *SEEN)
HELD_OUT = (Setting("qwen3", "library", 30), Setting("qwen2", "comments", 31), Setting("qwen3", "hands", 32))
EVERYWHERE = (*DEVELOPMENT, *HELD_OUT)
SOME = (*FIRST, SEEN[1], HELD_OUT[0])  # of each part enough to see whether a case holds: where a whole run is trained for it
SECOND = (*SEEN, HELD_OUT[1])
SPARK = (Setting("spark", "letters-1", 20),)


@dataclass(frozen=True, slots=True)
class Case:
    """One injector. `code` is the row of the catalogue (or "healthy", or two rows joined by +)."""

    name: str
    code: str
    line: str
    accept: tuple[str, ...]
    inject: Inject
    settings: tuple[Setting, ...]
    unrecorded: bool = False

    @property
    def is_healthy(self) -> bool:
        return not self.accept

    @property
    def group(self) -> str:
        """Families A, B, C and D01-D04 are decisive; the acceptance differs (METHODS S8.6)."""
        if self.is_healthy:
            return "healthy"
        if "+" in self.code:
            return "pairs"
        if self.unrecorded:
            return "unrecorded"
        return "decisive" if self.code[0] in "ABC" or self.code in ("D01", "D02", "D03", "D04") else "others"


REGISTRY: list[Case] = []


def fault(code: str, *also: str, settings: Sequence[Setting] = EVERYWHERE, unrecorded: bool = False) -> Callable[[Inject], Inject]:
    """Register a fault; right are `code` (each of its rows, where it is a pair) and `also`. `unrecorded`: only a record of the training
    could prove it, and there is none."""

    def register(inject: Inject) -> Inject:
        _add(inject, code, (*code.split("+"), *also), settings, unrecorded)
        return inject

    return register


def healthy(settings: Sequence[Setting] = EVERYWHERE) -> Callable[[Inject], Inject]:
    """Register a run in which nothing is wrong, odd as it may be."""

    def register(inject: Inject) -> Inject:
        _add(inject, "healthy", (), settings)
        return inject

    return register


def _add(inject: Inject, code: str, accept: tuple[str, ...], settings: Sequence[Setting], unrecorded: bool = False) -> None:
    name = inject.__name__.replace("_", "-")
    assert all(case.name != name for case in REGISTRY), name
    line = (inject.__doc__ or "").strip().splitlines()[0]
    REGISTRY.append(Case(name, code, line, accept, inject, tuple(settings), unrecorded))


def registered() -> list[Case]:
    """Every case; importing the files of cases registers them."""
    from benchmarks.faults import (  # noqa: F401
        cases_answers,
        cases_chats,
        cases_code,
        cases_figures,
        cases_files,
        cases_healthy,
        cases_healthy_second,
        cases_live,
        cases_merged,
        cases_pairs,
        cases_pairs_second,
        cases_runs,
        cases_second,
        cases_third,
        cases_third_runs,
        cases_trainers,
    )

    return REGISTRY
