"""Many settings of one recipe: train each, choose on validation documents, judge the chosen one once on test documents.

OUT/ holds the prepared text and the study; OUT/trials/NNN is a run for each trial; the chosen one becomes a whole run, with a verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan import distributed
from galvan import recipe as recipes
from galvan.errors import DataError, RecipeError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe
from galvan.rundir import SCHEMA_VERSION, each_document, fingerprint, read_json, sha256_file, to_json, write_json, write_text
from galvan.statistics.ratio import Interval
from galvan.story import Story
from galvan.sweep.choose import Choice, choose
from galvan.sweep.losses import Losses, read_losses
from galvan.sweep.space import Dimension, Point, dimensions, grid_points, random_points, with_settings
from galvan.sweep.study import Search, Study, Told
from galvan.sweep.trial import Pruner, run_trial
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.report import Judged

FEWEST_VALIDATION = 5  # documents; by fewer nothing is chosen


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One line of sweep.json: where it lies in the space, what it came to on validation documents, what it cost."""

    name: str
    settings: Point
    validation_nats: float | None
    gain_nats: float | None
    ci95: Interval | None
    kept_step: int | None
    steps: int | None
    seconds: float | None
    pruned: bool
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """A finished sweep; `judged` is the chosen trial's run."""

    folder: Path
    trials: tuple[Trial, ...]
    choice: Choice
    judged: Judged
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION, "trials": self.trials, "chosen": self.choice.best, "importance": self.choice.importance,
            "looked_at": self.sentence, "cautions": self.choice.family.cautions, "verdict": self.judged.verdict,
        }  # fmt: skip

    def to_json(self) -> str:
        return to_json(self.to_dict())

    def ranked(self) -> list[Trial]:
        """Trials that were trained to the end first, the lowest validation loss first."""
        return sorted(self.trials, key=lambda t: (t.validation_nats is None, t.pruned, t.validation_nats or 0.0, t.name))

    def to_text(self) -> str:
        """The trials, best first, then the verdict on the chosen one."""
        lines = [self.sentence]
        for t in self.ranked():
            came = t.reason or f"validation {t.validation_nats:.4f} nats a token, gain {t.gain_nats:+.4f}"
            lines.append(
                f"{t.name}  {in_words(t.settings)}: {came}{', given up' if t.pruned else ''}{', chosen' if t.name == self.choice.best else ''}"
            )
        lines += [
            f"{i.option}: {i.share:.0%} of what differed between trials" for i in self.choice.importance if i.share is not None
        ]
        lines.append(
            f"Verdict: {self.judged.verdict['verdict']}. {self.folder / 'sweep.md'}; the run: {trial_folder(self.folder, self.choice.best)}"
        )
        return "\n".join(shown(line) for line in lines)


def sweep(
    asked: Recipe, grids: Sequence[str] = (), *, search: Search = "grid", trials: int | None = None, prune: bool = False, storage: str | None = None,
    ray: str | None = None, out: Path | None = None, progress: Progress | None = None, offline: bool = False,
) -> Swept:  # fmt: skip
    """Run the trials that are not done yet, choose, judge. `grids` are `OPTION=V1,V2,...`; without any, ranks and learning rates, each
    trained to the epoch that early stop keeps.

    With `storage`, the URL of a database, several workers that see the same folder share the trials. Raises RecipeError for options that
    may not vary, DataError where there is too little to choose by or no trial could train.
    """
    progress = progress or Silent()
    if prune and (ray is not None or distributed.launched()):
        raise RecipeError("sweep/prune", "--prune holds trials of one process against each other; leave out --ray and torchrun.")
    if not grids:
        asked = recipes.with_values(asked, {"training.early_stop": True}, "galvan sweep")
    dims = dimensions(grids, asked)
    points, most = _points(dims, search, trials, asked.seed)
    folder = out or Path("runs") / f"{asked.name}-sweep"
    story = Story.begin(asked, folder, progress, offline)
    with ExitStack() as alone:
        alone.enter_context(story.alone(wait=storage is not None))
        story.prepare()
        require_validation(folder)
        identity = fingerprint(
            [asked, dims, search, prune, [sha256_file(folder / "data" / f"{n}.jsonl") for n in ("train", "validation")]]
        )
        study = Study(folder, identity, dims, search, asked.seed, storage, prune)
        study.enqueue(points)
        study.revive()
        if storage is not None:
            alone.close()  # other workers come in
        if ray is None:
            _run_here(study, most, asked, folder, progress, offline)
        else:
            from galvan.sweep.cluster import run_on_ray

            run_on_ray(study, most, asked, folder, progress, ray)
        if storage is not None:
            alone.enter_context(story.alone(wait=True))
        return _finish(study, asked, folder, dims, progress, offline)


