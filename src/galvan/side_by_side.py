"""`galvan compare`: several runs (and the adapters of a `galvan score`) side by side, with the price of having looked at all of them.

Gains are judged together by sign-flip max-T on the documents that all runs scored (METHODS S1.7), in nats a token where base, tokenizer and the
base's scores are the same, else in bits per byte, and it is said exactly what differs. Nothing is computed that a run's files do not hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from galvan import recipe as recipes
from galvan.compare import BASE, LEAST_FLOOR_NATS, NO_MARGIN, TEST, Arm, read_scores
from galvan.errors import ComparisonRefused, RecipeError
from galvan.recipe import Recipe
from galvan.report.card import cost
from galvan.report.verdict import vetoes
from galvan.rundir import SCHEMA_VERSION, each_document, open_run, read_json, read_rows, to_json
from galvan.statistics.identity import identical
from galvan.statistics.multiple import Family, judge_candidates, separation
from galvan.statistics.verdict import Verdict
from galvan.text import shown

LN2 = math.log(2)
Measure = Literal["nats a token", "bits per byte"]
_NOT_SETTINGS = ("name", "trackers", "training.checkpoint_seconds", "evaluation.tokens_per_pass", "generation.tokens_per_pass")


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter as a run's files have it. `verdict` is None for an arm of `galvan score`; `refused` is why it may not be compared."""

    name: str
    recipe: Recipe
    verdict: Mapping[str, Any] | None
    origin: Mapping[str, Any]
    training: Mapping[str, Any] | None
    seconds: float | None
    floor_nats: float
    texts: Mapping[str, str]
    base: Arm | None
    tuned: Arm | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """What a run says of itself, on all its own documents, and what its training took. Undefined figures are None."""

    name: str
    verdict: str | None
    refused: str | None
    vetoes: tuple[str, ...]
    perplexity_change_percent: float | None
    perplexity_change_ci95: Sequence[float] | None
    n_documents: int | None
    style_closer: str | None
    style_gap_closed: float | None
    style_ci95: Sequence[float] | None
    longest_span_words: int | None
    neutral_perplexity_change_percent: float | None
    forgot: bool | None
    seconds: float | None
    tokens: int | None
    trainable_parameters: int | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """`compare.json`. `family` are the gains over the base, `pairs` every adapter against every other ("a over b", positive = a is better);
    both hold simultaneous intervals. `differs` says what is not the same in all runs, `recipe` the options that are not, value by value."""

    schema_version: int
    measure: Measure
    n_documents: int
    differs: tuple[str, ...]
    family: Family
    pairs: Family
    sentence: str
    runs: tuple[Row, ...]
    recipe: Mapping[str, Sequence[Any]]
    currency: str | None = None

    def to_json(self) -> str:
        return to_json(self)


def side_by_side(runs: Sequence[Path], price_per_hour: float | None = None, currency: str = "USD") -> SideBySide:
    """Compare the adapters of `runs`, at least two in all. ComparisonRefused, with what differs, where nothing is left in common; RecipeError
    where a folder is no judged run; DataError where a file is damaged."""
    entries = _named([entry for folder in runs for entry in read_entries(folder)])
    live = [entry for entry in entries if entry.refused is None]
    if len(live) < 2:
        told = "".join(f" {shown(entry.name)}: {entry.refused}" for entry in entries if entry.refused)
        raise ComparisonRefused(
            "compare/too-few", f"Two adapters are needed to compare, and {len(live)} of {len(entries)} can be.{told}"
        )
    names, arms, differs, measure = _in_common(live)
    unit, sizes = (1.0, arms[0][0].n_tokens) if measure == "nats a token" else (LN2, arms[0][0].n_bytes)
    margin = max(entry.recipe.evaluation.margin_nats for entry in live) if measure == "nats a token" else NO_MARGIN
    first = arms[0][0]

    def together(gains: Mapping[str, Any], least: float) -> Family:
        none, rng = np.zeros(len(names)), np.random.default_rng(live[0].recipe.seed)
        found = judge_candidates(
            none, {name: -gain / unit for name, gain in gains.items()}, sizes, rng, margin=least, sources=first.sources, positions=first.positions
        )  # fmt: skip
        return found if measure == "nats a token" else _without_perplexity(found)

    family = together({e.name: base.nll_nats - tuned.nll_nats for e, (base, tuned) in zip(live, arms, strict=True)}, margin)
    pairs = together(
        {
            f"{live[i].name} over {live[j].name}": arms[j][1].nll_nats - arms[i][1].nll_nats
            for i in range(len(live))
            for j in range(len(live))
            if family.candidates[i].nats_per_token > family.candidates[j].nats_per_token or (i < j and family.candidates[i].nats_per_token == family.candidates[j].nats_per_token)
        },
        margin,
    )  # fmt: skip
    rows = tuple(_row(entry, price_per_hour) for entry in entries)
    sentence = separation(names, names, len(live)).sentence
    return SideBySide(
        SCHEMA_VERSION, measure, len(names), tuple(differs), family, pairs, sentence, rows, _recipes(entries), currency if price_per_hour is not None else None,
    )  # fmt: skip


