"""A run's originality from its files: samples.jsonl against data/train.jsonl, extraction.parquet, and the gains in scores.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from galvan.compare import BASE, TEST, TRAIN, TUNED, Comparisons, paired, read_scores
from galvan.copying.memorising import Extraction, Membership, extraction, membership, read_extraction
from galvan.copying.originality import HUMAN, Originality, Text, judge_sets
from galvan.errors import DataError
from galvan.rundir import SCHEMA_VERSION, Document, read_rows

DISTRIBUTION = "distribution"  # the samples at temperature 1 and top_p 1, which speak for the model itself


@dataclass(frozen=True, slots=True)
class Copying:
    """`originality.json` of a run; what was not measured is None or empty, and `reason` says why there are no spans."""

    schema_version: int
    originality: Originality | None
    extraction: list[Extraction]
    membership: Membership | None
    reason: str | None


def judge_copying(
    folder: Path, documents: Mapping[str, Sequence[Document]], comparisons: Comparisons | None, margin: float, seed: int
) -> Copying:
    """Everything about copying that the files of `folder` tell; `documents` by split. DataError where a file is damaged."""
    rng = np.random.default_rng(seed)
    path = folder / "extraction.parquet"
    known = extraction(read_extraction(path), rng) if path.is_file() else []
    spans, reason = _spans(folder / "samples.jsonl", documents)
    return Copying(SCHEMA_VERSION, spans, known, _membership(folder, comparisons, margin, rng), reason)


def _spans(path: Path, documents: Mapping[str, Sequence[Document]]) -> tuple[Originality | None, str | None]:
    train, held_out = documents["train"], documents["test"]
    if not path.is_file():
        return None, "No text was generated in this run."
    if not any(d.text.strip() for d in train):
        return None, "The training text is not at hand, so nothing could be looked up in it."
    arms = _texts(path)
    if not arms.get(TUNED):
        return None, "samples.jsonl holds no text of the tuned model."
    sets = {name: arms[name] for name in (TUNED, BASE) if arms.get(name)}
    sets[HUMAN] = [Text(d.id, d.text) for d in held_out]
    return judge_sets([Text(d.id, d.text) for d in train], sets), None


def _texts(path: Path) -> dict[str, list[Text]]:
    """What each arm wrote at temperature 1; where no row says so by its settings, all of it."""
    rows = list(read_rows(path))
    try:
        plain = [row for row in rows if (row["settings"] or {}).get("name") == DISTRIBUTION] or rows
        found: dict[str, list[Text]] = {}
        for row in plain:
            found.setdefault(str(row["arm"]), []).append(Text(_name(row), str(row["text"])))
    except (KeyError, TypeError, AttributeError):
        raise DataError("run/damaged", f"{path.name}: a row lacks arm, text or settings; delete the file and run again.") from None
    return found


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['prompt_id']} #{row['sample']}"


def _membership(folder: Path, comparisons: Comparisons | None, margin: float, rng: np.random.Generator) -> Membership | None:
    """None where the comparison is refused, the tokenizers differ or no training document was scored."""
    if comparisons is None or comparisons.probe is None:
        return None
    scores = read_scores(folder / "scores.parquet")
    gains = []
    for split in (TRAIN, TEST):
        base, tuned = paired(scores, TUNED, split)
        gains.append((base.nll_nats - tuned.nll_nats) / base.n_tokens)
    return membership(gains[0], gains[1], comparisons.probe_minus_test, margin, rng)