def _points(dims: Sequence[Dimension], search: Search, trials: int | None, seed: int) -> tuple[list[dict[str, Any]], int]:
    """The points that are known before any trial, and how many trials there will be."""
    if search == "grid":
        if trials is not None:
            raise RecipeError("sweep/trials", "A grid has as many trials as points; --trials is for --search random or tpe.")
        points = grid_points(dims)
        return points, len(points)
    if trials is None:
        raise RecipeError("sweep/trials", f"--search {search} has no end of its own; say how many with --trials N.")
    return (random_points(dims, trials, seed) if search == "random" else []), trials


def require_validation(folder: Path) -> None:
    """DataError where fewer documents than FEWEST_VALIDATION would choose."""
    documents = sum(1 for _ in each_document(folder / "data" / "validation.jsonl"))
    if documents < FEWEST_VALIDATION:
        raise DataError(
            "sweep/no-validation",
            f"{documents} validation documents are too few to choose by, and test documents may not choose; raise data.split.validation so that "
            f"there are at least {FEWEST_VALIDATION}.",
        )


def trial_folder(folder: Path, name: str) -> Path:
    return folder / "trials" / name


def _run_here(study: Study, most: int, asked: Recipe, folder: Path, progress: Progress, offline: bool) -> None:
    """The trials one after the other in this process, on one load of the base."""
    from galvan.training.shared import Shared

    shared = Shared()
    while (one := study.ask(most)) is not None:
        progress.say(f"Trial {one.name} of {most}: {in_words(one.point)}.")
        pruner = Pruner(one.trial, asked.training.evaluations) if study.prune else None
        with study.alive(one):
            came = run_trial(
                with_settings(asked, one.point), trial_folder(folder, one.name), folder, progress, offline, pruner, shared
            )
        study.tell(one, came.value, came.pruned, came.reason)
        progress.say(
            f"Trial {one.name}: {came.reason or f'validation {came.value:.4f} nats a token'}{', given up' if came.pruned else ''}."
        )


def in_words(point: Point) -> str:
    """A point as people read it: `rank 8, learning_rate 0.001`."""
    return ", ".join(f"{option.rsplit('.', 1)[-1]} {recipes.plain_yaml(value)}" for option, value in point.items())


def _finish(study: Study, asked: Recipe, folder: Path, dims: Sequence[Dimension], progress: Progress, offline: bool) -> Swept:
    """Choose among what was trained, make the chosen trial a whole run, and write sweep.json and sweep.md."""
    from galvan import pipeline
    from galvan.sweep import page

    told = study.told()
    losses = {t.name: read_losses(trial_folder(folder, t.name)) for t in told if t.value is not None}
    whole = {t.name: losses[t.name] for t in told if t.value is not None and not t.pruned}
    if not whole:
        why = next((t.reason for t in told if t.reason), "none came to an end")
        raise DataError("sweep/none", f"No trial of {len(told)} could be chosen: {shown(str(why), 200)}")
    points = {t.name: t.point for t in told}
    choice = choose(whole, asked.evaluation.margin_nats, asked.seed, points, dims)
    progress.say(
        f"Trial {choice.best} of {len(told)} is chosen by validation documents: {in_words(points[choice.best])}; now it is judged."
    )
    judged = pipeline.run(with_settings(asked, points[choice.best]), trial_folder(folder, choice.best), progress, offline)
    rows = tuple(_row(t, folder, choice, losses) for t in told)
    sentence = (
        f"{len(told)} trials were looked at, on {losses[choice.best].n_tokens.size} validation documents; the chosen one alone was scored on the test "
        "documents, once, so its verdict pays for one look."
    )
    swept = Swept(folder, rows, choice, judged, sentence)
    write_text(folder / "sweep.md", page.to_markdown(swept))
    write_text(folder / "sweep.html", page.to_html(swept))
    write_json(folder / "sweep.json", swept.to_dict())
    return swept


def _row(t: Told, folder: Path, choice: Choice, losses: Mapping[str, Losses]) -> Trial:
    facts = read_json(trial_folder(folder, t.name) / "training.json") if t.value is not None else {}
    found = next((c for c in choice.family.candidates if c.name == t.name), None)
    known = losses.get(t.name)
    gain = None if known is None else float((known.base - known.tuned).sum() / known.n_tokens.sum())
    return Trial(
        t.name, t.point, t.value, gain, None if found is None else found.ci95, known.step if known else None,
        facts.get("steps"), known.seconds if known else None, t.pruned, t.reason,
    )  # fmt: skip
