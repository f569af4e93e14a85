"""A run's copies and what it forgot, from its files to verdict.json, analysis.md and the terminal; hostile text reaches no page."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from galvan.errors import DataError
from galvan.report import judge
from galvan.report.terminal import show
from galvan.rundir import read_json, read_rows, write_rows
from synthetic import make, verdict_of

HOSTILE = "\x1b[31m<script>alert(1)</script> \u202e| `x`"


def a_run(folder: Path, copies: bool = False, rise: float = 0.0, hostile: bool = False) -> Path:
    """A healthy run whose 40 samples copy 30 training words or none, and whose neutral text became `rise` nats a token less likely."""
    make(folder)
    rng = random.Random(0)
    train = list(read_rows(folder / "data" / "train.jsonl"))
    for split in ("train", "test"):
        rows = list(read_rows(folder / "data" / f"{split}.jsonl"))
        for row in rows:
            row["text"] = " ".join(f"w{rng.randrange(5000)}" for _ in range(150)) + (f" {HOSTILE}" if hostile else "")
        write_rows(folder / "data" / f"{split}.jsonl", rows)
        train = rows if split == "train" else train

    def text(n: int) -> str:
        said = [f"w{rng.randrange(5000)}" for _ in range(100)]
        if copies:
            said[10:40] = train[n % len(train)]["text"].split()[-33 if hostile else 40 :][:30]
        return " ".join(said)

    write_rows(folder / "samples.jsonl", [
        {"prompt_id": f"p{n}", "prompt": "x", "arm": arm, "sample": 0, "seed": n, "text": text(n) if arm == "tuned" else "nothing of it", "stop": "eos",
         "settings": {"name": "distribution"}, "logprob_nats": -1.0}
        for arm in ("base", "tuned") for n in range(40)
    ])  # fmt: skip
    retained = [
        {"document": f"n{n}", "kind": kind, "register": "dialogue", "source": "plain", "position": n, "n_tokens": 200, "kl_nats": 2.0,
         "reverse_kl_nats": 2.2, "base_entropy_nats": 500.0, "tuned_entropy_nats": 490.0, "agreements": 180, "base_nll_nats": 600.0 + n,
         "tuned_nll_nats": 600.0 + n + 200 * rise + n % 3}
        for kind in ("neutral", "author") for n in range(60)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(retained), folder / "retention.parquet")
    extracted = [
        {"arm": arm, "document": f"d{n}", "split": split, "prefix_tokens": 50, "suffix_tokens": 50, "greedy_match": copies, "suffix_logprob_nats": -3.0}
        for arm in ("base", "tuned") for split in ("train", "test") for n in range(20)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(extracted), folder / "extraction.parquet")
    return folder


def test_a_run_that_copies_nothing_and_forgets_nothing_says_so(tmp_path: Path) -> None:
    judged = judge(a_run(tmp_path))
    verdict = verdict_of(tmp_path)
    assert verdict["originality"]["excess_copying"] is False and verdict["originality"]["longest_span_words"] < 8
    assert verdict["retention"] == {
        "kl_nats": pytest.approx(0.01), "top1_agreement": 0.9, "forgot": False, "reason": None,
        "neutral_perplexity_change_percent": pytest.approx(0.5, abs=0.1),
    }  # fmt: skip
    assert verdict["worked"] is True and judged.exit_code() == 0
    page = (tmp_path / "analysis.md").read_text()
    assert (
        "## Does it copy?" in page
        and "## What was forgotten?" in page
        and "not measured in this run" not in page.split("copies of")[1][:80]
    )


def test_a_run_that_copies_or_forgets_has_not_worked_although_text_is_likelier(tmp_path: Path) -> None:
    copied, forgot = judge(a_run(tmp_path / "a", copies=True)), judge(a_run(tmp_path / "b", rise=0.1))
    assert copied.verdict["originality"]["excess_copying"] is True and forgot.verdict["retention"]["forgot"] is True
    for judged in (copied, forgot):
        assert (judged.verdict["verdict"], judged.verdict["worked"], judged.exit_code()) == ("improved", False, 1)
    spans = read_json(tmp_path / "a" / "originality.json")["originality"]["longest_spans"]
    assert len(spans) == 10 and all(span["n_words"] >= 30 and span["document_text"] == span["text"] for span in spans)


def test_the_terminal_has_a_line_for_each(tmp_path: Path) -> None:
    judged = judge(a_run(tmp_path, copies=True))
    out = io.StringIO()
    show(judged.evidence, judged.verdict, tmp_path, console=Console(file=out, width=80, color_system=None))
    assert "\nCopying       Excess copying" in out.getvalue() and "\nRetention     Kept." in out.getvalue()


def test_text_that_would_act_on_a_page_or_a_terminal_is_spelled_out(tmp_path: Path) -> None:
    judge(a_run(tmp_path, copies=True, hostile=True))
    for name in ("analysis.md", "originality.json"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "\x1b" not in page and "\u202e" not in page
    assert "<script>" not in (tmp_path / "analysis.md").read_text(encoding="utf-8")


def test_judging_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    judge(a_run(tmp_path, copies=True))
    first = {name: (tmp_path / name).read_bytes() for name in ("originality.json", "retention.json", "verdict.json", "analysis.md")}
    judge(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


def test_without_samples_or_retention_the_figures_are_null_with_the_reason(tmp_path: Path) -> None:
    judge(make(tmp_path))
    blocks: dict[str, Any] = verdict_of(tmp_path)
    assert (blocks["originality"]["excess_copying"], blocks["originality"]["reason"]) == (
        None,
        "No text was generated in this run.",
    )
    assert blocks["retention"]["forgot"] is None and "not compared on neutral text" in blocks["retention"]["reason"]


def test_a_refused_run_shows_neither(tmp_path: Path) -> None:
    folder = a_run(tmp_path, copies=True)
    (folder / "scores.parquet").unlink()
    blocks = judge(folder).verdict
    assert blocks["originality"]["excess_copying"] is None and blocks["retention"]["kl_nats"] is None
    assert not (folder / "originality.json").exists() and "## Does it copy?" not in (folder / "analysis.md").read_text()


@pytest.mark.parametrize("name", ["samples.jsonl", "retention.parquet", "extraction.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = a_run(tmp_path)
    (folder / name).write_bytes(b'{"arm": "tuned"}\n')
    with pytest.raises(DataError, match=name):
        judge(folder)
