"""Before a training costs anything: what the test documents will be able to show (METHODS S2.3), and what training will take on this device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import scipy.stats

from galvan.compare import TEST, TUNED, compare, paired, read_scores
from galvan.errors import ComparisonRefused, DataError, ModelError, ResourceError
from galvan.preflight import available_bytes, duration
from galvan.progress import Progress
from galvan.recipe import Recipe
from galvan.rundir import SCHEMA_VERSION, open_run, read_documents, read_json, to_json
from galvan.statistics.paired import Gain
from galvan.statistics.plan import ASSUMED_SDS, Plan, PlanRow
from galvan.statistics.plan import plan as sensitivity
from galvan.statistics.power import sensitivity_sentence
from galvan.statistics.ratio import kish_size
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.story import Story
    from galvan.training.cost import Cost

_HEAD = ("spread", "seen: 80 %", "seen: 90 %", "documents for the margin", "equivalent")


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """A plan for a prepared run; `pilot` is the run that the spreads come from, None where they are assumed. `cost` is what training takes
    on this device, None with `cost_reason` where it was not measured."""

    run: Path
    recipe: str
    n_tokens: int
    pilot: str | None
    plan: Plan
    cost: Cost | None
    cost_reason: str | None
    memory_available_bytes: int | None

    def to_json(self) -> str:
        return to_json({"schema_version": SCHEMA_VERSION, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}})

    def to_text(self) -> str:
        p = self.plan
        mean = self.n_tokens / p.n_documents
        lines = [
            f"{p.n_documents:,} test documents, {self.n_tokens:,} tokens ({mean:.0f} a document), weighing like {p.n_effective:.1f} equal {p.unit}s.",
            "",
        ]
        lines += [f"If gains spread by {row.sd_nats:.2g} nats a token: {_sentence(p.n_documents, row)}" for row in p.rows]
        lines += ["", *_table(p), "", p.assumption]
        lines.append(f'The margin is {p.margin:g} nats a token. "equivalent": the chance of proving that, if nothing changes.')
        if self.pilot is None:
            lines.append("After a first run, `galvan plan RECIPE --pilot RUN` takes the spread from there.")
        return "\n".join(map(shown, [*lines, "", *self._cost_lines()]))

    def _cost_lines(self) -> list[str]:
        if self.cost is None:
            return [f"What training takes was not measured: {self.cost_reason}"]
        c, free = self.cost, self.memory_available_bytes
        parts = ", ".join(f"{name} {_size(size)}" for name, size in c.parts_bytes.items() if size >= 0.01 * c.memory_bytes)
        room = "" if free is None else f", of {_size(free)} free"
        return [
            f"Training will take about {duration(c.seconds)} and {_size(c.memory_bytes)}{room} ({c.how}).",
            f"In memory at most: {parts}.",
        ]


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def plan(
    recipe: Recipe, out: Path | None = None, *, pilot: Path | None = None, progress: Progress | None = None, offline: bool = False,
    cost: bool = True,
) -> Planned:  # fmt: skip
    """Prepare the recipe's text and say what its test documents can show, and with `cost` what training takes here; nothing is trained.

    `pilot`: an earlier run, whose adapter's gains give the spread in place of an assumption. DataError if no document is held out for
    the test, ComparisonRefused if the pilot's own comparison is refused.
    """
    from galvan.story import Story

    sds = ASSUMED_SDS if pilot is None else pilot_spreads(pilot)
    story = Story.begin(recipe, out or Path("runs") / recipe.name, progress, offline)
    with story.alone():
        story.prepare()
        documents = read_documents(story.folder / "data" / "test.jsonl")
        if not documents:
            raise DataError(
                "data/no-test", "No document is held out for the test, so nothing could be shown; set data.split.test above 0."
            )
        tokens = story.scored_tokens(TEST)
        taken, reason = _cost(story) if cost else (None, "not asked for.")
    planned = sensitivity(
        tokens, sds, recipe.evaluation.margin_nats, sources=[d.source for d in documents], positions=[d.position for d in documents],
        pilot=pilot is not None,
    )  # fmt: skip
    return Planned(story.folder, recipe.name, sum(tokens), None if pilot is None else str(pilot), planned, taken, reason, available_bytes(story.device.value))  # fmt: skip


def _cost(story: Story) -> tuple[Cost | None, str | None]:
    try:
        return story.cost(), None
    except (ModelError, ResourceError) as error:
        return None, str(error)


def pilot_spreads(folder: Path) -> tuple[float, float, float]:
    """The spread of per-document gains in an earlier run, in nats a token, between the ends of its own 80 % interval (chi-square).

    It is what the run's standard error, by whatever unit, would be for one document of mean length.
    """
    path = open_run(folder) / "scores.parquet"
    integrity = folder / "integrity.json"
    found = compare(path, 0.01, read_json(integrity) if integrity.is_file() else None)
    gain, sizes = found.test, paired(read_scores(path), TUNED, TEST)[0].n_tokens
    if gain is None:
        raise ComparisonRefused(
            "plan/pilot", f"{shown(str(folder))}: this run's comparison is refused, so its spread means nothing: {found.refusal}"
        )
    return _around(gain, kish_size(sizes.astype(float)))


def _around(gain: Gain, size: float) -> tuple[float, float, float]:
    if not gain.se or gain.df is None:
        raise DataError("plan/pilot", f"{gain.n_documents} documents of the pilot give no spread; {gain.reason}")
    sd = gain.se * size**0.5
    low, high = (sd * (gain.df / float(scipy.stats.chi2.ppf(p, gain.df))) ** 0.5 for p in (0.9, 0.1))
    return low, sd, high


def _sentence(n: int, row: PlanRow) -> str:
    words = sensitivity_sentence(n, row.mde80_percent)
    return words[0].lower() + words[1:]


def _table(p: Plan) -> Sequence[str]:
    """Columns of plain text: spread, what is seen with 80 and 90 % chance, documents for the margin, chance of `equivalent`."""
    rows = [_HEAD, *(_cells(row) for row in p.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _cells(row: PlanRow) -> tuple[str, ...]:
    def percent(value: float | None, digits: str = ".2g") -> str:
        return "-" if value is None else f"{value:{digits}} %"

    needs = row.documents_needed_for_margin
    chance = None if row.equivalence_chance is None else 100 * row.equivalence_chance
    documents = "-" if needs is None else f"{needs.documents80:,} / {needs.documents90:,}"
    return (f"{row.sd_nats:.2g}", percent(row.mde80_percent), percent(row.mde90_percent), documents, percent(chance, ".0f"))
