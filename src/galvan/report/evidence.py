"""All that a run left behind, read once: every judgement and every page is a pure function of this record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from galvan import recipe as recipes
from galvan.app.ratings import Ratings
from galvan.compare import Comparisons
from galvan.copying.run import Copying
from galvan.diagnosis.catalogue import Facts, Finding
from galvan.diagnosis.outcome import CurveSeen, Outcome
from galvan.diagnosis.run_facts import RunFacts, run_facts
from galvan.errors import DataError
from galvan.forgetting import Retention
from galvan.measure.course import course
from galvan.recipe import Recipe
from galvan.report.curves import Curve, curve
from galvan.rundir import Document, read_documents, read_json, read_rows
from galvan.statistics.bits_per_byte import BitsGain, Comparable, comparable
from galvan.statistics.paired import Gain
from galvan.style.run import RunStyle
from galvan.text import shown, words


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """One split of the documents, counted."""

    documents: int
    sources: int
    words: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run's files, and what was concluded from them so far. What the run has no file for is None or empty.

    `refusal` is why base and tuned may not be compared; then `comparisons`, if there are any, are withheld ones without a gain.
    """

    recipe: Recipe
    provenance: Mapping[str, Any]
    splits: Mapping[str, SplitFacts]
    audit: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    trace: Sequence[Mapping[str, Any]]
    curve: Curve | None
    integrity: Mapping[str, Any] | None
    comparisons: Comparisons | None = None
    findings: Sequence[Finding] = ()
    refusal: str | None = None
    style: RunStyle | None = None
    copying: Copying | None = None
    retention: Retention | None = None
    ratings: Ratings | None = None
    run: RunFacts | None = None

    @property
    def test(self) -> Gain | None:
        """The gain on held-out text; None where nothing was compared, the comparison is refused, or the tokenizers differ."""
        return self.comparisons.test if self.comparisons else None

    @property
    def bits(self) -> BitsGain | None:
        """The gain in bits per byte where the tokenizers differ, so that it alone judges; else None."""
        return self.comparisons.bits if self.comparisons and self.comparisons.test is None else None

    @property
    def judged(self) -> Gain | BitsGain | None:
        """What the verdict rests on; None where there is none but a refusal."""
        return self.test or self.bits

    def comparable(self) -> Comparable | None:
        """What two tokenizers leave to compare, from provenance.json; None where it does not name both."""
        base, tuned = (self.provenance.get(key) for key in ("tokenizer_sha256", "tuned_tokenizer_sha256"))
        return comparable(base, tuned) if isinstance(base, str) and isinstance(tuned, str) else None

    def facts(self, blocks: Mapping[str, Mapping[str, Any]] | None = None) -> Facts:
        """What the catalogue's causes are asked about; `blocks` are style, originality and retention as verdict.json has them."""
        training = None if self.training is None else {"alpha": self.recipe.training.lora.alpha, **self.training}
        identity = self.comparisons.identity if self.comparisons else None
        scores = None
        if identity is not None:
            scores = {
                "max_abs_token_difference_nats": identity.largest_difference_nats,
                "noise_floor_nats": identity.noise_floor_nats,
            }
        facts = Facts.from_json(self.integrity, training, scores)
        return replace(facts, run=self.run, outcome=self._outcome(blocks or {}), trace=course(self.trace))

    def _outcome(self, blocks: Mapping[str, Mapping[str, Any]]) -> Outcome:
        known, found = self.comparisons, self.curve
        curve = None
        if found is not None:
            curve = CurveSeen(found.kind, found.reason, found.best_step, max((p.step for p in found.points), default=None))
        outcome = Outcome(
            curve=curve, style=blocks.get("style"), originality=blocks.get("originality"), retention=blocks.get("retention")
        )
        if known is None:
            return outcome
        one = known.comparable.token_perplexity if known.comparable else None
        return replace(
            outcome, test=known.test, probe=known.probe, probe_minus_test=known.probe_minus_test, controls=known.controls,
            one_tokenizer=one, recipe=known.recipe,
        )  # fmt: skip


def gather(folder: Path) -> Evidence:
    """Read a run's files. Raises DataError with the file's name where one is damaged, RecipeError for its recipe."""
    recipe = recipes.load(folder / "recipe.yaml")
    training = _mapping(folder / "training.json")
    trace = _rows(folder / "training.jsonl") if training else []
    curves = _rows(folder / "curves.jsonl") if training else []
    documents = {name: _documents(folder / "data" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return Evidence(
        recipe=recipe,
        provenance=_mapping(folder / "provenance.json") or {},
        splits={name: _split(some) for name, some in documents.items()},
        audit=_mapping(folder / "audit.json"),
        training=training,
        trace=trace,
        curve=curve(curves, trace, recipe.evaluation.margin_nats, recipe.seed, documents["validation"]) if curves else None,
        integrity=_mapping(folder / "integrity.json"),
        run=run_facts(folder, recipe.model_dump(mode="json")),
    )


def _mapping(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError("run/damaged", f"{shown(path.name)}: not a JSON object; delete the file and run again.")
    return value


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_rows(path)) if path.is_file() else []


def _documents(path: Path) -> list[Document]:
    return read_documents(path) if path.is_file() else []


def _split(documents: Sequence[Document]) -> SplitFacts:
    return SplitFacts(len(documents), len({d.source for d in documents}), sum(len(words(d.text)) for d in documents))
