"""One trial: a run of its own that trains and is scored on validation documents, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan.errors import GalvanError, RecipeError, ResourceError, Terminated
from galvan.progress import Progress
from galvan.recipe import Recipe
from galvan.rundir import sha256_file
from galvan.story import Story
from galvan.sweep.losses import by_step, read_losses
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.training.shared import Shared


@dataclass(frozen=True, slots=True)
class Outcome:
    """Validation NLL in nats a token, None where the trial failed for the `reason`; `pruned` where it was given up half-way."""

    value: float | None
    pruned: bool = False
    reason: str | None = None


class Pruner:
    """After each evaluation, the trial's losses per validation document are reported and held against the best trial's at the same steps."""

    def __init__(self, trial: Any) -> None:
        self.trial, self.places, self.pruned = trial, {}, False  # type: ignore[var-annotated]
        self.evaluations = 0

    def __call__(self, step: int, rows: Sequence[dict[str, Any]]) -> bool:
        """True to stop: by Wilcoxon's signed ranks this trial is worse, document by document, than the best so far."""
        for n, (nll, tokens) in enumerate(by_step(rows).get(step, {}).values()):
            self.trial.report(nll / max(tokens, 1), self.evaluations * 1_000_000 + n)
        self.evaluations += 1
        self.pruned = self.evaluations > 1 and bool(self.trial.should_prune())  # at step 0 all are the base
        return self.pruned


def run_trial(
    asked: Recipe, folder: Path, prepared: Path, progress: Progress, offline: bool, prune: Callable[[int, Sequence[dict[str, Any]]], bool] | None,
    shared: Shared | None,
) -> Outcome:  # fmt: skip
    """Train the recipe in `folder` on the documents that were prepared in `prepared`; a trial that cannot train is an outcome, not an end.

    Raises what concerns every trial alike: a full disk, SIGTERM, documents that are not the same.
    """
    story = Story.begin(asked, folder, progress, offline, shared=shared)
    with story.alone():
        try:
            story.prepare(adopt=prepared)
            if sha256_file(folder / "data" / "validation.jsonl") != sha256_file(prepared / "data" / "validation.jsonl"):
                raise RecipeError(
                    "sweep/other-documents", f"{shown(str(folder))}: this trial has other validation documents than the sweep; vary training alone."
                )
            story.train(prune)
        except (ResourceError, RecipeError, Terminated):
            raise
        except GalvanError as error:
            return Outcome(None, reason=f"[{error.code}] {error}")
    return Outcome(read_losses(folder).nats_per_token, bool(getattr(prune, "pruned", False)))
