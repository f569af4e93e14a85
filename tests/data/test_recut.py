"""Re-cutting: new pieces every epoch, the same words, and never a word of another split."""

from __future__ import annotations

import re
from pathlib import Path

from galvan import recipe
from galvan.data.prepare import Prepared, prepare, write
from galvan.data.recut import documents_of_epoch, read_stretches
from galvan.rundir import Document


def by_word(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def prepared(folder: Path) -> Prepared:
    (folder / "book.txt").write_text(
        "\n\n".join(f"Paragraph {n} has a first sentence. And sentence {n} is the second of it." for n in range(400))
    )
    data = recipe.Data.model_validate(
        {"source": str(folder / "book.txt"), "document_tokens": 64, "recut": True, "minimum_words": 0}
    )
    return prepare(data, 42, by_word)


def epoch(done: Prepared, number: int, seed: int = 42) -> list[Document]:
    return documents_of_epoch(done.splits.train, done.stretches, number, seed, 64, by_word)


def spoken(documents: list[Document]) -> list[str]:
    return " ".join(document.text for document in documents).split()


def test_every_epoch_has_the_same_words_in_other_pieces(tmp_path: Path) -> None:
    done = prepared(tmp_path)
    assert epoch(done, 0) == done.splits.train
    for number in (1, 2, 3):
        again = epoch(done, number)
        assert spoken(again) == spoken(done.splits.train)
        assert max(len(by_word(document.text)) for document in again) <= 64
        fresh = {document.text for document in again} - {document.text for document in done.splits.train}
        assert len(fresh) > 0.8 * len(again)
        assert abs(len(again) - len(done.splits.train)) <= len(done.stretches)
    assert [d.text for d in epoch(done, 1)] != [d.text for d in epoch(done, 2)]


def test_held_out_sentences_stay_held_out(tmp_path: Path) -> None:
    done = prepared(tmp_path)
    held = {line for part in (done.splits.validation, done.splits.test) for d in part for line in d.text.split("\n\n")}
    assert not held & {line for number in range(1, 5) for d in epoch(done, number) for line in d.text.split("\n\n")}


def test_an_epoch_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    done = prepared(tmp_path)
    write(done, tmp_path / "run")
    assert read_stretches(tmp_path / "run" / "data" / "stretches.jsonl") == done.stretches
    epoch(done, 3)
    assert epoch(done, 1) == epoch(done, 1) != epoch(done, 1, seed=7)
    assert len({document.id for document in epoch(done, 1)}) == len(epoch(done, 1))


def test_texts_that_were_never_cut_stay_as_they_are() -> None:
    done = prepare(recipe.Data(recut=True, document_tokens=4096), 42, by_word)
    assert [d.text for d in documents_of_epoch(done.splits.train, done.stretches, 5, 42, 4096, by_word)] == [
        d.text for d in done.splits.train
    ]
