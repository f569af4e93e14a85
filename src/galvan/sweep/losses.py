"""What a trial came to on the validation documents, read from its files: the documents that choose, never those that judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from galvan.errors import DataError
from galvan.rundir import read_documents, read_json, read_rows
from galvan.text import shown

FILES = {"validation": "validation.jsonl", "probe": "train.jsonl"}
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Losses:
    """NLL sums in nats [n] of the validation documents under the base (`base`) and with the weights that were kept (`tuned`), at
    `step`; `seconds` is what training took."""

    documents: tuple[str, ...]
    sources: tuple[str, ...]
    positions: tuple[int, ...]
    n_tokens: FloatArray
    base: FloatArray
    tuned: FloatArray
    step: int
    seconds: float | None = None

    @property
    def nats_per_token(self) -> float:
        """Mean NLL in nats a token with the weights that were kept: what a sweep makes small."""
        return float(self.tuned.sum() / self.n_tokens.sum())


def by_step(rows: Sequence[Mapping[str, Any]], part: str = "validation") -> dict[int, dict[str, tuple[float, int]]]:
    """Step to document to (NLL in nats, tokens) of the validation (or probe) rows of curves.jsonl."""
    found: dict[int, dict[str, tuple[float, int]]] = {}
    for row in rows:
        if row["set"] == part:
            found.setdefault(int(row["step"]), {})[str(row["document"])] = (float(row["nll_nats"]), int(row["n_tokens"]))
    return found


def read_losses(folder: Path, part: str = "validation") -> Losses:
    """The losses of a trained run, on validation or on probe documents. DataError where its files are damaged or it has no validation documents."""
    try:
        rows = list(read_rows(folder / "curves.jsonl"))
        points, base = by_step(rows, part), by_step(rows, f"{part}_base")
        kept = read_json(folder / "training.json").get("kept_step") or max(points)
        before, after = (base or points)[0], points[kept]  # step 0 is the base, unless training went on from an adapter
        seconds = [row["seconds"] for row in read_rows(folder / "training.jsonl")]
        documents = [d for d in read_documents(folder / "data" / FILES[part]) if d.id in before]
        nll = [(before[d.id], after[d.id]) for d in documents]
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError) as error:
        raise DataError(
            "run/damaged",
            f"{shown(str(folder))}: validation losses cannot be read ({shown(str(error), 80)}); delete the folder and run again.",
        ) from None
    if not documents:
        raise DataError(
            "sweep/no-validation",
            f"{shown(str(folder))}: there is no {part} document to choose by; set data.split.validation above 0.",
        )
    return Losses(
        tuple(d.id for d in documents), tuple(d.source for d in documents), tuple(d.position for d in documents),
        np.array([one[1] for one, _ in nll], dtype=np.float64), np.array([one[0] for one, _ in nll]), np.array([two[0] for _, two in nll]), kept,
        float(seconds[-1]) if seconds else None,
    )  # fmt: skip
