"""The loop: the start's own evidence, one remedy at a time, a look at the test documents where validation says improved, an end.

OUT/ (default RUN/improve) holds the prepared text; OUT/trials/NN is a run for each trial, 00 the start itself; improve.jsonl has a row for every
step, written as it is made. All follows from the files: the same command goes on where a killed one was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan import errors
from galvan import recipe as recipes
from galvan.errors import ComparisonRefused, ModelError, RecipeError
from galvan.improve.evidence import on_validation
from galvan.improve.held_out import HeldOut, enough_held_out
from galvan.improve.looks import Look, look, matters
from galvan.improve.remedy import Policy, Remedy, State, diagnosed, key
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe
from galvan.report.evidence import Evidence
from galvan.rundir import SCHEMA_VERSION, open_run, read_json, to_json, write_json, write_rows, write_text
from galvan.statistics.ratio import Interval
from galvan.story import Story
from galvan.sweep.losses import read_losses
from galvan.sweep.trial import Outcome, run_trial
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.report import Judged

START = Remedy("The start, as it was.", "What it came to decides what is tried first.", "It fails again.", {})


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """What the loop may spend: trials after the start, minutes of training, supervised tokens trained on; None is no limit."""

    trials: int = 10
    minutes: float | None = None
    tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """A row of improve.jsonl: what was tried and expected, what came of it on validation documents, and the look at the test documents.

    `settings` are relative to trial `on`; `better` says whether its validation loss is below the lowest before it. Gains are nats a token.
    """

    trial: str
    on: str | None
    action: str
    why: str
    expected: str
    settings: Mapping[str, Any]
    validation_nats: float | None
    gain_nats: float | None
    ci95: Interval | None
    verdict: str | None
    better: bool
    failed: str | None
    seconds: float
    tokens: int
    look: Look | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Improved:
    """How it ended: `improved` on untouched test documents or not, why in `reason`; `did_it` are the actions from the start to the best trial."""

    folder: Path
    improved: bool
    reason: str
    did_it: tuple[str, ...]
    held_out: str | None
    steps: tuple[Step, ...]
    best: str | None
    judged: Judged | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION, "improved": self.improved, "reason": self.reason, "did_it": self.did_it, "held_out": self.held_out,
            "best": self.best, "steps": self.steps, "verdict": None if self.judged is None else self.judged.verdict,
        }  # fmt: skip

    def to_json(self) -> str:
        return to_json(self.to_dict())

    def to_text(self) -> str:
        """Every step in a line or two, then how it ended."""
        lines = [self.held_out] if self.held_out else []
        for step in self.steps:
            lines += [f"{step.trial}  {step.action} {came(step)}"]
            lines += [f"    {said}" for said in ([looked(step.look)] if step.look else [])]
        pages = [f"  {self.folder / 'improve.md'}"] if self.steps else []
        return "\n".join(shown(line) for line in [*lines, self.reason, *pages])

    def exit_code(self) -> int:
        if self.improved and self.judged is not None:
            return self.judged.exit_code()
        return errors.EXIT_DONE if self.improved else errors.EXIT_GATE_NOT_MET


def came(step: Step) -> str:
    """What came of a step, in words."""
    if step.failed:
        return f"It failed: {step.failed}"
    interval = "" if step.ci95 is None else f" ({step.ci95.low:+.4f} to {step.ci95.high:+.4f})"
    against = "" if step.on is None else " Better than before." if step.better else " No better than before."
    return f"Validation gain {step.gain_nats:+.4f} nats a token{interval}.{against}"


def looked(one: Look) -> str:
    """A look at the test documents, in words."""
    if one.interval is None or one.nats_per_token is None:
        return f"Look {one.number} at the test documents: {one.reason}"
    return (
        f"Look {one.number} at the test documents: gain {one.nats_per_token:+.4f} ({one.level:.4g} interval {one.interval.low:+.4f} to "
        f"{one.interval.high:+.4f}): {'improved' if one.improved else 'not shown'}."
    )


def improve(
    run: Path, budget: Budget | None = None, *, policy: Policy = diagnosed, out: Path | None = None, progress: Progress | None = None,
    offline: bool = False, ray: str | None = None,
) -> Improved:  # fmt: skip
    """Try remedies on the recipe of `run`, one at a time, until test documents that chose nothing show it improved or the budget is spent.

    With `ray`, the address of a cluster or `local`, every trial, one at a time, runs on one of its nodes, which see the folders under the same
    paths. A run that is improved already is left as it is. Raises RecipeError where `run` is no run, DataError where there is too little text to choose by.
    """
    asked, folder, progress = recipes.load(open_run(run) / "recipe.yaml"), out or run / "improve", progress or Silent()
    if not (run / "data" / "train.jsonl").is_file():
        raise RecipeError("improve/not-run", f"{shown(str(run))} holds no prepared text; `galvan run` it first.")
    if is_improved(run):
        return Improved(run, True, _already(run), (), None, (), None, None)
    held_out = enough_held_out(asked, run)
    story = Story.begin(held_out.recipe, folder, progress, offline)
    with story.alone():
        story.prepare(adopt=run)
        where = Here(progress, offline) if ray is None else OnRay(ray)
        return _Loop(held_out, folder, run, budget or Budget(), policy, progress, where).go()


def is_improved(run: Path) -> bool:
    """True for a verdict of improved by at least the margin."""
    verdict = read_json(run / "verdict.json") if (run / "verdict.json").is_file() else {}
    fit = verdict.get("fit") or {}
    return verdict.get("verdict") == "improved" and fit["gain"]["nats_per_token"] >= fit["margin_nats"]


def _already(run: Path) -> str:
    gain = read_json(run / "verdict.json")["fit"]["gain"]
    low, high = gain["ci95"]
    return (
        f"{shown(str(run))} is improved already: {gain['nats_per_token']:+.4f} nats a token ({low:+.4f} to {high:+.4f}) on its test "
        "documents; to choose among settings, use `galvan sweep`."
    )


def run_first(asked: Recipe, progress: Progress, offline: bool, ray: str | None = None) -> Path:
    """The folder of the recipe's own run, which is made, or gone on with; a training that cannot be is a start like any other."""
    folder = Path("runs") / asked.name
    try:
        (Here(progress, offline) if ray is None else OnRay(ray)).judged(asked, folder)
    except (ModelError, ComparisonRefused) as error:
        if not (folder / "data" / "train.jsonl").is_file():
            raise
        progress.say(f"The start failed: {shown(str(error))}")
    return folder


