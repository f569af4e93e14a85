"""Several adapters of one base evaluated by one command, on one machine or on the nodes of a Ray cluster.

OUT/data holds the documents, read once; OUT/adapters/NAME is for each adapter the run that `galvan evaluate` would leave for it alone, with its own
integrity checks and its own verdict. The base is loaded once in a process, and what it alone says is measured once there. At last all are judged
together, as `galvan compare` does it: looking at a hundred and taking the best gives chance a hundred tries (METHODS S1.7).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan import errors, models, pipeline
from galvan.errors import ComparisonRefused, GalvanError, ModelError, RecipeError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe, with_values
from galvan.report import comparison
from galvan.report.verdict import exit_code
from galvan.rundir import SCHEMA_VERSION, fingerprint, read_json, to_json, write_json, write_text
from galvan.side_by_side import SideBySide, best, side_by_side
from galvan.story import Story
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.measure.bench import Bench

LOUDEST = (
    errors.EXIT_MODEL,
    errors.EXIT_GATE_NOT_MET,
    errors.EXIT_INCONCLUSIVE,
    errors.EXIT_DONE,
)  # the first that one adapter has is that of all
PLAIN_NAMES = ("adapter", "model")  # the folder above says more


@dataclasses.dataclass(frozen=True, slots=True)
class One:
    """An adapter, where its run lies, and the content of its verdict.json; None where it could not be evaluated, for the `reason`."""

    adapter: str
    folder: Path
    verdict: Mapping[str, Any] | None
    reason: str | None = None
    code: str | None = None

    def exit_code(self, fail_on: str | None = None) -> int:
        return errors.EXIT_MODEL if self.verdict is None else exit_code(self.verdict, fail_on)

    def to_dict(self) -> dict[str, Any]:
        v = self.verdict or {"verdict": None, "worked": None}
        return {
            "adapter": self.adapter, "folder": self.folder, "verdict": v["verdict"], "worked": v["worked"], "reason": self.reason or v["reason"],
            "code": self.code,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """All adapters, in the order in which they were given; `compared` is what they come to together, None with `reason` where fewer than
    two could be compared."""

    folder: Path
    adapters: tuple[One, ...]
    compared: SideBySide | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        rows = [one.to_dict() for one in self.adapters]
        return {"schema_version": SCHEMA_VERSION, "adapters": rows, "compared": self.compared, "reason": self.reason}

    def to_json(self) -> str:
        return to_json(self.to_dict())

    def show(self) -> None:
        """The table of all, then each that could not be evaluated."""
        if self.compared is not None:
            comparison.show(self.compared, best(self.compared)[2])
        for one in self.adapters:
            if one.verdict is None:
                print(shown(f"{one.adapter}: not evaluated [{one.code}]: {one.reason}"))
        print(shown(f"  {self.folder / 'adapters'}" if self.reason is None else f"{self.reason}\n  {self.folder / 'adapters'}"))

    def exit_code(self, fail_on: str | None = None) -> int:
        """4 where an adapter was refused or not evaluated; else 1 where one has not met the gate; else 6 where one is inconclusive."""
        found = {one.exit_code(fail_on) for one in self.adapters}
        return next(code for code in LOUDEST if code in found)


def evaluate_many(
    base: str | Path, adapters: Sequence[str | Path], data: str | Path, *, train_data: str | Path | None = None, column: str = "text",
    out: Path | None = None, settings: Sequence[str] = (), progress: Progress | None = None, offline: bool = False, ray: str | None = None,
) -> Evaluated:  # fmt: skip
    """Everything after training for each of `adapters`, on every document of `data`, and all of them together.

    With `ray`, the address of a cluster or `local`, on its nodes, which see OUT, base and adapters under the same paths. An adapter that
    cannot be evaluated is a row with its reason. Raises RecipeError where one is given twice, ModelError where one is not there.
    """
    names, progress = [str(adapter) for adapter in adapters], progress or Silent()
    for name in names:
        if names.count(name) > 1:
            raise RecipeError("usage", f"{shown(name)} is given twice; name every adapter once.")
        models.locate(name, "adapter", offline)
    asked = pipeline.foreign("evaluate-" + fingerprint([str(base), *names, str(data)])[:8], str(base), str(data), column, settings)
    story = Story.begin(asked, out or Path("runs") / asked.name, progress, offline)
    with story.alone():
        story.take_documents(None if train_data is None else str(train_data))
        jobs = {name: (_recipe(asked, name), story.folder / "adapters" / label(name)) for name in names}
        if ray is None:
            found = _here(story, jobs, progress, offline)
        else:
            from galvan.sweep.cluster import evaluate_on_ray

            found = evaluate_on_ray(jobs, story.folder, progress, ray)
        return _together(story.folder, [_read(name, jobs[name][1], found.get(name)) for name in names])


def label(name: str) -> str:
    """A folder's name for an adapter: the last of its path that says something, and a few digits of the whole."""
    parts = [part for part in re.split(r"[\\/@]", name) if part not in ("", ".", "..")] or ["adapter"]
    plain = parts[-2] if parts[-1] in PLAIN_NAMES and len(parts) > 1 else parts[-1]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', plain).lstrip('._-')[:48] or 'adapter'}-{fingerprint(name)[:6]}"


def _recipe(asked: Recipe, name: str) -> Recipe:
    return with_values(asked, {"name": label(name)}, "galvan evaluate")


def _here(story: Story, jobs: Mapping[str, tuple[Recipe, Path]], progress: Progress, offline: bool) -> dict[str, GalvanError]:
    """One after the other in this process, on one bench; why the failed ones failed."""
    from galvan.measure.bench import SharedBench

    bench = SharedBench(story.base, story.recipe.model, story.device, story.dtype)
    failed: dict[str, GalvanError] = {}
    for number, (name, (asked, folder)) in enumerate(jobs.items(), 1):
        progress.say(f"Adapter {number} of {len(jobs)}: {shown(name)}")
        error = one(asked, name, folder, story.folder, progress, offline, bench)
        if error is not None:
            failed[name] = error
            progress.say(f"Not evaluated: {shown(str(error))}")
    return failed


def one(
    asked: Recipe, adapter: str, folder: Path, documents: Path, progress: Progress, offline: bool, bench: Bench | None
) -> GalvanError | None:
    """Evaluate an adapter in `folder` on the documents of the run `documents`; the error where the adapter, or the pair, cannot be."""
    try:
        pipeline.evaluated(
            asked, adapter, folder, progress, offline, lambda story: story.copy_documents(documents), bench, wait=True
        )
    except (ModelError, ComparisonRefused) as error:
        return error
    return None


def _read(name: str, folder: Path, failed: GalvanError | None) -> One:
    if failed is not None:
        return One(name, folder, None, str(failed), failed.code)
    return One(name, folder, read_json(folder / "verdict.json"))


def _together(folder: Path, rows: Sequence[One]) -> Evaluated:
    """Judge all that were evaluated together, and write compare.json, compare.md, compare.html and at last evaluate.json."""
    compared, reason = None, None
    try:
        compared = side_by_side([row.folder for row in rows if row.verdict is not None])
        sentence = best(compared)[2]
        write_text(folder / "compare.md", comparison.to_markdown(compared, sentence))
        write_text(folder / "compare.html", comparison.to_html(compared, sentence))
        write_text(folder / "compare.json", compared.to_json() + "\n")
    except ComparisonRefused as error:
        reason = str(error)
    found = Evaluated(folder, tuple(rows), compared, reason)
    write_json(folder / "evaluate.json", found.to_dict())
    return found
