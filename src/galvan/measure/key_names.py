"""Names of an adapter's tensors that other programs have changed, and how each change is undone.

A change is taken as found only where the undone name is one that the base expects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

PREFIX = "base_model.model."
WRAPPERS = ("_orig_mod.", "inner.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.", "module.")
DOUBLED, NO_PREFIX, NO_MODEL, NAMED, SWALLOWED, OTHER_PREFIX = (
    "doubled base_model.model.",
    "no base_model.model.",
    "no model.",
    "adapter name",
    "lora_ swallowed",
    "another prefix",
)

_NAMED = re.compile(
    r"(\.lora_(?:embedding_)?[AB]|\.lora_magnitude_vector)\.(?!weight$|bias$|default(?=\.|$))[^.]+(?=\.weight$|\.bias$|$)"
)
_SWALLOWED = re.compile(r"(?<!lora)(?<!embedding)_([AB])(?:\.[^.]+)?\.weight$")


class Renamed(NamedTuple):
    """The name that the base expects, and the changes that led to it."""

    name: str
    by: tuple[str, ...]


def _without(wrapper: str) -> Callable[[str], str]:
    return lambda name: re.sub(rf"(?:(?<=\.)|^){re.escape(wrapper)}", "", name)


def _undouble(name: str) -> str:
    while name.startswith(2 * PREFIX):
        name = name.removeprefix(PREFIX)
    return name


CHANGES: tuple[tuple[str, Callable[[str], str]], ...] = (
    *((wrapper, _without(wrapper)) for wrapper in WRAPPERS),
    (DOUBLED, _undouble),
    (NAMED, lambda name: _NAMED.sub(r"\1", name)),
    (SWALLOWED, lambda name: _SWALLOWED.sub(r".lora_\1.weight", name)),
    (NO_PREFIX, lambda name: name if name.startswith(PREFIX) else PREFIX + name),
    (NO_MODEL, lambda name: f"{PREFIX}model.{name.removeprefix(PREFIX)}"),
)


def renamed(names: Collection[str], expected: Collection[str]) -> dict[str, Renamed]:
    """Of `names`, which fit nothing, those that fit `expected` after some changes in their order, each name taken once."""
    wanted, found = set(expected), {}
    for name in sorted(names):
        candidates = [Renamed(name, ())]
        for label, change in CHANGES:
            candidates += [Renamed(new, (*c.by, label)) for c in candidates if (new := change(c.name)) != c.name]
        fits = min((c for c in candidates if c.name in wanted), key=lambda c: len(c.by), default=None) or _other_prefix(
            name, wanted
        )
        if fits is not None:
            found[name] = fits
            wanted.remove(fits.name)
    return found


def _other_prefix(name: str, wanted: Collection[str]) -> Renamed | None:
    """Whatever stands in front of a whole name of the base's was put there by another program."""
    parts = name.split(".")
    names = (PREFIX + ".".join(parts[n:]) for n in range(1, len(parts)))
    return next((Renamed(new, (OTHER_PREFIX,)) for new in names if new in wanted), None)


def labels(found: Mapping[str, Renamed]) -> tuple[str, ...]:
    """All changes that were needed, each once."""
    return tuple(sorted({label for fits in found.values() for label in fits.by}))
