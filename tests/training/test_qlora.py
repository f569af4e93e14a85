"""QLoRA from end to end on the CPU: trained on nf4 with double quantisation, judged with both arms on that same quantised base (A12)."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processes import galvan
from test_resume import RECIPE, make_inputs

SETTINGS = (
    "--set",
    "model.quantization=nf4",
    "--set",
    "training.lora.dropout=0",
    "--set",
    "model.base=galvan/spark",  # a base that knows something: one that knows nothing may gain from an adapter of random numbers, a control
    "--set",
    "evaluation.score_eos=true",  # apart, and no part of either
    "--set",
    "generation.documents=2",
    "--set",
    "generation.max_new_tokens=8",
)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw8bit"])
def test_a_quantised_base_trains_and_is_judged_against_itself(optimizer: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="galvan[qlora] is not installed")
    inputs = make_inputs(tmp_path / "w")
    assert "dtype: float32" in RECIPE
    done = galvan("run", "recipe.yaml", *SETTINGS, "--set", f"training.optimizer={optimizer}", cwd=inputs)
    said, run = " ".join((done.out + done.err).split()), inputs / "runs/small"
    assert done.code in (0, 1, 6), said
    assert "in 4 bits (nf4, its scales quantised once more)" in said, said
    verdict = json.loads((run / "verdict.json").read_text())
    a12 = next(finding for finding in verdict["findings"] if finding["code"] == "A12")
    assert a12["status"] == "absent", a12
    assert {name: state for name, state in verdict["controls"].items() if state == "failed"} == {}
    trace = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    assert trace[-1]["loss_nats"] < trace[0]["loss_nats"] - 0.05
    assert all(one["delta_ratio"] > 0 for one in trace[-1]["modules"].values())
    rows = pq.read_table(run / "scores.parquet").to_pylist()
    # the base of record is the quantised one: exactly what the adapter's own start gave, and not what the base in float32 gives
    base = {row["document"]: row["nll_nats"] for row in rows if (row["arm"], row["split"]) == ("base", "train")}
    curves = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    start = {row["document"]: row["nll_nats"] for row in curves if (row["step"], row["set"]) == (0, "probe")}
    shared = base.keys() & start.keys()
    assert shared
    for document in shared:
        assert start[document] == pytest.approx(base[document], rel=0.02)
