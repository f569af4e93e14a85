"""Style where people meet it: `galvan style` on files, and the verdict, the page and the terminal of a run."""

from __future__ import annotations

import json
import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from galvan.data.read import read
from galvan.errors import DataError
from galvan.report import judge
from galvan.report.verdict import exit_code, vetoes
from galvan.rundir import Document, write_rows
from galvan.style.files import passages, read_texts
from galvan.style.guards import shuffle_words
from galvan.style.lists import PRONOUNS
from galvan.style.others import other_voices
from galvan.style.run import _no_sense, style_of_run
from processes import galvan
from synthetic import Plan, make, verdict_of

PROMPT = "It was in the month of March"
KEEPER = passages(" ".join(other_voices(())["the letters of the keeper"]), 50)
AUTHOR, HELD, FURTHER = KEEPER[0::4], KEEPER[1::2], KEEPER[2::4]
PLAIN = [piece for row in read("galvan/plain") for piece in passages(row.text, 50)]
PLAIN = [PLAIN[i] for i in np.random.default_rng(0).permutation(len(PLAIN))]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path.name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    write(place / "author.jsonl", AUTHOR)
    write(place / "held.jsonl", HELD)
    write(place / "tuned.jsonl", FURTHER)
    write(place / "base.jsonl", PLAIN[:60])
    write(place / "few.jsonl", KEEPER[:5])
    return place


def test_the_command_answers_in_one_document_and_needs_no_model(place: Path) -> None:
    files = ("--author", "author.jsonl", "--base", "base.jsonl", "--tuned", "tuned.jsonl", "--held-out", "held.jsonl")
    done = galvan("style", *files, "--without", "pronouns", "--json", cwd=place)
    found = json.loads(done.out)
    assert (done.code, found["closer"], found["vetoes"], done.err) == (0, "yes", [], "")
    assert not {m["phrase"].split("\u201d")[0].rpartition("\u201c")[2] for m in found["moved"]} & PRONOUNS
    assert set(found["typography"]) == {"author", "held_out", "base", "tuned"}


def test_the_command_says_what_is_missing_and_ends_with_its_code(place: Path) -> None:
    done = galvan("style", "--author", "author.jsonl", "--base", "base.jsonl", "--tuned", "few.jsonl", cwd=place)
    assert done.code == 6 and "5 of tuned" in " ".join(done.out.split()) and "Not measurable here" in done.out
    done = galvan("style", "--author", "nowhere.csv", "--base", "base.jsonl", "--tuned", "few.jsonl", cwd=place)
    assert done.code == 3 and done.out == "" and done.err.startswith("error[data/missing]") and done.err.count("\n") == 1


def test_a_list_of_words_that_there_is_not_is_refused(place: Path) -> None:
    files = ("--author", "author.jsonl", "--base", "base.jsonl", "--tuned", "tuned.jsonl")
    done = galvan("style", *files, "--without", "verbs", cwd=place)
    assert (
        done.code == 2
        and done.err == "error[usage]: --without verbs: there is no such list; there are pronouns and contractions.\n"
    )


