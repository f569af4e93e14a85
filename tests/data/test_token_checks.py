"""Each fault injected where it happens, and seen by its check; none of the checks fires on sound rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import CHATML, LLAMA, MISTRAL, chat_tokenizer
from galvan import recipe
from galvan.data.prepare import prepare
from galvan.data.token_checks import TokenFacts, notices, report
from galvan.data.tokens import IGNORE, training_rows
from galvan.errors import DataError
from galvan.payload import Chat, Pair, Tokens
from galvan.rundir import Document, read_json
from galvan.story import Story
from models_for_tests import byte_tokenizer, save_base, tiny_llama

WITH = byte_tokenizer()
TALKS = [Chat(({"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": f"Yo {n}"})) for n in range(6)]


def documents(*payloads):
    return [Document(f"d{i}", "", "s", i, payload=payload) for i, payload in enumerate(payloads)]


def found(tokenizer, docs, rows=None, learn_eos=True, max_tokens=None):
    rows = training_rows(tokenizer, docs, max_tokens, learn_eos) if rows is None else rows
    return {(notice.code, notice.level): notice.message for notice in notices(TokenFacts(tokenizer, docs, rows, learn_eos))}


def letters():
    done = prepare(recipe.Data(source="galvan/letters"), 42, lambda text: [(i, i + 1) for i in range(len(text))])
    return done.splits.train


def test_nothing_fires_on_the_bundled_letters_or_on_sound_conversations():
    train = letters()
    assert found(WITH, train, max_tokens=514 * 4) == {}
    for template in (CHATML, LLAMA, MISTRAL):
        for pad_is_eos in (True, False):
            assert found(chat_tokenizer(template, pad_is_eos), documents(*TALKS)) == {}
    assert found(chat_tokenizer(None), documents(*(Pair(f"Q{n}: ", "yes") for n in range(5)))) == {}


def test_d04_every_label_masked_is_an_error_and_some_a_warning():
    docs = documents(*(Pair(f"Q{n}: ", "yes") for n in range(6)))
    rows = training_rows(WITH, docs, None, True)
    masked = [dataclasses.replace(row, labels=np.full_like(row.labels, IGNORE)) for row in rows]
    assert ("D04", "error") in found(WITH, docs, masked)
    assert "6 of 6 rows have no token to learn (first: d0, d1, d2)" in found(WITH, docs, masked)["D04", "error"]
    some = found(WITH, docs, [masked[0], *rows[1:]])
    assert ("D04", "warning") in some and ("D04", "error") not in some


def test_e01_an_end_masked_because_pad_is_eos_and_an_end_never_appended_are_seen():
    docs = documents(*(Pair(f"Q{n}: ", "yes") for n in range(6)))
    rows = training_rows(WITH, docs, None, True)
    by_pad_id = [dataclasses.replace(row, labels=np.where(row.input_ids == 257, IGNORE, row.labels)) for row in rows]
    assert "the end is not learned in 6 of 6 whole rows" in found(WITH, docs, by_pad_id)["E01", "warning"]
    assert ("E01", "warning") in found(WITH, docs, training_rows(WITH, docs, None, False))
    assert found(WITH, docs, learn_eos=False) == {}
    endless = byte_tokenizer()
    endless.eos_token = None
    assert "has no end-of-text token" in found(endless, docs)["E01", "warning"]


def test_e02_rows_made_with_another_template_are_seen():
    docs = documents(*TALKS)
    llama, chatml = chat_tokenizer(LLAMA), chat_tokenizer(LLAMA)
    chatml.chat_template = CHATML.replace("<|im_start|>", "<|head|>").replace("<|im_end|>", "<|eot|>")
    rows = training_rows(llama, docs, None, True)
    assert "in 6 of 6 conversations (first: d0, d1, d2)" in found(chatml, docs, rows)["E02", "warning"]


def test_e02_prompts_brought_without_the_template_that_the_model_has_are_seen():
    assert "without the model's chat template" in found(chat_tokenizer(LLAMA), documents(Pair("a ", "b")))["E02", "warning"]


def test_e03_a_template_that_writes_the_bos_twice_is_an_error():
    tokenizer = chat_tokenizer(LLAMA)
    tokenizer.chat_template = "{{ bos_token }}" + LLAMA
    assert "6 of 6 rows begin with two beginning-of-text tokens" in found(tokenizer, documents(*TALKS))["E03", "error"]


def test_e04_ids_without_the_bos_that_the_tokenizer_adds_are_seen():
    texts = [f"Letter {n}." for n in range(6)]
    whole = [Tokens((*WITH(t)["input_ids"], 257)) for t in texts]
    bare = [Tokens(row.input_ids[1:]) for row in whole]
    assert "6 of 6 rows of ids do not begin with the beginning-of-text token" in found(WITH, documents(*bare))["E04", "warning"]
    assert found(WITH, documents(*whole)) == found(WITH, documents(*whole[:4], *bare[4:])) == {}
    assert ("E04", "warning") not in found(byte_tokenizer(bos=False), documents(*bare))
    of_chatml = byte_tokenizer()
    of_chatml.chat_template = CHATML  # writes no BOS, and rows made with it have none
    assert ("E04", "warning") not in found(of_chatml, documents(*bare))


def toy_bpe():
    """Merges the space before a word into it."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(symbols)} | {"Ġy": 256, "<s>": 257, "</s>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "y")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_e05_a_token_across_prompt_and_completion_is_learned_and_seen():
    tokenizer = toy_bpe()
    docs = documents(Pair("Q: ", "yes"), Pair("Q:", " yes"))
    rows = training_rows(tokenizer, docs, None, True)
    assert [tokenizer.decode([i for i in row.labels if i != IGNORE]) for row in rows] == [" yes</s>", " yes</s>"]
    assert "in 1 of 2 rows a token holds the end of the prompt" in found(tokenizer, docs)["E05", "warning"]


