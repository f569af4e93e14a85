"""One base and one tokenisation for several trainings, one after the other: the seeds of a recipe, the trials of a sweep.

Only what an adapter leaves untouched is used again: a plain LoRA is taken off and the base is bit for bit the one that was loaded. After full
training, trained biases, saved modules or a start out of the weights, the next training loads it afresh. No base of record is ever scored
from here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from galvan import models
from galvan.likelihood import causal_lm
from galvan.models import Located
from galvan.rundir import fingerprint

T = TypeVar("T")


class Shared:
    """What trainings have in common while this object lives; `loads` counts how often a base was really loaded."""

    def __init__(self) -> None:
        self._base: tuple[str, Any] | None = None
        self._rows: tuple[str, Any] | None = None
        self.loads = 0

    def base(self, key: Mapping[str, Any], load: Callable[[], T]) -> T:
        """The base that lies here if it is the one that `key` names, and it is then no longer here; or what `load` gives."""
        held, self._base = self._base, None
        if held is not None and held[0] == fingerprint(key):
            return held[1]  # type: ignore[no-any-return]
        del held
        gc.collect()  # two bases may not fit
        self.loads += 1
        return load()

    def give_back(self, key: Mapping[str, Any], wrapped: Any, adapter: Located) -> None:
        """Take the trained adapter off and keep the base for the next training, where that gives the base back."""
        causal_lm(wrapped).gradient_checkpointing_disable()
        base = models.without_adapter(wrapped, adapter)
        if base is not None:
            self._base = (fingerprint(key), base.eval())

    def rows(self, key: Mapping[str, Any], encode: Callable[[], T]) -> T:
        """What `encode` gave for the same key before, or gives now."""
        if self._rows is None or self._rows[0] != fingerprint(key):
            self._rows = (fingerprint(key), encode())
        return self._rows[1]