# ---- reading ----


def read_entries(folder: Path) -> list[Entry]:
    """The adapter of a judged run, or every adapter of a `galvan score`."""
    open_run(folder)
    recipe, origin = recipes.load(folder / "recipe.yaml"), _mapping(folder / "provenance.json") or {}
    verdict, scores = _mapping(folder / "verdict.json"), folder / "scores.parquet"
    if verdict is None and not scores.is_file():
        raise RecipeError(
            "run/not-judged", f"{shown(str(folder))} is not judged yet: it holds no verdict.json; `galvan report` judges it."
        )
    known = read_scores(scores) if scores.is_file() else {}
    arms = ["tuned"] if verdict is not None else [arm for arm, split in known if split == TEST and arm != BASE]
    refused = str(verdict["reason"]) if verdict is not None and verdict.get("verdict") == "refused" else None
    training = _mapping(folder / "training.json")
    function = (_mapping(folder / "integrity.json") or {}).get("function") or {}
    return [
        Entry(
            folder.absolute().name if verdict is not None else Path(arm).name, recipe, verdict, origin, training, _seconds(folder / "training.jsonl") if training else None,
            max(LEAST_FLOOR_NATS, float(function.get("noise_floor_nats") or 0.0)), _texts(folder / "data" / "test.jsonl"),
            None if refused else known.get((BASE, TEST)), None if refused else known.get((arm, TEST)),
            refused or (None if (arm, TEST) in known and (BASE, TEST) in known else "its scores are not there."),
        )
        for arm in arms
    ]  # fmt: skip


def _named(entries: Sequence[Entry]) -> list[Entry]:
    """Each under a name of its own."""
    count: dict[str, int] = {}
    named = []
    for entry in entries:
        count[entry.name] = count.get(entry.name, 0) + 1
        twice = count[entry.name] > 1
        named.append(dataclasses.replace(entry, name=f"{entry.name} ({count[entry.name]})") if twice else entry)
    return named


def _mapping(path: Path) -> dict[str, Any] | None:
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) else None


def _seconds(path: Path) -> float | None:
    last = None
    for row in read_rows(path) if path.is_file() else ():
        last = row.get("seconds")
    return float(last) if isinstance(last, int | float) else None


def _texts(path: Path) -> dict[str, str]:
    """What each test document says, as a hash by its name."""
    return {d.id: hashlib.sha256(d.text.encode()).hexdigest() for d in each_document(path)} if path.is_file() else {}


# ---- what is the same ----


def _in_common(live: Sequence[Entry]) -> tuple[list[str], list[tuple[Arm, Arm]], list[str], Measure]:
    """The documents that all runs scored, both arms of each run on them, what differs, and in what the gains can be measured."""
    arms = [(entry.base, entry.tuned) for entry in live]
    assert all(base is not None and tuned is not None for base, tuned in arms)
    held = [dict(zip(tuned.documents, tuned.n_bytes.tolist(), strict=True)) for _, tuned in arms if tuned is not None]
    same = [
        name
        for name in held[0]
        if all(other.get(name) == held[0][name] for other in held) and len({entry.texts.get(name) for entry in live}) == 1
    ]
    differs = _origins(live)
    if any(len(other) != len(same) for other in held):
        each = ", ".join(f"{entry.name} has {len(other)}" for entry, other in zip(live, held, strict=True))
        differs.append(f"Test documents: {len(same)} are the same in all runs ({each}).")
    if not same:
        raise ComparisonRefused(
            "compare/no-common", f"The runs have no test document in common, so nothing can be compared. {' '.join(differs)}"
        )
    taken = [(base.take(same), tuned.take(same)) for base, tuned in arms if base is not None and tuned is not None]
    wrong = _base_scores(live, [base for base, _ in taken])
    differs += wrong
    by_token = not wrong and not any(line.startswith(("Base:", "Tokenizer:")) for line in differs)
    return same, taken, differs, "nats a token" if by_token else "bits per byte"