def test_e06_what_truncation_hides_is_counted():
    docs = documents(*(Pair("Q: ", "yes" * 3) for n in range(4)))  # <s> + 3 + 9 + </s>
    message = found(WITH, docs, max_tokens=7)["E06", "warning"]
    assert message.startswith("4 of 4 rows are cut, and 28 of 40 tokens to learn (70.0%) with them; the end is left in 0 rows.")


def test_e11_labels_that_are_shifted_already_are_an_error():
    ids = (256, *range(40, 60))
    docs = documents(Tokens(ids, (*ids[1:], -100)))
    assert "stand one place early" in found(WITH, docs, learn_eos=False)["E11", "error"]
    strange = documents(Tokens(ids, tuple(reversed(ids))))
    assert "are other ids than stand there" in found(WITH, strange, learn_eos=False)["E11", "error"]
    assert found(WITH, documents(Tokens(ids, (-100, *ids[1:]))), learn_eos=False) == {}


def test_a_special_token_spelled_in_a_text_is_seen():
    docs = [Document("d", "<|im_start|>user\nHi<|im_end|>", "s", 1)]
    assert "1 documents spell the special token <|im_" in found(chat_tokenizer(CHATML), docs)["tokens/special-in-text", "warning"]


def test_no_rows_say_nothing():
    assert report(TokenFacts(WITH, [], [], True)).notices == []


def story(tmp_path, rows, *settings, template=None):
    folder = save_base(tmp_path / "base", tiny_llama())
    if template is not None:
        chat_tokenizer(template).save_pretrained(folder)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = recipe.from_text("", "test", [f"model.base={folder}", f"data.source={tmp_path / 'a.jsonl'}", *settings])
    return Story.begin(asked, tmp_path / "run", None, True)


def test_preparing_writes_the_report_and_an_error_stops_the_run_before_a_model_is_loaded(tmp_path, monkeypatch):
    rows = [{"prompt": f"This prompt {n} is longer than all the room that there is: ", "completion": "yes"} for n in range(20)]
    told = story(tmp_path, rows, "training.document_tokens=20")
    told.prepare()
    written = read_json(tmp_path / "run" / "tokens.json")
    assert (written["shape"], written["supervised_tokens"], written["truncated_rows"]) == (
        "prompts with completions",
        0,
        written["rows"],
    )
    monkeypatch.setattr("galvan.models.load_base", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(DataError) as caught:
        told.train()
    assert caught.value.code == "D04"


def test_a_run_of_prompts_trains_and_scores_completions_only(tmp_path):
    rows = [{"prompt": f"Say {n}: ", "completion": f"Yes, {n}."} for n in range(30)]
    told = story(tmp_path, rows, "training.epochs=1", "training.packing=true", "training.evaluations=1")
    told.prepare()
    told.train()
    told.check()
    told.score()
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "run" / "scores.parquet").to_pylist()
    documents_of = {
        json.loads(line)["id"]: json.loads(line) for line in (tmp_path / "run" / "data" / "test.jsonl").read_text().splitlines()
    }
    base = [row for row in table if (row["arm"], row["split"]) == ("base", "test")]
    assert {row["document"] for row in base} == set(documents_of)
    assert all(row["n_tokens"] == row["n_bytes"] == len(documents_of[row["document"]]["payload"]["completion"]) for row in base)
    tuned = {row["document"]: row["n_tokens"] for row in table if (row["arm"], row["split"]) == ("tuned", "test")}
    assert tuned == {row["document"]: row["n_tokens"] for row in base}
    assert read_json(tmp_path / "run" / "provenance.json")["scored_tokens"] == "tokens of the completion only"
