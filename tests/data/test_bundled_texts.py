"""The two bundled collections: built from their sources, as long as promised, and nobody else's words."""

from __future__ import annotations

import json
import runpy
import statistics
from pathlib import Path

import pytest

from galvan.data.overlap import Corpus, longest
from galvan.data.read import read
from galvan.text import words

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "src" / "galvan" / "assets"
NOVEL = ROOT.parent / "shared" / "data" / "shelley-frankenstein.txt"

SET_PHRASES: tuple[str, ...] = ()  # runs of more than 7 words that the letters may share with the novel: none so far


def test_letters_are_as_many_and_as_long_as_promised() -> None:
    rows = list(read("galvan/letters"))
    lengths = [len(row.text.split()) for row in rows]
    assert len(rows) >= 200 and sum(lengths) >= 28_000
    assert min(lengths) >= 60 and max(lengths) <= 350
    assert 130 <= statistics.median(lengths) <= 200
    assert len({row.source for row in rows}) == 30
    assert all(row.text.isascii() and row.text == " ".join(row.text.split()) for row in rows)


def test_letters_are_numbered_from_one_within_each_source() -> None:
    places: dict[str, list[int]] = {}
    for row in read("galvan/letters"):
        places.setdefault(row.source, []).append(row.position)
    assert all(found == list(range(1, len(found) + 1)) for found in places.values())


@pytest.mark.skipif(not NOVEL.exists(), reason="the novel is not beside this checkout")
def test_letters_share_no_run_of_more_than_seven_words_with_the_novel() -> None:
    novel = Corpus([words(NOVEL.read_text(encoding="utf-8"))])
    for row in read("galvan/letters"):
        text = " ".join(words(row.text))
        for phrase in SET_PHRASES:
            text = text.replace(phrase, " | ")
        span = longest(novel, Corpus([text.split()]))
        assert span is None or span.length <= 7, (row.where, Corpus([text.split()]).words(span.b_start, span.length))


def test_plain_has_three_registers_of_about_150_words() -> None:
    rows = [json.loads(line) for line in (ASSETS / "plain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60 and len({row["id"] for row in rows}) == len(rows)
    assert {row["register"] for row in rows} == {"encyclopaedic", "dialogue", "instructions"}
    assert all(100 <= len(row["text"].split()) <= 200 for row in rows)
    assert {row.group for row in read("galvan/plain", group="register")} == {"encyclopaedic", "dialogue", "instructions"}


def test_bundled_files_are_what_their_sources_build() -> None:
    built = runpy.run_path(str(ROOT / "scripts" / "build_texts.py"))["built"]()
    assert {name: (ASSETS / name).read_text(encoding="utf-8") for name in built} == built


def test_both_are_in_the_public_domain_and_say_so() -> None:
    licence = (ASSETS / "LICENSE-CC0.txt").read_text(encoding="utf-8")
    assert "letters.csv" in licence and "plain.jsonl" in licence and "CC0 1.0" in licence