class Here:
    """Trials in this process, on one load of the base."""

    def __init__(self, progress: Progress, offline: bool) -> None:
        from galvan.training.shared import Shared

        self.progress, self.offline, self.shared = progress, offline, Shared()

    def trial(self, asked: Recipe, at: Path, prepared: Path) -> Outcome:
        return run_trial(asked, at, prepared, self.progress, self.offline, shared=self.shared, check=True)

    def judged(self, asked: Recipe, at: Path) -> Judged:
        from galvan import pipeline

        return pipeline.run(asked, at, self.progress, self.offline)


class OnRay(Here):
    """Each trial on some node of a cluster; what decides stays here."""

    def __init__(self, address: str) -> None:
        from galvan.sweep import cluster

        cluster.connect(address)
        self.cluster = cluster

    def trial(self, asked: Recipe, at: Path, prepared: Path) -> Outcome:
        return self.cluster.result(self.cluster.submit(asked, at, prepared, check=True))

    def judged(self, asked: Recipe, at: Path) -> Judged:
        from galvan.report import judge

        self.cluster.run_on_node(asked, at)
        return judge(at)


class _Loop:
    """One improvement in progress; everything in it is read from files that trials left, so that it can be gone through again."""

    def __init__(
        self, held_out: HeldOut, folder: Path, run: Path, budget: Budget, policy: Policy, progress: Progress, where: Here
    ) -> None:
        self.held_out, self.folder, self.run, self.budget, self.policy = held_out, folder, run, budget, policy
        self.progress, self.where = progress, where
        self.steps: list[Step] = []
        self.recipes: dict[str, Recipe] = {}
        self.state = State(held_out.recipe, None, None, frozenset())
        self.best: Step | None = None
        self.judged: Judged | None = None

    def go(self) -> Improved:
        """Steps until one is shown to be improved, or nothing may or can be tried any more."""
        self.take(START)
        while True:
            if (
                self.state.evidence
                and matters(self.state.evidence.test)
                and self.best
                and not self.best.look
                and self.look().improved
            ):
                return self.end(
                    True, f"Improved: {' Then: '.join(self.path()[1:]) or 'the start itself, on enough held-out text.'}"
                )
            if (spent := self.spent()) is not None:
                return self.end(False, f"Exhausted: {spent}")
            remedy = self.policy(self.state)
            if remedy is None:
                return self.end(
                    False,
                    "Exhausted: every remedy that galvan knows for this recipe was tried; what is left is other or more text.",
                )
            self.take(remedy)

    def take(self, remedy: Remedy) -> None:
        """Train one recipe, see what came of it, and stand on it if its validation loss is the lowest so far."""
        name, asked = f"{len(self.steps):02d}", self.state.after(remedy.settings)
        self.progress.say(f"Trial {name}: {remedy.action} {remedy.why}")
        self.recipes[name] = asked
        at = self.folder / "trials" / name
        prepared = self.folder if self.steps or self.held_out.changed else self.run
        outcome = self.where.trial(asked, at, prepared)
        evidence = None if outcome.value is None else on_validation(at)
        step = self._step(name, remedy, at, outcome, evidence)
        self.steps.append(step)
        self.state = dataclasses.replace(self.state, tried=self.state.tried | {key(asked)})
        if step.better or len(self.steps) == 1:
            self.best = step if step.better else None
            adapter = str((at / "adapter").resolve()) if evidence and (at / "adapter").is_dir() else None
            self.state = dataclasses.replace(self.state, recipe=asked, evidence=evidence, code=outcome.code, adapter=adapter)
        self.write()
        self.progress.say(came(step))

    def _step(self, name: str, remedy: Remedy, at: Path, outcome: Outcome, evidence: Evidence | None) -> Step:
        test = evidence.test if evidence else None
        lowest = None if self.best is None else self.best.validation_nats
        better = outcome.value is not None and (lowest is None or outcome.value < lowest)
        facts = read_json(at / "training.json") if evidence else {}
        seconds = read_losses(at).seconds if evidence else None
        on = self.best.trial if self.best else self.steps[0].trial if self.steps else None
        return Step(
            name, on, remedy.action, remedy.why, remedy.expected, remedy.settings, outcome.value, test.nats_per_token if test else None,
            test.ci95 if test else None, test.verdict if test else None, better, outcome.reason, seconds or 0.0, int(facts.get("tokens") or 0),
        )  # fmt: skip

    def look(self) -> Look:
        """Make the best trial a whole run, and see whether its test documents say improved, at the price of looking again."""
        assert self.best is not None
        number = 1 + sum(step.look is not None for step in self.steps)
        self.progress.say(f"Trial {self.best.trial} is better on validation documents; look {number} at the test documents.")
        try:
            self.judged = self.where.judged(self.recipes[self.best.trial], self.folder / "trials" / self.best.trial)
            found = look(self.judged.evidence.test, number, str(self.judged.verdict["reason"]))
        except ComparisonRefused as error:
            found = look(None, number, str(error))
        self.best = dataclasses.replace(self.best, look=found)
        self.steps = [self.best if step.trial == self.best.trial else step for step in self.steps]
        self.write()
        self.progress.say(looked(found))
        return found

    def spent(self) -> str | None:
        """Which limit is reached, in a sentence."""
        seconds, tokens = sum(step.seconds for step in self.steps), sum(step.tokens for step in self.steps)
        if len(self.steps) - 1 >= self.budget.trials:
            return f"all {self.budget.trials} trials were used."
        if self.budget.minutes is not None and seconds >= 60 * self.budget.minutes:
            return f"{seconds / 60:.1f} minutes of training were used, of {self.budget.minutes:g}."
        if self.budget.tokens is not None and tokens >= self.budget.tokens:
            return f"{tokens:,} tokens were trained on, of {self.budget.tokens:,}."
        return None

    def path(self) -> list[str]:
        """The actions that lead from the start to the best trial, the start's own first."""
        by, found = {step.trial: step for step in self.steps}, []
        at = self.best
        while at is not None:
            found.append(at.action)
            at = None if at.on is None else by[at.on]
        return found[::-1]

    def write(self) -> None:
        write_rows(self.folder / "improve.jsonl", self.steps)

    def end(self, improved: bool, reason: str) -> Improved:
        from galvan.improve import page

        did_it = tuple(self.path()[1:]) if self.best else ()
        best = self.best.trial if self.best else None
        judged = self.judged if improved else None
        found = Improved(self.folder, improved, reason, did_it, self.held_out.changed, tuple(self.steps), best, judged)
        write_text(self.folder / "improve.md", page.to_markdown(found))
        write_text(self.folder / "improve.html", page.to_html(found))
        write_json(self.folder / "improve.json", found.to_dict())
        return found
