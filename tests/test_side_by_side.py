"""Several runs side by side: one family on common documents, or exactly what forbids it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from galvan import cli
from galvan.compare import read_scores
from galvan.errors import ComparisonRefused, RecipeError
from galvan.report import comparison, judge
from galvan.rundir import each_document, read_json, write_json, write_rows
from galvan.side_by_side import best, side_by_side
from galvan.statistics.multiple import judge_candidates
from synthetic import VARIANTS, make, write_scores


def judged(folder: Path, **changes: object) -> Path:
    plan = dataclasses.replace(VARIANTS["improved"], **changes)  # type: ignore[arg-type]
    judge(make(folder, plan))
    return folder


def retuned(folder: Path, like: Path, shift_nats: float, noise_nats: float = 0.02, seed: int = 5, **origin: object) -> Path:
    """A run with the base scores of `like`, whose adapter gains `shift_nats` a token more, with noise by document."""
    make(folder)
    rows = pq.read_table(like / "scores.parquet").to_pylist()
    rng, shifts = np.random.default_rng(seed), dict[str, float]()
    for row in rows:
        if row["arm"] == "tuned":
            shift = shifts.setdefault(row["document"], shift_nats + float(rng.normal(0, noise_nats)))
            tokens = np.asarray(row["token_nll_nats"], dtype=np.float32) - np.float32(shift)
            row |= {"token_nll_nats": tokens.tolist(), "nll_nats": float(tokens.astype(np.float64).sum())}
    write_scores(folder / "scores.parquet", rows)
    write_json(folder / "provenance.json", read_json(folder / "provenance.json") | origin)
    judge(folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One run, one clearly better, one hardly different from the first."""
    place = tmp_path_factory.mktemp("three")
    first = judged(place / "first")
    return [first, retuned(place / "better", first, 0.05), retuned(place / "alike", first, 0.0, 0.003)]


def test_the_gains_are_those_of_the_family_over_the_base(three: list[Path]) -> None:
    found = side_by_side(three)
    base = read_scores(three[0] / "scores.parquet")["base", "test"]
    tuned = {f.name: read_scores(f / "scores.parquet")["tuned", "test"].nll_nats for f in three}
    family = judge_candidates(
        base.nll_nats, tuned, base.n_tokens, np.random.default_rng(42), margin=0.01, sources=base.sources, positions=base.positions
    )
    assert (found.measure, found.n_documents, found.differs) == ("nats a token", 48, ())
    for ours, theirs in zip(found.family.candidates, family.candidates, strict=True):
        assert (ours.name, ours.verdict, ours.p_adjusted) == (theirs.name, theirs.verdict, theirs.p_adjusted)
        assert ours.nats_per_token == pytest.approx(theirs.nats_per_token) and ours.ci95 == pytest.approx(theirs.ci95)


