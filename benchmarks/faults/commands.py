"""More of galvan's commands on what a case spoilt: an audit that is told more, a check of an export, figures from another program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import ground
from benchmarks.faults.place import Place, Said, _content, _found

Sums = tuple[np.ndarray, np.ndarray]


def audited(place: Place, base: Any, tuned: Any, **told: Any) -> Said:
    """`galvan.audit` with what a person would tell it beside the objects: figures, a generating function, the adapter's folder."""
    import galvan

    audit = galvan.audit(base=base, tuned=tuned, tokenizer=place.tokenizer(), **told)
    return dataclasses.replace(_found(audit.findings), peft_content=_content(tuned))


def checked(place: Place, adapter: Path, exported: Path) -> Said:
    """`galvan check BASE ADAPTER --exported FOLDER`."""
    from galvan.pipeline import check
    from galvan.recipe import Model

    model = Model(device="cpu", dtype="float32")
    return _found(check(place.base, adapter, offline=True, model=model, exported=exported).findings)


def evaluated(place: Place, adapter: Path, figures: Mapping[str, float], base: Path | str | None = None) -> Said:
    """`galvan evaluate BASE ADAPTER --data FILE --reported ARM=VALUE`."""
    import galvan

    settings = [f"data.document_tokens={ground.DOCUMENT_TOKENS}", "model.device=cpu", "model.dtype=float32"]
    return place._asked(
        lambda: galvan.evaluate(
            base or place.base, adapter, place.test_file(), out=place.folder / "evaluated", settings=settings, offline=True, reported=figures
        )
    )  # fmt: skip


def test_texts(place: Place) -> list[str]:
    """The documents that the healthy run held out."""
    return [json.loads(line)["text"] for line in place.test_file().read_text(encoding="utf-8").splitlines()]


def reported(place: Place, figures: Callable[[Sums, Sums], Mapping[str, Any]]) -> Said:
    """The healthy run, judged again beside the figures that a person made of its own scores: of NLL sums in nats and targets, each [n],
    of base and tuned."""
    folder = place.finished()
    base, tuned = (scores(folder, arm) for arm in ("base", "tuned"))
    (folder / "reported.json").write_text(json.dumps(figures(base, tuned)), encoding="utf-8")
    return place.judge_again()


def scores(folder: Path, arm: str) -> Sums:
    """NLL sums in nats and targets of a run's test documents, each [n]."""
    rows = _scored(folder, arm)
    return np.array([row["nll_nats"] for row in rows]), np.array([row["n_tokens"] for row in rows])


def token_nll(folder: Path, arm: str) -> np.ndarray:
    """NLL in nats of every scored token of the test documents."""
    return np.concatenate([np.asarray(row["token_nll_nats"], dtype=np.float64) for row in _scored(folder, arm)])


def _scored(folder: Path, arm: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for row in pq.read_table(folder / "scores.parquet").to_pylist() if row["arm"] == arm and row["split"] == "test"]


def perplexity(sums: Sums) -> float:
    return float(np.exp(sums[0].sum() / sums[1].sum()))
