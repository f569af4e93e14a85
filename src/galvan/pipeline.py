"""What galvan does, verb by verb: the whole story of a recipe, or the parts of it that an adapter from elsewhere needs."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan import recipe as recipes
from galvan.errors import GalvanError
from galvan.progress import Progress
from galvan.recipe import Model, Recipe
from galvan.rundir import SCHEMA_VERSION, fingerprint, to_json, write_json
from galvan.story import Story
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.diagnosis import Finding
    from galvan.diagnostic import Diagnostic
    from galvan.measure.bench import Bench
    from galvan.measure.facts import Integrity
    from galvan.report import Judged
    from galvan.statistics import BitsGain, Family, Gain, Interval, Separation
    from galvan.training.shared import Shared


def run(
    recipe: Recipe | Path | str, out: Path | None = None, progress: Progress | None = None, offline: bool = False, seeds: int = 1,
    shared: Shared | None = None, wait: bool = False,
) -> Judged:  # fmt: skip
    """The whole story of a recipe in the folder `out` (default `runs/NAME`); resumes what an earlier run left there.

    With `seeds` above 1 the recipe is trained with so many seeds on the same split, the others in OUT/seeds, and the result also holds
    the interval for the recipe; the verdict stays that on the adapter of the first seed. Where that one is refused, no other is trained.
    Runs that are given the same `shared` (galvan.training.shared.Shared) load one base and tokenise once for all their trainings. With `wait`
    a process that works in the folder is waited for, instead of refusing to be the second.
    """
    from galvan.compare_seeds import ask, folder_of, training_seeds, with_seed
    from galvan.report import judge

    asked = recipe if isinstance(recipe, Recipe) else recipes.load(Path(recipe))
    if shared is None and seeds > 1:
        from galvan.training.shared import Shared

        shared = Shared()
    story = Story.begin(asked, out or Path("runs") / asked.name, progress, offline, shared=shared)
    with story.alone(wait):
        for line in story.prepare().to_text().split("\n"):
            story.progress.say(shown(line))
        story.augment()
        story.train()
        story.check()
        story.score()
        story.generate()
        story.retain()
        story.seal()
        if seeds > 1:
            ask(story.folder, training_seeds(asked, seeds))
        judged = judge(story.folder)
        story.conclude(judged.verdict)
        if seeds == 1 or judged.verdict["verdict"] == "refused":
            return judged
        for number, seed in enumerate(training_seeds(asked, seeds)[1:], 2):
            story.progress.say(f"Training seed {seed}, {number} of {seeds}.")
            run(with_seed(asked, seed), folder_of(story.folder, seed), progress, offline, shared=shared)
        return judge(story.folder)


def evaluate(
    base: str | Path,
    adapter: str | Path,
    data: str | Path,
    *,
    train_data: str | Path | None = None,
    column: str = "text",
    out: Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
    offline: bool = False,
    reported: Mapping[str, float] | None = None,
) -> Judged:
    """Everything after training, for an adapter (or a fully tuned model) made anywhere, on every document of `data`.

    `train_data` is the text that it was trained on, where it is at hand: then the gain there is shown beside the held-out one.
    `reported` are perplexities that another program gave for the same documents, {"base": 7.95, "tuned": 7.95}: are they right, and if
    not, which wrong way of computing gives them?
    """
    name = "evaluate-" + fingerprint([str(base), str(adapter), str(data)])[:8]
    asked = foreign(name, str(base), str(data), column, settings)

    def documents(story: Story) -> None:
        story.take_documents(None if train_data is None else str(train_data))
        if reported is not None:
            write_json(story.folder / "reported.json", dict(reported))

    return evaluated(asked, str(adapter), out or Path("runs") / name, progress, offline, documents)


def evaluated(
    asked: Recipe, adapter: str, folder: Path, progress: Progress | None, offline: bool, documents: Callable[[Story], None],
    bench: Bench | None = None, wait: bool = False,
) -> Judged:  # fmt: skip
    """The stages of an evaluation in `folder`; `documents` puts there what is judged on, and `bench` is where models come from."""
    from galvan.report import judge

    story = Story.begin(asked, folder, progress, offline, adapter, bench=bench)
    with story.alone(wait):
        documents(story)
        story.check()
        story.score()
        story.generate()
        story.retain()
        story.seal()
        judged = judge(story.folder)
        story.conclude(judged.verdict)
        return judged


def foreign(name: str, base: str, data: str, column: str, settings: Sequence[str]) -> Recipe:
    """The recipe of an evaluation: an adapter from elsewhere has none of its own."""
    tree: dict[str, Any] = {"name": name, "model": {"base": base}, "data": {"source": data, "column": column}}
    return recipes.from_text(to_json(tree), "galvan evaluate", settings)


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found. `alive` is True, False, or None where it was not shown; then `reason` says why. `repaired` are the changes in the
    copy that was checked, None where none was asked for."""

    alive: bool | None
    reason: str | None
    findings: list[Finding]
    integrity: Integrity
    repaired: list[str] | None = None
    adapter: str = ""

    def to_json(self) -> str:
        return to_json({"schema_version": SCHEMA_VERSION, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}})

    def to_text(self) -> str:
        """The causes that are present, then the answer, at 80 columns."""
        from galvan.diagnosis.catalogue import spans

        width = 80
        lines = [] if self.repaired is None else [*(f"Repaired in a copy: {change}" for change in self.repaired), ""]
        for found in self.diagnostics():
            lines += [*found.lines(width), ""]
        excluded, open_ = (spans([f.code for f in self.findings if f.status == status]) for status in ("absent", "unknown"))
        lines += textwrap.wrap(f"Excluded: {excluded}. Not known: {open_}.", width)
        answers = {True: "The adapter is alive: it is whole, applied, and changes the model.", False: "The adapter is not alive."}
        lines.append("It was not shown whether the adapter is alive." if self.alive is None else answers[self.alive])
        if self.reason and self.alive is not False:
            lines += textwrap.wrap(f"{self.reason[0].upper()}{self.reason[1:]}", width, initial_indent="  ", subsequent_indent="  ")
        return "\n".join(shown(line) for line in lines)

    def diagnostics(self) -> list[Diagnostic]:
        """The causes that are present, each at the adapter's place."""
        from galvan.report.diagnostics import of_adapter

        return of_adapter(self.findings, self.adapter)


