"""Where the models of an evaluation come from.

For one adapter each is loaded when it is asked for, and given up where an adapter goes in. For several adapters of one base, one after the
other, the base of record is loaded once and never touched; adapters take turns in a second object, which is held against the base of record,
weight for weight, before the next goes in; and what the base alone said is kept, for it says the same beside every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from galvan import models
from galvan.models import Choice, Located
from galvan.recipe import Model
from galvan.rundir import fingerprint

T = TypeVar("T")


class Bench:
    """The models of one evaluation, each loaded when it is asked for."""

    shared = False

    def __init__(self, located: Located, settings: Model, device: Choice | None = None, dtype: Choice | None = None) -> None:
        self.located, self.settings, self.device, self.dtype = located, settings, device, dtype

    def base(self) -> Any:
        """A base that no adapter has touched."""
        return models.load_base(self.located, self.settings, self.device, self.dtype)

    def host(self, base: Any) -> Any:
        """A base to put an adapter into: here `base` itself, which is none afterwards."""
        return base

    def load(self, tuned: Located) -> Any:
        """The tuned model beside a base that is in use: the adapter in a host of its own, or the whole model where `tuned` is one."""
        if not (tuned.path / "adapter_config.json").is_file():
            return models.load_base(tuned, self.settings, self.device, self.dtype)
        return models.load_adapter(self.host(self.base()), tuned)

    def unload(self, wrapped: Any, adapter: Located | None) -> Any | None:
        """The host without the adapter, or None where taking it off would not give the base back."""
        return models.without_adapter(wrapped, adapter)

    def give_back(self, host: Any | None) -> None:
        """What `unload` gave is not needed any more."""

    def said(self, what: Sequence[Any], make: Callable[[], T]) -> T:
        """What the base alone comes to; `what` names all that it depends on beside the base."""
        return make()


class SharedBench(Bench):
    """The models of several evaluations on one base, in one process; `loads` counts how often it was really loaded."""

    shared = True

    def __init__(self, located: Located, settings: Model, device: Choice | None = None, dtype: Choice | None = None) -> None:
        super().__init__(located, settings, device, dtype)
        self._record: Any = None
        self._host: Any = None
        self._learns: list[bool] = []
        self._said: dict[str, Any] = {}
        self.loads = 0

    def base(self) -> Any:
        self._record = self._loaded() if self._record is None else self._record
        return self._record

    def host(self, base: Any) -> Any:
        found, self._host = self._host, None
        return self._loaded() if found is None else found

    def unload(self, wrapped: Any, adapter: Located | None) -> Any | None:
        host = super().unload(wrapped, adapter)
        if host is not None:
            for parameter, learns in zip(host.parameters(), self._learns, strict=True):
                parameter.requires_grad_(learns)  # PEFT leaves them frozen
        return host

    def give_back(self, host: Any | None) -> None:
        self._host = host if host is not None and _same(host, self.base()) else None

    def said(self, what: Sequence[Any], make: Callable[[], T]) -> T:
        key = fingerprint(what)
        if key not in self._said:
            self._said[key] = make()
        return self._said[key]  # type: ignore[no-any-return]

    def _loaded(self) -> Any:
        model = super().base()
        self._learns = [parameter.requires_grad for parameter in model.parameters()]
        self.loads += 1
        return model


def _same(model: Any, base: Any) -> bool:
    """True if all weights and buffers of two objects are equal, bit for bit."""
    mine, theirs = (dict([*one.named_parameters(), *one.named_buffers()]) for one in (model, base))
    return mine.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in mine.items())
