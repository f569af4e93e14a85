"""Is it this adapter that is better, or the recipe? The gain over several training seeds, from the runs in RUN/seeds, without torch.

RUN holds the adapter of the recipe's own seed and the verdict on *it*. `seeds.json` names all training seeds that were asked for; the
others lie in RUN/seeds/SEED, each a run of its own on the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galvan import recipe as recipes
from galvan.compare import BASE, TEST, TUNED, Arm, paired, read_scores
from galvan.errors import DataError, GalvanError
from galvan.recipe import Recipe
from galvan.rundir import read_json, write_json
from galvan.statistics.identity import identical
from galvan.statistics.seeds import RecipeGain, recipe_gain
from galvan.text import shown

ONE_SEED = "One training seed says nothing about the recipe; `galvan run RECIPE --seeds 5` gives its interval."


@dataclass(frozen=True, slots=True)
class SeedsCompared:
    """The gain to expect from the recipe, whatever its seed; None with the reason where it is not known."""

    seeds: tuple[int, ...]
    gain: RecipeGain | None
    reason: str | None


def folder_of(run: Path, seed: int) -> Path:
    return run / "seeds" / str(seed)


def training_seeds(recipe: Recipe, number: int) -> list[int]:
    """`number` seeds, the recipe's own first and those that follow it."""
    return [(recipe.training_seed + k) % 2**31 for k in range(number)]


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe, split and documents included, with another training seed."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})


def ask(run: Path, seeds: Sequence[int]) -> None:
    """Write down which seeds belong to the run; those that are not done yet keep the recipe's gain undefined."""
    write_json(run / "seeds.json", {"training_seeds": list(seeds)})


def compare_seeds(run: Path, recipe: Recipe, floor_nats: float) -> SeedsCompared:
    """The recipe's gain from the scores of all its seeds. DataError if a file is damaged; a seed that may not count is the reason."""
    seeds = _asked(run, recipe)
    if len(seeds) < 2:
        return SeedsCompared(seeds, None, ONE_SEED)
    base, first = paired(read_scores(run / "scores.parquet"), TUNED, TEST)
    tuned = [first]
    for seed in seeds[1:]:
        found = _other(folder_of(run, seed), with_seed(recipe, seed), base, floor_nats)
        if isinstance(found, str):
            return SeedsCompared(seeds, None, f"Training seed {seed}: {found}")
        tuned.append(found)
    gain = recipe_gain(
        base.nll_nats, [arm.nll_nats for arm in tuned], base.n_tokens, margin=recipe.evaluation.margin_nats,
        sources=base.sources, positions=base.positions,
    )  # fmt: skip
    return SeedsCompared(seeds, gain, None)


def _asked(run: Path, recipe: Recipe) -> tuple[int, ...]:
    own = recipe.training_seed
    if not (run / "seeds.json").is_file():
        return (own,)
    value = read_json(run / "seeds.json")
    seeds = value.get("training_seeds") if isinstance(value, dict) else None
    if (
        not isinstance(seeds, list)
        or not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise DataError("run/damaged", "seeds.json: `training_seeds` is not a list of seeds; delete the file and run again.")
    return (own, *(seed for seed in seeds if seed != own))


def _other(folder: Path, recipe: Recipe, base: Arm, floor_nats: float) -> Arm | str:
    """The tuned arm of another seed's run, or why it may not count."""
    if not (folder / "verdict.json").is_file():
        return "not done yet; the same command goes on with it."
    if recipes.load(folder / "recipe.yaml") != recipe:
        return "it was trained by another recipe; run `galvan run` with --seeds again."
    if read_json(folder / "verdict.json").get("verdict") == "refused":
        return "its comparison is refused, so the recipe is not judged either."
    try:
        scores = read_scores(folder / "scores.parquet")
        again, tuned = paired({(BASE, TEST): base, (TUNED, TEST): scores[TUNED, TEST]}, TUNED, TEST)[0], scores[TUNED, TEST]
        own = scores[BASE, TEST].take(again.documents)
    except (GalvanError, OSError, KeyError) as error:
        return f"its scores cannot be compared with this run's: {shown(str(error), 200)}"
    if identical(again.tokens, own.tokens, floor_nats).status == "different":
        return "its base scores other than this run's, so the two are not on one scale; run both again."
    return tuned.take(base.documents)
