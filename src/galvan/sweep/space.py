"""What a sweep varies: options of the recipe with the values to try, and the points that a search takes from them.

A point is a mapping from dotted options to values as they stand in a recipe. Where the rank varies and alpha does not, alpha follows it
as 2 r, so that the scale of the update stays what it was (METHODS 7: one convention, kept).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from galvan import recipe as recipes
from galvan.errors import RecipeError
from galvan.recipe import Recipe
from galvan.text import shown

Point = Mapping[str, Any]

RANK, ALPHA = "training.lora.rank", "training.lora.alpha"
DEFAULT = (f"{RANK}=8,16,32", "training.learning_rate=1e-4,2e-4,3e-4,5e-4,1e-3")  # the origin's to-do list
FIXED = (  # these change what is compared, or the ruler that compares
    "data.", "model.", "evaluation.", "generation.", "trackers", "name", "seed", "training.document_tokens", "training.learn_eos", "training.evaluations",
    "training.probe_documents", "training.checkpoint_seconds",
)  # fmt: skip
MAY_VARY = ("data.train_share", "data.recut", "data.augment", "data.augment_as")  # training text alone
LARGEST_GRID = 1_000


def may_vary(option: str) -> bool:
    """True if trials that differ in this option are still compared by one ruler."""
    return option in MAY_VARY or not option.startswith(FIXED)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One option: the `values` to try, or, for random and TPE searches, all between `low` and `high` (by their logarithms if `log`)."""

    option: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def whole(self) -> bool:
        """True if the values between `low` and `high` are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def drawn(self, rng: np.random.Generator) -> Any:
        """One value at random: of `values`, or uniform in the range."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        found = float(rng.uniform(*ends))
        value = math.exp(found) if self.log else found
        return min(max(round(value), int(self.low)), int(self.high)) if self.whole else value


def dimensions(grids: Sequence[str], asked: Recipe) -> list[Dimension]:
    """The dimensions of `--grid OPTION=V1,V2,...` or `OPTION=LOW..HIGH[:log]`, each once, every value accepted by the recipe.

    Raises RecipeError for an option that does not exist, may not vary, or a value that it cannot take.
    """
    found: dict[str, Dimension] = {}
    for grid in grids or DEFAULT:
        one = _dimension(grid)
        if one.option in found:
            raise RecipeError("sweep/grid", f"--grid {shown(grid, 80)}: `{shown(one.option, 80)}` is given twice.")
        for value in one.values or (one.low, one.high):
            with_settings(asked, {one.option: value})  # refuses what the recipe cannot take, with the option's own sentence
        if not may_vary(one.option):
            raise RecipeError(
                "sweep/option",
                f"--grid {shown(one.option, 80)}: it changes what is compared, not how it is trained, so trials would not be comparable; vary options "
                f"of `training`, or {', '.join(MAY_VARY)}.",
            )
        found[one.option] = one
    return list(found.values())


def _dimension(grid: str) -> Dimension:
    option, equals, text = (part.strip() for part in grid.partition("="))
    if not equals or not option or not text:
        raise RecipeError("sweep/grid", f"--grid {shown(grid, 80)}: write it as OPTION=V1,V2,... or OPTION=LOW..HIGH:log.")
    ends, colon, scale = text.partition(":")
    low, dots, high = ends.partition("..")
    if dots:
        return _range(grid, option, recipes.values_of(f"{low},{high}", f"--grid {shown(grid, 80)}"), scale if colon else "")
    values = tuple(recipes.values_of(text, f"--grid {shown(grid, 80)}"))
    if not values or len({recipes.plain_yaml(v) for v in values}) < len(values):
        raise RecipeError("sweep/grid", f"--grid {shown(grid, 80)}: give one or more values, each once.")
    return Dimension(option, values)


def _range(grid: str, option: str, ends: Sequence[Any], scale: str) -> Dimension:
    numbers = [e for e in ends if isinstance(e, (int, float)) and not isinstance(e, bool)]
    log = scale == "log"
    if len(numbers) != 2 or not numbers[0] < numbers[1] or (log and numbers[0] <= 0) or scale not in ("", "log"):
        raise RecipeError(
            "sweep/grid", f"--grid {shown(grid, 80)}: a range is LOW..HIGH with LOW below HIGH, or LOW..HIGH:log with both above 0."
        )
    return Dimension(option, (), numbers[0], numbers[1], log)


def with_settings(asked: Recipe, point: Point) -> Recipe:
    """The recipe at a point, alpha following the rank where the point leaves it open."""
    rank = point.get(RANK)
    follows = {ALPHA: 2.0 * rank} if isinstance(rank, (int, float)) and ALPHA not in point else {}
    return recipes.with_values(asked, {**follows, **point}, "--grid")


def grid_points(dims: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every combination of the values, the last dimension fastest. RecipeError where a dimension is a range, or there are too many."""
    for one in dims:
        if not one.values:
            raise RecipeError(
                "sweep/grid",
                f"`{shown(one.option, 80)}` is a range, of which a grid has no points; name values, or --search random or tpe.",
            )
    number = math.prod(len(one.values) for one in dims)
    if number > LARGEST_GRID:
        raise RecipeError(
            "sweep/grid",
            f"The grid has {number:,} points, more than {LARGEST_GRID:,}; name fewer values, or --search random or tpe with --trials.",
        )
    return [dict(zip((one.option for one in dims), values, strict=True)) for values in itertools.product(*(d.values for d in dims))]


def random_points(dims: Sequence[Dimension], number: int, seed: int) -> list[dict[str, Any]]:
    """`number` points at random, none twice where there are so many; a function of `seed`."""
    rng = np.random.default_rng([seed, 0x5EED])
    found: dict[str, dict[str, Any]] = {}
    for point in itertools.islice(_draws(dims, rng), 100 * number):
        found.setdefault(repr(sorted(point.items())), point)
        if len(found) == number:
            break
    return list(found.values())


def _draws(dims: Sequence[Dimension], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    while True:
        yield {one.option: one.drawn(rng) for one in dims}