def test_of_many_adapters_the_page_shows_the_pairs_of_the_first_and_an_adapter_a_line(
    three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MOST_PAIRS", 2)
    monkeypatch.setattr(comparison, "MOST_COLUMNS", 3)
    page = comparison.to_markdown(side_by_side(three), "s")
    assert "| better over first |" in page and "| better over alike |" in page and "Of 3 pairs those of better are shown" in page
    assert "| alike over first |" not in page and "| first over alike |" not in page
    assert "| Adapter | trained parameters |" in page


def test_every_pair_is_judged_and_the_answer_rests_on_it(three: list[Path]) -> None:
    found = side_by_side(three)
    pairs = {c.name: c for c in found.pairs.candidates}
    assert len(pairs) == 3
    assert pairs["better over first"].verdict == "improved" and pairs["better over first"].nats_per_token == pytest.approx(
        0.05, abs=0.01
    )
    assert pairs["better over alike"].verdict == "improved"
    assert pairs.get("alike over first", pairs.get("first over alike")).verdict == "equivalent"  # type: ignore[union-attr]
    assert best(found)[:2] == ("better", "improved")


def test_equal_adapters_are_not_called_better_than_each_other(tmp_path: Path) -> None:
    first = judged(tmp_path / "a")
    other = retuned(tmp_path / "b", first, 0.0, 0.03)
    assert best(side_by_side([first, other]))[1] in ("inconclusive", "equivalent")


def test_of_partly_common_documents_only_those_count_and_it_is_said(three: list[Path], tmp_path: Path) -> None:
    fewer = retuned(tmp_path / "fewer", three[0], 0.02)
    rows = [
        r
        for r in pq.read_table(fewer / "scores.parquet").to_pylist()
        if not (r["split"] == "test" and r["document"] < "letter-test-2")
    ]
    write_scores(fewer / "scores.parquet", rows)
    left = len(read_scores(fewer / "scores.parquet")["tuned", "test"].documents)
    found = side_by_side([three[0], fewer])
    assert 5 < left < 48 and found.n_documents == left and found.measure == "nats a token"
    assert any(
        line.startswith(f"Test documents: {left} are the same in all runs (first has 48, fewer has {left})")
        for line in found.differs
    )


def test_another_tokenizer_or_base_leaves_bits_per_byte_and_names_what_differs(three: list[Path], tmp_path: Path) -> None:
    other = retuned(tmp_path / "other", three[0], 0.05, tuned_tokenizer_sha256="e" * 64)
    write_json(three[0] / "provenance.json", read_json(three[0] / "provenance.json") | {"tuned_tokenizer_sha256": "c" * 64})
    found = side_by_side([three[0], other])
    assert found.measure == "bits per byte" and any(
        "Tokenizer: not the same (first cccccccc, other eeeeeeee)." in line for line in found.differs
    )
    a, b = (read_scores(f / "scores.parquet")["tuned", "test"] for f in (three[0], other))
    bits = float((a.nll_nats - b.nll_nats).sum() / np.log(2) / a.n_bytes.sum())
    assert {c.name: c.nats_per_token for c in found.pairs.candidates}["other over first"] == pytest.approx(bits)
    assert "perplexity" not in " ".join(c.reason for c in [*found.family.candidates, *found.pairs.candidates])
    based = retuned(tmp_path / "based", three[0], 0.05, base_sha256="f" * 64, base="other/base")
    assert any(
        "Base: not the same (first spark bbbbbbbb, based base ffffffff)." in line
        for line in side_by_side([three[0], based]).differs
    )


def test_a_base_that_was_measured_otherwise_is_seen_without_any_record(three: list[Path], tmp_path: Path) -> None:
    other = retuned(tmp_path / "other", three[0], 0.0)
    rows = pq.read_table(other / "scores.parquet").to_pylist()
    for row in rows:
        if row["arm"] == "base":
            tokens = np.asarray(row["token_nll_nats"], dtype=np.float32) + np.float32(0.01)
            row |= {"token_nll_nats": tokens.tolist(), "nll_nats": float(tokens.astype(np.float64).sum())}
    write_scores(other / "scores.parquet", rows)
    found = side_by_side([three[0], other])
    assert found.measure == "bits per byte" and "Base scores: other and first differ by up to 0.01 nats" in found.differs[0]


def test_the_same_names_over_other_texts_are_no_common_documents(three: list[Path], tmp_path: Path) -> None:
    other = retuned(tmp_path / "other", three[0], 0.0)
    path = other / "data" / "test.jsonl"
    write_rows(path, [dataclasses.replace(d, text=d.text.replace("dreary", "bright")) for d in each_document(path)])
    with pytest.raises(ComparisonRefused, match="no test document in common"):
        side_by_side([three[0], other])


def test_a_refused_run_is_left_out_and_two_must_remain(three: list[Path], tmp_path: Path) -> None:
    judge(make(tmp_path / "dead", "dead"))
    found = side_by_side([*three, tmp_path / "dead"])
    dead = found.runs[3]
    assert (
        len(found.family.candidates) == 3 and dead.verdict == "refused" and dead.refused and dead.perplexity_change_percent is None
    )
    assert "dead is left out" in comparison.to_markdown(found, best(found)[2])
    with pytest.raises(ComparisonRefused, match=r"1 of 2 can be\. dead: "):
        side_by_side([three[0], tmp_path / "dead"])
    (tmp_path / "dead" / "verdict.json").unlink()
    (tmp_path / "dead" / "scores.parquet").unlink()
    with pytest.raises(RecipeError, match="is not judged yet"):
        side_by_side([three[0], tmp_path / "dead"])


def test_the_adapters_of_a_score_are_compared_with_a_run(three: list[Path], tmp_path: Path) -> None:
    scored = make(tmp_path / "scored")
    rows = [
        r for r in pq.read_table(three[1] / "scores.parquet").to_pylist() if r["arm"] in ("base", "tuned") and r["split"] == "test"
    ]
    write_scores(scored / "scores.parquet", [r | {"arm": "/somewhere/adapters/x" if r["arm"] == "tuned" else "base"} for r in rows])
    found = side_by_side([three[0], scored])
    assert [c.name for c in found.family.candidates] == ["first", "x"] and found.runs[1].verdict is None
    assert best(found)[0] == "x"


def test_differences_of_the_recipes_costs_and_names_are_shown(three: list[Path], tmp_path: Path) -> None:
    other = judged(tmp_path / "first", settings=("training.lora.rank=32", "data.source=/home/someone/book.csv"), steps=168)
    found = side_by_side([three[0], other], price_per_hour=3600.0)
    assert [row.name for row in found.runs] == ["first", "first (2)"]
    assert found.recipe["training.lora.rank"] == [8, 32] and "name" not in found.recipe
    assert [row.cost for row in found.runs] == [28.0, 56.0]  # a second costs 1; 84 and 168 steps, three a second
    text = comparison.to_markdown(found, best(found)[2])
    assert "| training.lora.rank | 8 | 32 |" in text and "someone" not in text and "book.csv" in text


def test_the_command_writes_table_page_and_markdown_and_prints_one_json(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def galvan(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["galvan", "compare", *map(str, three), "--out", str(tmp_path), *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        return capsys.readouterr().out

    said = galvan()
    assert "better is better than first, the next." in " ".join(said.split()) and "compare.html" in said
    assert json.loads(galvan("--json")) == read_json(tmp_path / "compare.json")
    page = (tmp_path / "compare.html").read_text()
    assert (
        '<h2 id="pairs-title">Every one against every other</h2>' in page and "better over first" in page and "<script" not in page
    )
    assert "better over first" in (tmp_path / "compare.md").read_text()


def test_no_name_acts_on_page_terminal_or_markdown(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from markdown_it import MarkdownIt

    hostile = retuned(tmp_path / "<img src=x onerror=alert(1)>\x1b[31m|`b", three[0], 0.05)
    found = side_by_side([three[0], hostile])
    sentence = best(found)[2]
    comparison.show(found, sentence)
    assert "\x1b" not in capsys.readouterr().out
    assert "<img" not in comparison.to_html(found, sentence) and "\x1b" not in comparison.to_html(found, sentence)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(comparison.to_markdown(found, sentence))
    kinds = {child.type for token in tokens for child in token.children or []} | {token.type for token in tokens}
    assert "table_open" in kinds and not kinds & {"html_inline", "html_block", "link_open", "image", "code_inline"}
