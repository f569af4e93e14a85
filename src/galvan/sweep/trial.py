"""One trial: a run of its own that trains and is scored on validation documents, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan.errors import GalvanError, RecipeError, ResourceError, Terminated
from galvan.progress import Progress
from galvan.recipe import Recipe
from galvan.rundir import read_json, sha256_file
from galvan.story import Story
from galvan.sweep.losses import by_step, read_losses
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.training.shared import Shared


PRUNED = "Given up half-way: document by document it was worse than the best trial so far."


@dataclass(frozen=True, slots=True)
class Outcome:
    """Validation NLL in nats a token, None where the trial failed for the `reason`; `pruned` where it was given up half-way."""

    value: float | None
    pruned: bool = False
    reason: str | None = None
    code: str | None = None


class Pruner:
    """Half-way through a trial its losses per validation document are reported once, and held against the best trial's at that point."""

    def __init__(self, trial: Any, evaluations: int) -> None:
        self.trial, self.look_after, self.looked = trial, (evaluations + 1) // 2, False

    def __call__(self, step: int, figures: Mapping[str, float], curves: Sequence[Mapping[str, Any]]) -> str | None:
        """PRUNED where, by Wilcoxon's signed ranks, this trial is worse document by document than the best so far; one look, one test."""
        points = list(by_step(curves).values())
        if self.looked or len(points) <= self.look_after:
            return None
        self.looked = True
        for n, (nll, tokens) in enumerate(points[self.look_after].values()):
            self.trial.report(nll / max(tokens, 1), n)
        return PRUNED if self.trial.should_prune() else None


def run_trial(
    asked: Recipe, folder: Path, prepared: Path, progress: Progress, offline: bool, prune: Pruner | None = None, shared: Shared | None = None,
    check: bool = False,
) -> Outcome:  # fmt: skip
    """Train the recipe in `folder` on the documents that were prepared in `prepared`; a trial that cannot train is an outcome, not an end.

    What `prepared` trained by the same recipe is taken over. With `check` the integrity of the adapter is looked at as well.

    Raises what concerns every trial alike: a full disk, SIGTERM, documents that are not the same.
    """
    story = Story.begin(asked, folder, progress, offline, shared=shared)
    with story.alone(wait=True):  # a lost node's process may take a moment to die
        try:
            story.prepare(adopt=prepared)
            if sha256_file(folder / "data" / "validation.jsonl") != sha256_file(prepared / "data" / "validation.jsonl"):
                raise RecipeError(
                    "sweep/other-documents",
                    f"{shown(str(folder))}: this trial has other validation documents than the sweep; vary training alone.",
                )
            story.augment()
            story.train(prune, adopt=prepared)
            if check:
                story.check()
        except (ResourceError, RecipeError, Terminated):
            raise
        except GalvanError as error:
            return Outcome(None, reason=f"[{error.code}] {error}", code=error.code)
        pruned = read_json(folder / "training.json")["stopped_early"] == PRUNED
        if pruned:  # its weights are no run of this recipe; `galvan run` there would train to the end
            (folder / "stages" / "train.json").unlink(missing_ok=True)
    return Outcome(read_losses(folder).nats_per_token, pruned)