def check(
    base: str | Path, adapter: str | Path, *, load: bool = True, offline: bool = False, model: Model | None = None,
    repair: Path | None = None, exported: str | Path | None = None,
) -> Checked:  # fmt: skip
    """Is the adapter whole, in the model, and doing something? Files first; then, if `load`, the object graph, values and function.

    With `repair` a corrected copy is written to that new folder, and it is the copy that is checked. `exported` is a merged model that
    another program made of the two: is the adapter in it? Raises ModelError where something is
    missing or damaged so that nothing can be said, or where no copy can mend it.
    """
    from galvan import models
    from galvan.diagnosis import Facts, diagnose, liveness
    from galvan.measure.integrity import check as gather
    from galvan.measure.repair import repair as write_copy

    found_base, found = models.locate(str(base), offline=offline), models.locate(str(adapter), "adapter", offline)
    changes: list[str] = []
    if repair is not None:
        changes, found = write_copy(found_base, found, repair), models.Located(str(repair), repair)
    merged = None if exported is None else models.locate(str(exported), "model", offline)
    integrity = gather(found_base, found, model or Model(), load=load, exported=merged)
    facts = Facts(integrity)
    findings = diagnose(facts)
    answer = liveness(facts, findings)
    return Checked(answer.alive, answer.reason, findings, integrity, None if repair is None else changes, found.name)


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredAdapter:
    """One adapter beside the base: its gain (`bits`, where tokenizers differ), or why it was refused."""

    adapter: str
    gain: Gain | None
    refused: str | None
    code: str | None
    bits: BitsGain | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """Where the rows lie, and one line an adapter. With several, `family` holds the verdicts that count: each pays for all that were looked
    at, in `family_unit`; `chosen` says that the same documents would choose the best and judge it. `base_perplexity` is None, with
    `reason`, where tokenizers differ."""

    scores: Path
    n_documents: int
    n_tokens: int
    base_perplexity: float | None
    adapters: list[ScoredAdapter]
    family: Family | None = None
    family_unit: str | None = None
    chosen: Separation | None = None
    reason: str | None = None

    @property
    def refused(self) -> bool:
        return any(a.refused for a in self.adapters)

    def to_json(self) -> str:
        return to_json({"schema_version": SCHEMA_VERSION, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}})

    def to_text(self) -> str:
        lines = [f"{one.adapter}: refused [{one.code}]: {one.refused}" for one in self.adapters if one.refused]
        lines += [_alone(one) for one in self.adapters if not one.refused] if self.family is None else self._together(self.family)
        if self.reason:
            lines.append(self.reason)
        if not self.adapters:
            lines.append(f"base: perplexity {self.base_perplexity:.2f}")
        lines.append(f"{self.n_documents} documents, {self.n_tokens:,} tokens: {self.scores}")
        return "\n".join(shown(line) for line in lines)

    def _together(self, family: Family) -> list[str]:
        """All candidates with their simultaneous intervals, then what they cost."""
        lines = []
        for c in family.candidates:
            p = "" if c.p_adjusted is None or c.p_holm is None else f"; p {c.p_adjusted:.4f} by max-T, {c.p_holm:.4f} by Holm"
            lines.append(
                f"{c.name}: {c.verdict}; gain {c.nats_per_token:+.4f} {self.family_unit} ({_interval(c.ci95, 'simultaneous 95 %')}){p}"
            )
        lines += [family.sentence, f"Largest gain: {family.candidates[family.best].name}. That is a choice, not a verdict."]
        lines += [self.chosen.sentence] if self.chosen else []
        return [*lines, *family.cautions]


