"""The stage as a whole: from a source to documents, splits and audit, on made, bundled and real texts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from galvan import recipe
from galvan.data.leak import refuse
from galvan.data.prepare import Prepared, prepare, write
from galvan.data.split import runs
from galvan.errors import DataError
from galvan.rundir import read_documents

SHARED = Path(os.environ.get("GALVAN_SHARED") or Path(__file__).resolve().parents[2].parent / "shared") / "data"
REAL = pytest.mark.skipif(not (SHARED / "shelley-frankenstein.txt").exists(), reason="the real texts are not beside this checkout")


def by_word(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def prepared(seed: int = 42, **data: object) -> Prepared:
    return prepare(recipe.Data.model_validate(data), seed, by_word)


def test_every_text_is_in_one_split_or_in_the_log(tmp_path: Path) -> None:
    texts = [f"Text number {number} of many." for number in range(40)] + [
        "",
        "too short",
        "Text number 7 of many.",
        "Long text here. " * 20,
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = prepared(source=str(tmp_path / "a.jsonl"), document_tokens=16)
    facts = done.audit
    # 40 short texts; 20 sentences of 4 tokens in 5 pieces of 4 sentences.
    assert (facts.rows_read, facts.documents, facts.cut_texts, facts.cut_documents) == (44, 45, 1, 5)
    assert {reason: removed.count for reason, removed in facts.removed.items()} == {"empty": 1, "too short": 1, "duplicate": 1}
    assert facts.removed["duplicate"].examples[0]["same_as"].endswith("a.jsonl line 8")
    assert sum(part.documents for part in facts.splits.values()) == 45 == len(done.n_tokens)
    assert max(done.n_tokens.values()) <= 16
    assert {document.id for document in done.splits.train} >= {"a:44.1"} or "a:44.1" in done.n_tokens


def test_a_gutenberg_book_loses_its_header_only_if_asked(tmp_path: Path) -> None:
    body = "".join(f"Sentence {number} of the book.\n\n" for number in range(200))
    head, foot = "*** START OF THE PROJECT GUTENBERG EBOOK X ***", "*** END OF THE PROJECT GUTENBERG EBOOK X ***"
    (tmp_path / "a.txt").write_text(f"Licence\n{head}\n{body}{foot}\nLicence")
    stripped = prepared(source=str(tmp_path / "a.txt"), document_tokens=32)
    kept = prepared(source=str(tmp_path / "a.txt"), document_tokens=32, strip_gutenberg=False)
    assert (stripped.audit.gutenberg_stripped, kept.audit.gutenberg_stripped) == (1, 0)
    assert kept.audit.words.total - stripped.audit.words.total == len(f"{head} {foot} Licence Licence".replace("*", "").split())


def test_group_column_is_kept_together(tmp_path: Path) -> None:
    rows = [{"text": f"This is text {number}.", "author": f"author {number % 9}"} for number in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = prepared(source=str(tmp_path / "a.jsonl"), split={"by": "group", "group": "author"}).splits
    authors = [{document.group for document in part} for _, part in parts.items()]
    assert [len(found) for found in authors] == [7, 1, 1] and len(set.union(*authors)) == 9


def test_maximum_documents_takes_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"this is text {number}\n" for number in range(50)))
    done = prepared(source=str(tmp_path / "a.csv"), maximum_documents=20)
    assert sorted(int(name.split(":")[1]) for name in done.n_tokens) == list(range(1, 21))
    assert done.audit.removed["beyond data.maximum_documents"].count == 30


def test_one_document_only_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One short letter, and no more.")
    with pytest.raises(DataError) as caught:
        prepared(source=str(tmp_path / "a.txt"))
    assert str(caught.value) == (
        "data.split: there is one document only, and a split into train, validation, test needs at least 3; "
        "give more text, or cut it finer with data.document_tokens."
    )


def test_what_is_written_is_what_was_prepared(tmp_path: Path) -> None:
    done = prepared(source="galvan/letters")
    names = write(done, tmp_path)
    assert names == [
        *(f"data/{name}.jsonl" for name in ("train", "validation", "test")), *(f"pictures/{name}.svg" for name in ("lengths", "splits", "duplicates")),
        "audit.json",
    ]  # fmt: skip
    for name, documents in done.splits.items():
        assert read_documents(tmp_path / "data" / f"{name}.jsonl") == documents
    assert json.loads((tmp_path / "audit.json").read_text())["documents"] == done.audit.documents
    first = {name: (tmp_path / name).read_bytes() for name in names}
    write(prepared(source="galvan/letters"), tmp_path)
    assert first == {name: (tmp_path / name).read_bytes() for name in names}


def test_preparing_never_imports_torch() -> None:
    code = "import sys, galvan.data.prepare; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@REAL
def test_the_origins_snippets_are_read_whole_and_without_a_warning() -> None:
    done = prepared(source=str(SHARED / "frankenstein_chunks.csv"))
    facts = done.audit
    assert (facts.rows_read, facts.documents, facts.words.total, facts.removed, facts.warnings) == (481, 481, 75_017, {}, [])
    assert [len(part) for _, part in done.splits.items()] == [409, 24, 48]
    assert [len(runs(part)) for part in (done.splits.validation, done.splits.test)] == [8, 8]
    assert max(pair.longest_span_words for pair in facts.overlaps) < 20


@REAL
def test_no_check_speaks_on_the_origins_snippets_or_on_the_letters() -> None:
    for source in (str(SHARED / "frankenstein_chunks.csv"), "galvan/letters"):
        facts = prepared(source=source).audit
        refuse(facts)
        assert facts.changed == facts.reported == facts.removed == facts.repeated == {} and facts.warnings == []
        assert facts.neutral is not None and facts.neutral.leaking == 0
        every = recipe.Cleaning(markup="html", boilerplate=True)
        assert prepared(source=source, clean=every.model_dump()).audit.changed == {}


def test_stratified_splits_use_the_column_and_a_share_of_training_is_counted(tmp_path: Path) -> None:
    rows = [{"text": f"This is text number {number} of them.", "kind": "ab"[number % 5 == 0]} for number in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = prepared(
        source=str(tmp_path / "a.jsonl"),
        split={"by": "stratified", "group": "kind", "gap": 0},
        train_share=0.5,
        clean={"near_duplicates": None},
    )
    assert [document.group for document in done.splits.test].count("b") == 2
    assert (len(done.splits.train), done.audit.removed["beyond data.train_share"].count) == (42, 43)


@REAL
def test_the_novel_is_cut_without_losing_a_word() -> None:
    done = prepared(source=str(SHARED / "shelley-frankenstein.txt"), document_tokens=256)
    facts = done.audit
    text = (SHARED / "shelley-frankenstein.txt").read_text(encoding="utf-8")
    documents = sorted((d for _, part in done.splits.items() for d in part), key=lambda d: d.position)
    assert "".join("".join(d.text.split()) for d in documents) == "".join(text.split())
    assert facts.tokens.maximum is not None and facts.tokens.maximum <= 256
    assert facts.words.total == 75_017 and facts.removed == {} and facts.cut_texts == 1


def test_file_names_that_are_not_utf_8_can_still_be_written_down(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(4):
        Path(os.fsdecode(bytes(texts) + b"/caf\xe9 %d.txt" % number)).write_text(f"Text number {number}." if number else "")
    write(prepared(source=str(texts)), tmp_path / "run")
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["removed"]["empty"]["examples"][0]["where"] == f"{texts}/caf\\udce9 0.txt"
    assert {document.source for document in read_documents(tmp_path / "run" / "data" / "test.jsonl")} <= {
        f"caf\\udce9 {n}" for n in (1, 2, 3)
    }
