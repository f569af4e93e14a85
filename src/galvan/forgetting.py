"""What tuning changed on text that has nothing to do with the author, and on the author's own: from `retention.parquet`, no torch.

Documents are the unit, intervals a jackknife with Student's t. The bands of KL are labels for people, not verdicts; forgetting is judged
by the perplexity of neutral text alone (METHODS S6.2, S6.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galvan.data.neutral import FEWEST, SHARED_RUN
from galvan.errors import DataError
from galvan.rundir import SCHEMA_VERSION, read_rows
from galvan.statistics.ratio import Interval, Ratio, percent_of_perplexity, ratio

NEUTRAL, AUTHOR = "neutral", "author"
BANDS = (
    (0.005, "barely changed"),
    (0.02, "like a good 5- to 8-bit quantisation"),
    (0.1, "like a 4-bit quantisation or a little more"),
    (0.5, "clearly changed"),
    (float("inf"), "a different model"),
)
FEWEST_DOCUMENTS = 5
INACTIVE_NATS = 1e-6  # KL on the author's own text: rounding, so the adapter does nothing (METHODS S6.4, C6.3)

Kept = Literal["forgetting", "kept", "not shown"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over tokens and its 95 % interval by document, None where the documents cannot give one."""

    value: float
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Change:
    """Base and tuned on one kind of text. KL and entropies in nats a token; `perplexity_change_percent` positive = tuned finds it less likely.

    `top1_agreement` is the share of tokens where both find the same one likeliest.
    """

    kind: str
    n_documents: int
    n_tokens: int
    kl_nats: Figure
    reverse_kl_nats: Figure
    entropy_change_nats: Figure
    top1_agreement: Figure
    perplexity_change_percent: Figure
    perplexity_change_ci90: Interval | None
    base_perplexity: float
    tuned_perplexity: float
    band: str
    registers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One task and metric of lm-eval: means over the items, and the paired difference tuned minus base."""

    task: str
    metric: str
    n_items: int
    base: float
    tuned: float
    difference: Figure


@dataclass(frozen=True, slots=True)
class Retention:
    """`retention.json`. `answer` is None with the `reason` where nothing was measured; `tasks` are those of lm-eval, if any were asked for."""

    schema_version: int
    answer: Kept | None
    reason: str
    neutral: Change | None
    author: Change | None
    tasks: list[Item]
    cautions: list[str]

    @property
    def forgot(self) -> bool | None:
        """None where neither forgetting nor keeping was shown."""
        return {"forgetting": True, "kept": False}.get(self.answer or "")


def judge_retention(folder: Path, limit_percent: float) -> Retention:
    """From a run's `retention.parquet` and `lm_eval.jsonl`; without the first, an answer of None that says why."""
    tasks = [_item(*key, rows) for key, rows in _tasks(folder / "lm_eval.jsonl").items()]
    path = folder / "retention.parquet"
    if not path.is_file():
        return Retention(
            SCHEMA_VERSION, None, "Base and tuned were not compared on neutral text in this run.", None, None, tasks, []
        )
    rows, reason, n_related = read_retention(path)
    if not rows:
        return Retention(SCHEMA_VERSION, None, reason, None, None, tasks, [])
    neutral, author = change(rows, NEUTRAL), change(rows, AUTHOR)
    answer, why = answer_of(neutral, limit_percent)
    few = neutral is not None and neutral.n_documents < FEWEST
    cautions = [f"Only {neutral.n_documents} neutral documents: {FEWEST} are asked for."] if neutral and few else []
    if n_related:
        cautions.append(
            f"{n_related} neutral documents were left out: {SHARED_RUN} words in a row of each stand in the training text."
        )
    if author is not None and author.kl_nats.value <= INACTIVE_NATS:
        cautions.append("On the author's text base and tuned give every word the same probability: the adapter is not active.")
    return Retention(SCHEMA_VERSION, answer, why, neutral, author, tasks, cautions)


