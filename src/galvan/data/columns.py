"""Which columns a row's parts stand in. The shapes that galvan reads are declared here, once, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

TEXT = "text"


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of row: the parts that it must have and those that it may have; a part stands in the column of its name."""

    name: str
    title: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


SHAPES = (
    Shape(TEXT, "plain text", ("text",)),
    Shape("messages", "conversations (messages)", ("messages",), ("tools",)),
    Shape("sharegpt", "conversations (ShareGPT)", ("conversations",), ("system", "tools")),
    Shape("input_ids", "token ids", ("input_ids",), ("labels",)),
    Shape("prompt-completion", "prompts with completions", ("prompt", "completion"), ("tools",)),
    Shape("alpaca", "instructions with outputs (Alpaca)", ("instruction", "output"), ("input", "system", "history")),
)
BY_NAME = {shape.name: shape for shape in SHAPES}


def detect(names: Iterable[str], mapping: Mapping[str, str]) -> Shape | None:
    """The first shape all of whose required parts are mapped or are columns' names; a mapped part must be one of the shape's."""
    found = set(names)
    for shape in SHAPES:
        if set(mapping) <= set(shape.parts) and all(mapping.get(part, part) in found for part in shape.required):
            return shape
    return None


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are asked for by name; `source` and `position` are used where they are found.

    `mapping` says in which column a part stands where that is not the part's own name; `shape` is known once a row was seen.
    """

    text: str = "text"
    group: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    shape: Shape = SHAPES[0]

    def settled(self, names: Iterable[str]) -> Columns:
        """These columns for a table with the columns `names`: text where the text column is there, else the shape that fits."""
        found = [str(name) for name in names]
        if self.shape.name != TEXT or (not self.mapping and (self.text in found or self.text != "text")):
            return self
        shape = detect(found, self.mapping)
        if shape is None:
            return self
        return replace(self, shape=shape, text=self.mapping.get("text", self.text))

    def column(self, part: str) -> str:
        return self.text if part == TEXT else self.mapping.get(part, part)

    @property
    def required(self) -> tuple[str, ...]:
        parts = tuple(self.column(part) for part in self.shape.required)
        return parts if self.group is None else (*parts, self.group)

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.required, *(self.column(part) for part in self.shape.optional), "source", "position")))