def _origins(live: Sequence[Entry]) -> list[str]:
    """Which recorded facts are not the same; what a run has not recorded does not count, for its scores are compared as well."""
    found = []
    for title, key, shown_as in (
        ("Base", "base_sha256", "base"),
        ("Tokenizer", "tuned_tokenizer_sha256", None),
        ("Context", "context_tokens", "context_tokens"),
    ):
        values = {entry.origin.get(key) for entry in live} - {None}
        if len(values) > 1:
            each = ", ".join(f"{entry.name} {_short(entry.origin, key, shown_as)}" for entry in live)
            found.append(f"{title}: not the same ({each}).")
    return found


def _short(origin: Mapping[str, Any], key: str, shown_as: str | None) -> str:
    value, name = origin.get(key), origin.get(shown_as or "")
    digest = f" {value[:8]}" if isinstance(value, str) else "" if shown_as == key else f" {value}"
    return f"{Path(str(name)).name if name is not None else ''}{digest}".strip() or "not recorded"


def _base_scores(live: Sequence[Entry], bases: Sequence[Arm]) -> list[str]:
    """Does every run's base score the common documents as the first run's does, token by token?"""
    found = []
    for entry, base in zip(live[1:], bases[1:], strict=True):
        if not np.array_equal(base.n_tokens, bases[0].n_tokens):
            found.append(f"Tokens: {entry.name} counts others in the same documents than {live[0].name}.")
            continue
        floor = max(entry.floor_nats, live[0].floor_nats)
        seen = identical(bases[0].tokens, base.tokens, floor)
        if seen.status == "different":
            found.append(f"Base scores: {entry.name} and {live[0].name} differ by up to {seen.largest_difference_nats:.3g} nats on a token, so their bases were not measured alike.")  # fmt: skip
    return found


def _without_perplexity(family: Family) -> Family:
    """In bits per byte no sentence speaks of perplexity, which is not comparable there."""
    zero = "The simultaneous 95 % interval holds zero."
    plain = (dataclasses.replace(c, reason=zero) if "perplexity" in c.reason else c for c in family.candidates)
    return dataclasses.replace(family, candidates=tuple(plain))


# ---- what each run says ----


def _row(entry: Entry, price_per_hour: float | None) -> Row:
    v, t = entry.verdict, entry.training or {}
    if v is None:
        return Row(entry.name, None, entry.refused, (), *(None,) * 13)
    gain, style, kept = v["fit"]["gain"], v["style"], v["retention"]
    return Row(
        entry.name, str(v["verdict"]), entry.refused, tuple(vetoes(v)), gain["perplexity_change_percent"], gain["perplexity_change_ci95"],
        v["fit"]["n_documents"], style["closer"], style["gap_closed"], style["ci95"], v["originality"]["longest_span_words"],
        kept["neutral_perplexity_change_percent"], kept["forgot"], entry.seconds, t.get("tokens"), t.get("trainable_parameters"),
        cost(entry.seconds, price_per_hour),
    )  # fmt: skip


def _recipes(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """Options that are not the same in all runs, in the order of the recipe, one value a run."""
    trees = [entry.recipe.model_dump(mode="json") for entry in entries]
    found = {}
    for name, _ in recipes.options():
        if name in _NOT_SETTINGS:
            continue
        values = []
        for tree in trees:
            value: Any = tree
            for part in name.split("."):
                value = value[part]
            values.append(value)
        if any(value != values[0] for value in values):
            found[name] = values
    return found


def best(found: SideBySide) -> tuple[str, Verdict, str]:
    """The adapter with the largest gain, whether it is shown to be better than the next, and the sentence."""
    ranked = sorted(found.family.candidates, key=lambda c: -c.nats_per_token)
    ahead = next(c for c in found.pairs.candidates if c.name == f"{ranked[0].name} over {ranked[1].name}")
    said = {
        "improved": f"{ranked[0].name} is better than {ranked[1].name}, the next", "equivalent": f"{ranked[0].name} and {ranked[1].name} are equivalent",
        "worse": f"{ranked[0].name} gains more over its base, but {ranked[1].name} finds the text likelier",
    }.get(ahead.verdict, f"{ranked[0].name} has the largest gain, but is not shown to be better than {ranked[1].name}")  # fmt: skip
    return ranked[0].name, ahead.verdict, f"{said}."