def read_retention(path: Path) -> tuple[list[dict[str, Any]], str, int]:
    """The rows, why there is none, and how many neutral documents were left out; DataError where the file is damaged."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        n_related = int(metadata.get(b"n_related", b"0"))
        rows: list[dict[str, Any]] = table.to_pylist()
        if rows:
            _ = [rows[0][name] for name in ("kind", "register", "n_tokens", *_SUMS)]
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise DataError("run/damaged", f"{path.name}: not readable as retention; delete the file and run again.") from None
    reason = metadata.get(b"reason", b"").decode("utf-8") or "No document was compared."
    return rows, reason, n_related


_SUMS = (
    "kl_nats", "reverse_kl_nats", "base_entropy_nats", "tuned_entropy_nats", "agreements", "base_nll_nats", "tuned_nll_nats",
)  # fmt: skip


def change(rows: Sequence[Mapping[str, Any]], kind: str) -> Change | None:
    """The documents of one kind, judged; None if there is none."""
    rows = [row for row in rows if row["kind"] == kind]
    if not rows:
        return None
    tokens = np.array([row["n_tokens"] for row in rows], dtype=np.float64)
    sums = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in _SUMS}
    kl = ratio(sums["kl_nats"], tokens)
    rise = ratio(sums["tuned_nll_nats"] - sums["base_nll_nats"], tokens)
    total = tokens.sum()
    registers = sorted({row["register"] for row in rows if row["register"]})
    return Change(
        kind, len(rows), int(total), _figure(kl), _figure(ratio(sums["reverse_kl_nats"], tokens)),
        _figure(ratio(sums["tuned_entropy_nats"] - sums["base_entropy_nats"], tokens)), _figure(ratio(sums["agreements"], tokens)),
        Figure(percent_of_perplexity(-rise.value), _percent(rise.interval())), _percent(rise.interval(0.90)),
        float(np.exp(sums["base_nll_nats"].sum() / total)), float(np.exp(sums["tuned_nll_nats"].sum() / total)),
        band(kl.value), {name: _mean([row for row in rows if row["register"] == name]) for name in registers},
    )  # fmt: skip


def _figure(r: Ratio) -> Figure:
    return Figure(r.value, r.interval())


def _percent(nats: Interval | None) -> Interval | None:
    return nats and Interval(percent_of_perplexity(-nats.low), percent_of_perplexity(-nats.high))


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(row["kl_nats"] for row in rows) / sum(row["n_tokens"] for row in rows))


def band(kl_nats: float) -> str:
    """How people may picture a KL(base || tuned) in nats a token; anchors from llama.cpp's quantisations (METHODS 6)."""
    return next(label for above, label in BANDS if kl_nats < above)


def answer_of(neutral: Change | None, limit_percent: float) -> tuple[Kept | None, str]:
    """forgetting: the 95 % interval of the rise lies above the limit. kept: the 90 % one lies within it on both sides (TOST at 5 %)."""
    if neutral is None:
        return None, "No neutral document was compared."
    rise, ci90 = neutral.perplexity_change_percent, neutral.perplexity_change_ci90
    if rise.ci95 is None or ci90 is None or neutral.n_documents < FEWEST_DOCUMENTS:
        return None, f"Too few neutral documents ({neutral.n_documents}) for an interval; {FEWEST_DOCUMENTS} are needed."
    said = f"Perplexity on neutral text {rise.value:+.2f} % (95 % {rise.ci95.low:+.2f} to {rise.ci95.high:+.2f})"
    if rise.ci95.low > limit_percent:
        return "forgetting", f"{said}: surely more than the {limit_percent:g} % that were called forgetting."
    if -limit_percent < ci90.low and ci90.high < limit_percent:
        return "kept", f"{said}: surely within {limit_percent:g} % either way."
    return "not shown", f"{said}: neither a rise above {limit_percent:g} % nor equality within it is shown."


def _tasks(path: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_rows(path) if path.is_file() else ():
        groups.setdefault((str(row.get("task")), str(row.get("metric"))), []).append(row)
    return groups


def _item(task: str, metric: str, rows: Sequence[Mapping[str, Any]]) -> Item:
    base, tuned = (np.array([float(row[arm]) for row in rows]) for arm in ("base", "tuned"))
    return Item(task, metric, len(rows), float(base.mean()), float(tuned.mean()), _figure(ratio(tuned - base, np.ones(len(rows)))))
