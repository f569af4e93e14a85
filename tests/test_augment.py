"""Instruction back-translation: the answer is the author's own text, the row names its parent, only training texts are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_tokenizers import CHATML, LLAMA, MISTRAL, chat_tokenizer
from galvan import augment
from galvan.augment import COPY_WORDS, back_translate, refuse_strays, require_template
from galvan.data.tokens import IGNORE, training_rows
from galvan.errors import DataError, ModelError
from galvan.measure.decode import Continuation
from galvan.measure.generation import BatchFacts
from galvan.payload import Chat, Pair
from galvan.progress import Silent
from galvan.recipe import from_text
from galvan.rundir import Document, read_documents, read_json, write_rows
from galvan.story import Story
from models_for_tests import byte_tokenizer, tiny_llama

TEXTS = [Document(f"d{n}", f"Letter {n}: the {w} rose over the lake, and nobody in the old house spoke of it again.", "book", n, "g") for n, w in enumerate(("wind", "mist", "moon"))]  # fmt: skip


def says(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, *answers: str) -> list[str]:
    """The base answers so; what it was asked is listed."""
    asked: list[str] = []

    def decode(model: Any, jobs: Any, *rest: Any) -> list[Continuation]:
        asked.extend(tokenizer.decode(job.ids) for job in jobs)
        ids = [tokenizer(a, add_special_tokens=False)["input_ids"] for a in answers]
        return [Continuation(i, [0.0] * len(i), "eos") for i in ids]

    monkeypatch.setattr(augment, "decode", decode)
    monkeypatch.setattr(augment, "batch_facts", lambda *a: BatchFacts(1, 1, 1, 1.0, 0.0, False))
    return asked


def made(tokenizer: Any, documents: list[Document] = TEXTS, kind: Any = "instruction", context: int = 2048) -> Any:
    return back_translate(tiny_llama(0, vocab_size=300), tokenizer, documents, kind, context, 4096, Silent())


@pytest.mark.parametrize("template", [CHATML, LLAMA, MISTRAL])
def test_the_texts_own_words_are_learned_and_the_bases_are_not(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chat_tokenizer(template)
    asked = says(monkeypatch, tokenizer, "Tell of a wind.", '"Tell of\n a mist."', "Tell of a moon.")
    rows, facts = made(tokenizer)
    assert [r.parent for r in rows] == ["d0", "d1", "d2"] and (facts.texts, facts.rows) == (3, 3)
    assert all(text.text in question for text, question in zip(TEXTS, asked, strict=True))
    assert isinstance(rows[1].payload, Chat) and rows[1].payload.messages[0]["content"] == "Tell of a mist."
    for row, parent, encoded in zip(rows, TEXTS, training_rows(tokenizer, rows, None, True), strict=True):
        assert (row.text, row.source, row.position, row.group) == (parent.text, parent.source, parent.position, parent.group)
        learned = tokenizer.decode([i for i in encoded.labels.tolist() if i != IGNORE], skip_special_tokens=True)
        assert learned.strip() == parent.text


def test_a_paraphrase_is_asked_for_in_the_authors_manner(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chat_tokenizer(CHATML)
    says(monkeypatch, tokenizer, "It blew.")
    [row], _ = made(tokenizer, TEXTS[:1], "paraphrase")
    assert row.payload.messages[0]["content"] == "Write this in your own manner:\n\nIt blew." and row.id == "d0+paraphrase"


def test_answers_given_away_and_empty_ones_and_rows_with_prompts_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chat_tokenizer(CHATML)
    spoken = TEXTS[0].text.split()
    says(
        monkeypatch,
        tokenizer,
        "Write: " + " ".join(spoken[3 : 3 + COPY_WORDS]),
        " ... ",
        "Write: " + " ".join(spoken[3 : 2 + COPY_WORDS]),
    )
    paired = Document("p", "x", "s", 0, payload=Pair("a", "x"))
    rows, facts = made(tokenizer, [TEXTS[0], TEXTS[1], paired, replace(TEXTS[0], id="d9")])
    assert [row.parent for row in rows] == ["d9"]
    assert (facts.quoting, facts.empty, facts.other_shape, facts.too_long, facts.rows, facts.texts) == (1, 1, 1, 0, 1, 4)
    says(monkeypatch, tokenizer)
    assert made(tokenizer, TEXTS[:2], context=128)[1].too_long == 2


def test_a_base_without_a_chat_template_is_refused_and_one_with_it_is_not() -> None:
    with pytest.raises(ModelError, match="no chat template") as caught:
        require_template(byte_tokenizer(), "plain")
    assert caught.value.code == "augment/no-template"
    require_template(chat_tokenizer(CHATML), "instruct")


@pytest.mark.parametrize("fault", ["parent is held out", "parent is unknown", "answer is another text"])
def test_a_row_that_is_not_of_a_training_text_is_a_leak(fault: str) -> None:
    row = replace(TEXTS[0], id="d0+instruction", parent="d0")
    refuse_strays([row], TEXTS[:2], TEXTS[2:])
    bad = {"parent is held out": replace(row, parent="d2", text=TEXTS[2].text), "parent is unknown": replace(row, parent="d7"), "answer is another text": replace(row, text="Other.")}  # fmt: skip
    with pytest.raises(DataError, match=r"d0\+instruction"):
        refuse_strays([bad[fault]], TEXTS[:2], TEXTS[2:])


def test_parents_survive_the_disk(tmp_path: Path) -> None:
    rows = [TEXTS[0], replace(TEXTS[0], id="d0+instruction", parent="d0", payload=Chat(({"role": "user", "content": "q"}, {"role": "assistant", "content": TEXTS[0].text})))]  # fmt: skip
    write_rows(tmp_path / "x.jsonl", rows)
    assert read_documents(tmp_path / "x.jsonl") == rows and "parent" not in (tmp_path / "x.jsonl").read_text().splitlines()[0]


def test_a_run_trains_on_texts_and_their_instructions_and_writes_the_same_rows_again(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(CHATML)
    base = tmp_path / "base"
    tiny_llama(6, vocab_size=len(tokenizer), max_position_embeddings=1024).save_pretrained(base)
    tokenizer.save_pretrained(base)
    texts = [
        f"Letter {n}: {w} came, and I waited {n * n} hours by the gate." for n, w in enumerate(["rain", "snow", "mist", "hail"] * 5)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    recipe = {
        "name": "r", "data": {"source": str(tmp_path / "t.jsonl"), "augment": "back_translation", "split": {"by": "random", "test": 0.2}},
        "model": {"base": str(base), "dtype": "float32", "device": "cpu"}, "training": {"epochs": 1, "evaluations": 1, "lora": {"rank": 2}},
    }  # fmt: skip
    out = tmp_path / "run"
    story = Story.begin(from_text(json.dumps(recipe)), out, None, True)
    with story.alone():
        story.prepare()
        story.augment()
        story.train()
    train, more = (read_documents(out / "data" / f"{name}.jsonl") for name in ("train", "augmented"))
    facts, texts_of = read_json(out / "augment.json"), {d.id: d.text for d in train}
    assert facts["texts"] == len(train) and facts["rows"] == len(more) > 0
    assert all(texts_of[row.parent or ""] == row.text for row in more)
    assert read_json(out / "training.json")["rows"] == read_json(out / "preflight.json")["rows"] == len(train) + len(more)
    assert read_json(out / "training.json")["truncated_rows"] == 0
    before = (out / "data" / "augmented.jsonl").read_bytes()
    (out / "stages" / "augment.json").unlink()
    with story.alone():
        story.augment()
    assert (out / "data" / "augmented.jsonl").read_bytes() == before