def _interval(ci95: Interval | None, name: str = "95 %") -> str:
    return "no interval" if ci95 is None else f"{name} interval {ci95.low:+.4f} to {ci95.high:+.4f}"


def _alone(one: ScoredAdapter) -> str:
    if one.bits is not None:
        b = one.bits
        return f"{one.adapter}: {b.verdict}; gain {b.bits_per_byte:+.4f} bits per byte ({_interval(b.ci95)}); {b.base_bits_per_byte:.4f} -> {b.tuned_bits_per_byte:.4f}"
    g = one.gain
    assert g is not None
    return (
        f"{one.adapter}: {g.verdict}; gain {g.nats_per_token:+.4f} nats a token ({_interval(g.ci95)}); "
        f"perplexity {g.base_perplexity:.2f} -> {g.tuned_perplexity:.2f}"
    )


def score(
    base: str | Path,
    adapters: Sequence[str | Path],
    data: str | Path,
    *,
    column: str = "text",
    out: Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
    offline: bool = False,
) -> Scored:
    """Likelihoods of every document of `data` under the base and each adapter, in `OUT/scores.parquet`, and the paired gains.

    Every adapter passes the integrity checks first; one that fails is not scored and its refusal is in the result. Two or more that pass
    are judged together: looking at five and taking the best gives chance five tries (METHODS S1.7, S1.8).
    """
    from galvan.compare import TEST, bits, candidates, gain, paired, read_scores
    from galvan.statistics import comparable, separation

    name = "score-" + fingerprint([str(base), [str(a) for a in adapters], str(data)])[:8]
    asked = foreign(name, str(base), str(data), column, settings)
    story = Story.begin(asked, out or Path("runs") / name, progress, offline)
    with story.alone():
        refusals, one_tokenizer = story.score_adapters([str(a) for a in adapters])
    scores = read_scores(story.folder / "scores.parquet")
    base_arm = scores["base", TEST]
    results = []
    for adapter in map(str, adapters):
        refusal: GalvanError | None = refusals.get(adapter)
        if refusal is not None:
            results.append(ScoredAdapter(adapter, None, str(refusal), refusal.code))
        elif one_tokenizer:
            results.append(ScoredAdapter(adapter, gain(*paired(scores, adapter, TEST), asked.evaluation.margin_nats), None, None))
        else:
            results.append(ScoredAdapter(adapter, None, None, None, bits(*paired(scores, adapter, TEST, tokens=False))))
    n_tokens = int(base_arm.n_tokens.sum())
    perplexity = math.exp(base_arm.nll_nats.sum() / n_tokens) if one_tokenizer else None
    scored = Scored(story.folder / "scores.parquet", len(base_arm.documents), n_tokens, perplexity, results)
    if not one_tokenizer:
        scored = dataclasses.replace(scored, reason=comparable("base", "other").reason)
    live = list(dict.fromkeys(one.adapter for one in results if not one.refused))
    if len(live) < 2:
        return scored
    family = candidates(scores, live, asked.evaluation.margin_nats, asked.seed, one_tokenizer)
    chosen = separation(base_arm.documents, base_arm.documents, len(live))
    return dataclasses.replace(
        scored, family=family, family_unit="nats a token" if one_tokenizer else "bits per byte", chosen=chosen
    )