def test_a_book_is_cut_into_passages_that_end_with_sentences(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(" ".join(["The sea was calm that day. Nobody spoke of it again."] * 200))
    cut = read_texts(str(tmp_path / "book.txt")).texts
    assert len(cut) == 14 and all(text.endswith(".") and 150 <= len(text.split()) < 156 for text in cut)


# ---- runs ----


def samples(arm: str, texts: list[str], settings: dict[str, Any], nats: float = 3.0) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": f"held-out:letter-test-{i}", "prompt": PROMPT, "arm": arm, "sample": 0, "seed": i, "text": text, "stop": "eos", "settings": settings,
            "n_tokens": 100, "logprob_nats": -200.0, "base_n_tokens": 100, "base_logprob_nats": -100.0 * nats,
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip


PLAIN_SETTINGS = {"name": "distribution", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 100}


def run(folder: Path, tuned: list[str], nats: float = 3.6, extra: list[dict[str, Any]] | None = None) -> Path:
    """An improved synthetic run whose author is the keeper, with samples."""
    make(folder, Plan(documents=len(HELD), train=len(AUTHOR)))
    for split, texts in (("train", AUTHOR), ("test", [f"{PROMPT} {text}" for text in HELD])):
        write_rows(
            folder / "data" / f"{split}.jsonl", [Document(f"letter-{split}-{i}", text, "keeper", i) for i, text in enumerate(texts)]
        )
    n = len(tuned)
    rows = samples("base", PLAIN[:n], PLAIN_SETTINGS) + samples("base_again", PLAIN[n : 2 * n], PLAIN_SETTINGS)
    write_rows(folder / "samples.jsonl", [*rows, *samples("tuned", tuned, PLAIN_SETTINGS, nats), *(extra or [])])
    return folder


def test_a_run_without_samples_is_not_measured_and_says_so(tmp_path: Path) -> None:
    judged = judge(make(tmp_path))
    assert judged.verdict["style"] == {
        "closer": "not measurable", "gap_closed": None, "ci95": None, "vetoes": [], "reason": "not measured in this run",
    }  # fmt: skip
    assert not (tmp_path / "style.json").exists() and "write like the author" not in (tmp_path / "analysis.md").read_text()


def test_a_run_that_writes_like_the_author_says_so_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galvan.style.run.NO_SENSE", 0.0)  # so that there is a caution
    judged = judge(run(tmp_path, FURTHER))
    block = verdict_of(tmp_path)["style"]
    assert block["closer"] == "yes" and block["vetoes"] == [] and block["gap_closed"] > 0.7 and block["ci95"][0] > 0.2
    page, shown = (tmp_path / "analysis.md").read_text(), StringIO()
    assert "Closer to the author than the base." in page and page.count("### Side by side: the ") == 3
    from galvan.report.terminal import show

    show(judged.evidence, judged.verdict, tmp_path, console=Console(file=shown, width=80))
    assert "Style         Closer to the author than the base; gap closed" in shown.getvalue()
    said = (" ".join(shown.getvalue().split()), page, (tmp_path / "report.html").read_text())
    assert all("Such a model writes no sense" in text for text in said)
    kept = json.loads((tmp_path / "style.json").read_text())
    assert [pair["rank"] for pair in kept["pairs"]] == ["median", "best", "worst"] and all(pair["author"] for pair in kept["pairs"])
    assert kept["style"]["tests"]["n_pairs"] == len(FURTHER) and kept["own"] is None
    assert any(g["name"] == "coherence" and "nats a token" in g["says"] for g in kept["style"]["guards"])


def test_vetoed_texts_keep_a_likelier_text_from_being_a_success(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    judge(run(tmp_path, [shuffle_words(text, rng) for text in FURTHER]))
    found = verdict_of(tmp_path)
    assert found["verdict"] == "improved" and found["worked"] is False and exit_code(found) == 1
    assert "coherence" in vetoes(found) and found["style"]["closer"] == "not shown"


def test_the_base_s_own_likelihood_can_veto(tmp_path: Path) -> None:
    assert "coherence" in style_of_run(run(tmp_path, FURTHER, nats=9.0)).style.vetoes  # type: ignore[union-attr]


def test_a_model_too_weak_to_write_sense_is_said_to_be_and_an_able_one_is_not(tmp_path: Path) -> None:
    """Word salad has people's order of little words: only how hard the model finds the author's next word gives it away."""
    documents = [Document(f"d{i}", "word " * (50 + i), "book", i) for i in range(5)]
    for choices, said in ((149.0, False), (246.0, True)):
        scores = [
            {"arm": arm, "split": "test", "document": d.id, "nll_nats": math.log(choices if arm == "tuned" else 9.0) * len(d.text.split())}
            for arm in ("base", "tuned") for d in documents
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(scores), tmp_path / "scores.parquet")
        caution = _no_sense(tmp_path, documents)
        assert (caution is not None) is said and (caution is None or "a choice among 250" in caution)


def test_what_follows_a_prompt_is_judged_and_the_prompt_is_not(tmp_path: Path) -> None:
    from galvan.rundir import read_documents, read_rows
    from galvan.style.run import continuations

    folder = run(tmp_path, FURTHER)
    held = continuations(read_documents(folder / "data" / "test.jsonl"), [], list(read_rows(folder / "samples.jsonl")))
    assert not any(text.startswith(PROMPT) for text in held.values())
    assert held["letter-test-0"] == KEEPER[1]


def test_the_user_s_own_sampling_settings_are_a_second_row(tmp_path: Path) -> None:
    own = {**PLAIN_SETTINGS, "name": "own", "temperature": 0.7}
    greedy = {**PLAIN_SETTINGS, "name": "greedy", "temperature": 0.0}
    n = len(FURTHER)
    extra = [r for s in (own, greedy) for r in (*samples("base", PLAIN[:n], s), *samples("tuned", PLAIN[-n:], s))]
    found = style_of_run(run(tmp_path, FURTHER, extra=extra))
    assert found is not None and found.style.closer == "yes"
    assert found.own is not None and found.own.closer == "not shown" and found.own.counts["base"].given == n


def test_a_damaged_sample_is_refused_by_its_line(tmp_path: Path) -> None:
    folder = run(tmp_path, FURTHER)
    with (folder / "samples.jsonl").open("a") as stream:
        stream.write('{"arm": "tuned"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl line \d+: not a sample of ours"):
        style_of_run(folder)


def test_hostile_text_reaches_the_page_harmless(tmp_path: Path) -> None:
    hostile = "\x1b[2J<script>alert(1)</script> [link](http://x) "
    judge(run(tmp_path, [hostile + text for text in FURTHER]))
    page = (tmp_path / "analysis.md").read_text()
    assert "\x1b" not in page and "<script>" not in page and not re.search(r"(?<!\\)\]\(http", page)


def test_a_refused_comparison_claims_no_style(tmp_path: Path) -> None:
    folder = run(tmp_path, FURTHER)
    texts = (folder / "samples.jsonl").read_text()
    make(folder, "dead")
    (folder / "samples.jsonl").write_text(texts)
    judge(folder)
    assert verdict_of(folder)["style"]["closer"] == "not measurable" and not (folder / "style.json").exists()
