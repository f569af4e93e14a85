"""Pairing, controls and the scores file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galvan.compare import compare, noise_floor, read_scores
from galvan.errors import ComparisonRefused, DataError
from galvan.statistics.paired import paired_gain
from synthetic import Plan, documents, make, score_row, score_rows, write_scores

Rows = list[dict[str, Any]]


def rows_of(plan: Plan) -> Rows:
    parts = {name: documents(plan, name, n) for name, n in (("train", plan.train), ("test", plan.documents))}
    return list(score_rows(plan, parts, np.random.default_rng(plan.seed)))


def scored(path: Path, change: Callable[[Rows], object] = lambda rows: None, plan: Plan | None = None) -> Path:
    rows = rows_of(plan or Plan())
    change(rows)
    write_scores(path / "scores.parquet", rows)
    return path / "scores.parquet"


def of(rows: Rows, arm: str, split: str = "test") -> Rows:
    return [row for row in rows if row["arm"] == arm and row["split"] == split]


def test_gain_and_bits_are_those_worked_by_hand(tmp_path: Path) -> None:
    """Two tokens a document: base 2 and 2 nats, tuned 1 and 2 (then 2 and 2): D = 1, 0, ... over 12 documents.

    r = 6 / 24 = 0.25 nats a token; perplexity e^2 = 7.389 to e^1.75 = 5.755; 48 nats over 96 bytes are 48 / (96 ln 2) bits a byte.
    """
    rows = []
    for i, document in enumerate(documents(Plan(), "test", 12)):
        rows += [score_row("base", document, "test", [2.0, 2.0]), score_row("tuned", document, "test", [1.0 + i % 2, 2.0])]
    write_scores(tmp_path / "scores.parquet", rows)
    found = compare(tmp_path / "scores.parquet", 0.01)
    assert found.test is not None and found.bits is not None
    assert found.test.nats_per_token == 0.25
    assert found.test.base_perplexity == pytest.approx(math.e**2) and found.test.tuned_perplexity == pytest.approx(math.e**1.75)
    assert found.bits.base_bits_per_byte == pytest.approx(48 / (96 * math.log(2)))
    assert found.probe is None and found.probe_reason == "No training document was scored."


def test_neighbours_of_one_source_are_clustered_in_blocks_as_paired_gain_does(tmp_path: Path) -> None:
    found = compare(scored(tmp_path), 0.01).test
    rows = rows_of(Plan())
    base, tuned = of(rows, "base"), of(rows, "tuned")
    expected = paired_gain(
        [r["nll_nats"] for r in base], [r["nll_nats"] for r in tuned], [r["n_tokens"] for r in base],
        sources=[r["source"] for r in base], positions=[r["position"] for r in base],
    )  # fmt: skip
    assert found == expected and found is not None and found.unit == "block"


def test_tokens_that_stay_in_a_file_are_those_of_the_rows_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galvan.compare._HELD", 1)
    monkeypatch.setattr("galvan.compare._ROWS", 5)
    arm, rows = read_scores(scored(tmp_path))["tuned", "test"], of(rows_of(Plan()), "tuned")
    expected = {row["document"]: np.float32(row["token_nll_nats"]).tolist() for row in rows}
    shuffled = np.random.default_rng(0).permutation(arm.documents).tolist()
    for order in (arm.documents, arm.documents[::-1], shuffled, shuffled[:3]):
        taken = arm.take(order)
        assert [tokens.tolist() for tokens in taken.tokens] == [expected[name] for name in order]
        assert [taken.tokens[i].tolist() for i in range(len(order))] == [expected[name] for name in order]


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    plain = compare(scored(tmp_path), 0.01)
    shuffled = compare(
        scored(tmp_path, lambda rows: rows.sort(key=lambda r: (r["arm"] == "base", -r["position"], r["split"]))), 0.01
    )
    assert plain.test is not None and shuffled.test is not None
    assert shuffled.test.ci95 == pytest.approx(plain.test.ci95)
    assert shuffled.controls["random_b"].gain_nats_per_token == pytest.approx(plain.controls["random_b"].gain_nats_per_token)


def test_train_probe_and_held_out_gains_stand_side_by_side_with_their_difference(tmp_path: Path) -> None:
    found = compare(scored(tmp_path, plan=Plan(gain_nats=0.05, probe_gain_nats=0.5)), 0.01)
    assert found.probe is not None and found.test is not None and found.probe_minus_test is not None
    assert found.probe_minus_test.value == pytest.approx(found.probe.nats_per_token - found.test.nats_per_token)
    assert found.probe_minus_test.ci95 is not None and found.probe_minus_test.ci95.low > 0.3


def test_all_controls_pass_on_a_healthy_run_and_style_is_not_claimed(tmp_path: Path) -> None:
    controls = compare(scored(tmp_path), 0.01).controls
    assert {name: control.status for name, control in controls.items()} == {
        "base_vs_base": "ok", "zero_adapter": "ok", "random_b": "ok", "shuffled_text": "ok", "shuffled_author": None,
    }  # fmt: skip
    assert "not measured" in controls["shuffled_author"].reason


def shift(arm: str, nats: float, like: str | None = None) -> Callable[[Rows], None]:
    """Give `arm` the tokens of `like` (default its own) plus `nats` each."""

    def change(rows: Rows) -> None:
        source = {r["document"]: r for r in of(rows, like or arm)}
        for row in of(rows, arm):
            row["token_nll_nats"] = [float(np.float32(v + nats)) for v in source[row["document"]]["token_nll_nats"]]
            row["nll_nats"] = sum(row["token_nll_nats"])

    return change


@pytest.mark.parametrize(
    ("change", "control", "says"),
    [
        (shift("base_again", 0.01), "base_vs_base", "differs from itself"),
        (shift("zero_adapter", 0.01), "zero_adapter", "changes the model"),
        (shift("random_b", 0.0, "base"), "random_b", "changes nothing"),
        (shift("random_b", -0.5, "base"), "random_b", "improves on the base"),
    ],
)
def test_a_failed_control_refuses_the_comparison_and_withholds_every_gain(
    tmp_path: Path, change: Callable[[Rows], None], control: str, says: str
) -> None:
    found = compare(scored(tmp_path, change), 0.01)
    assert found.controls[control].status == "failed" and says in found.controls[control].reason
    assert found.refusal is not None and says in found.refusal
    assert (found.test, found.bits, found.probe, found.bottleneck, found.probe_minus_test) == (None,) * 5


def test_a_control_lets_rounding_pass(tmp_path: Path) -> None:
    """2e-6 nats on every token has an interval that excludes zero, and means nothing."""
    assert compare(scored(tmp_path, shift("base_again", 2e-6, "base")), 0.01).controls["base_vs_base"].status == "ok"


def test_a_random_adapter_that_helps_by_less_than_the_margin_is_chance(tmp_path: Path) -> None:
    assert compare(scored(tmp_path, shift("random_b", -0.005, "base")), 0.01).controls["random_b"].status == "ok"


def test_controls_that_were_not_run_are_null_with_a_reason(tmp_path: Path) -> None:
    def drop(rows: Rows) -> None:
        rows[:] = [row for row in rows if row["arm"] in ("base", "tuned") and row["split"] != "test_shuffled"]

    controls = compare(scored(tmp_path, drop), 0.01).controls
    assert [control.status for control in controls.values()] == [None] * 5
    assert controls["zero_adapter"].reason == "Arm `zero_adapter` was not scored in this run."


def test_one_model_measured_twice_is_refused_before_any_statistic(tmp_path: Path) -> None:
    found = compare(scored(tmp_path, shift("tuned", 0.0, "base")), 0.01)
    assert found.identity.status == "identical" and found.test is None
    assert found.refusal is not None and "measured twice" in found.refusal


def test_the_document_with_the_largest_difference_is_named(tmp_path: Path) -> None:
    assert compare(scored(tmp_path), 0.01).identity.reason.startswith("Document letter-test-")


def first(arm: str, **fields: Any) -> Callable[[Rows], None]:
    return lambda rows: of(rows, arm)[0].update(fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.remove(of(rows, "tuned")[3]), "letter-test-3"),
        (lambda rows: rows.remove(of(rows, "base")[3]), "letter-test-3"),
        (first("tuned", n_tokens=3, token_nll_nats=[1.0, 1.0, 1.0], nll_nats=3.0), "letter-test-0 has 230 tokens"),
        (first("tuned", n_bytes=5), "letter-test-0 has 230 tokens and 920 bytes"),
        (lambda rows: [rows.remove(row) for row in of(rows, "tuned")], "no test documents under `tuned`"),
    ],
)
def test_arms_that_were_not_scored_on_the_same_tokens_are_refused_by_name(
    tmp_path: Path, change: Callable[[Rows], Any], says: str
) -> None:
    with pytest.raises(ComparisonRefused, match=says):
        compare(scored(tmp_path, change), 0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first("base", n_tokens=7), "7 tokens are announced, 230 are there"),
        (first("base", nll_nats=1.0), "the tokens add up to"),
        (first("base", nll_nats=math.nan), "not finite"),
        (first("base", n_bytes=0), "in 0 bytes"),
        (first("base", source=None), "`source` is missing"),
        (lambda rows: rows.append(dict(of(rows, "base")[0])), "letter-test-0 stands twice under `base`"),
        (lambda rows: rows.clear(), "holds no row"),
    ],
)
def test_a_scores_file_that_contradicts_itself_is_named_with_its_row(
    tmp_path: Path, change: Callable[[Rows], Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        compare(scored(tmp_path, change), 0.01)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 500 + b"PAR1", b"{}"])
def test_a_file_that_is_no_parquet_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"scores\.parquet"):
        read_scores(path)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_truncated_scores_file_is_a_data_error(tmp_path: Path, cut: float) -> None:
    path = scored(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(DataError):
        read_scores(path)


def test_the_noise_floor_is_measured_where_it_was_and_never_below_float32_rounding(tmp_path: Path) -> None:
    from galvan.rundir import read_json

    integrity = read_json(make(tmp_path) / "integrity.json")
    assert noise_floor(integrity)[0] == 1e-5 == noise_floor(None)[0]
    integrity["function"]["batch_nats"] = 0.25
    assert noise_floor(integrity)[0] == 0.25
    assert "Not measured" in noise_floor(None)[1]


def test_comparisons_are_plain_records(tmp_path: Path) -> None:
    found = compare(scored(tmp_path), 0.01)
    assert dataclasses.asdict(found)["controls"]["zero_adapter"]["status"] == "ok"
