"""Ids and labels beside those that TRL's SFTTrainer prepares from the same rows. Position 0 is never a target for either after the shift;
TRL leaves its label standing there, so labels are compared from position 1 on."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_tokenizers import CHATML_MARKED, LLAMA, MISTRAL, chat_tokenizer
from galvan.data.tokens import training_rows
from galvan.payload import Chat, Pair
from galvan.rundir import Document
from models_for_tests import byte_tokenizer, tiny_llama

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

TEXTS = ["It rained.", "Nobody spoke. The lamp burned low.", " a", "\u201cYes\u201d, caf\u00e9\n\n"]
PAIRS = [("Q: Why?\nA: ", "It rained."), ("", "Alone."), ("Caf\u00e9", " \u201cYes\u201d"), ("Say it ", "now")]
USER, YES = {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}
MORE = {"role": "user", "content": "So?"}, {"role": "assistant", "content": "So."}


def by_trl(tmp_path: Path, tokenizer, rows, **settings):
    config = trl.SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None, **settings)
    trainer = trl.SFTTrainer(
        model=tiny_llama(vocab_size=400), args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    return [(row["input_ids"], row["labels"][1:]) for row in trainer.train_dataset]


def by_galvan(tokenizer, documents):
    return [(row.input_ids.tolist(), row.labels[1:].tolist()) for row in training_rows(tokenizer, documents, None, True)]


def payloads(*payloads):
    return [Document(f"d{i}", "", "s", i, payload=payload) for i, payload in enumerate(payloads)]


@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no bos"])
def test_plain_text_has_the_ids_and_labels_of_trl(tmp_path, bos):
    tokenizer = byte_tokenizer(bos)
    documents = [Document(f"d{i}", text, "s", i) for i, text in enumerate(TEXTS)]
    assert by_galvan(tokenizer, documents) == by_trl(tmp_path, tokenizer, [{"text": text} for text in TEXTS])


@pytest.mark.parametrize("pad_is_eos", [True, False], ids=["pad = eos", "pad"])
def test_prompts_and_completions_have_the_ids_and_labels_of_trl(tmp_path, pad_is_eos):
    tokenizer = chat_tokenizer(None, pad_is_eos)
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
    assert by_galvan(tokenizer, payloads(*(Pair(*pair) for pair in PAIRS))) == by_trl(tmp_path, tokenizer, rows)


@pytest.mark.parametrize("template", [LLAMA, MISTRAL], ids=["Llama", "Mistral"])
def test_a_conversation_after_a_prompt_has_the_ids_and_labels_of_trl(tmp_path, template):
    tokenizer = chat_tokenizer(template)
    rows = [{"prompt": [USER], "completion": [YES]}, {"prompt": [USER, YES, MORE[0]], "completion": [MORE[1]]}]
    chats = (Chat((USER, YES), None, 1), Chat((USER, YES, *MORE), None, 3))
    assert by_galvan(tokenizer, payloads(*chats)) == by_trl(tmp_path, tokenizer, rows)


def test_assistant_only_loss_by_generation_marks_has_the_labels_of_trl(tmp_path):
    tokenizer = chat_tokenizer(CHATML_MARKED)
    rows = [{"messages": [USER, YES]}, {"messages": [USER, YES, *MORE]}]
    expected = by_trl(tmp_path, tokenizer, rows, assistant_only_loss=True)
    assert by_galvan(tokenizer, payloads(Chat((USER, YES)), Chat((USER, YES, *MORE)))) == expected


def test_difference_special_tokens_spelled_in_a_text_are_letters_to_us_and_control_tokens_to_trl(tmp_path):
    tokenizer = byte_tokenizer()
    text = "He wrote </s> there."
    (ours,), (theirs,) = by_galvan(tokenizer, [Document("d", text, "s", 1)]), by_trl(tmp_path, tokenizer, [{"text": text}])
    assert ours[0].count(257) == 1 and theirs[0].count(257) == 2
    assert tokenizer.decode(ours[0]) == tokenizer.decode(theirs[0])


def test_difference_a_text_that_ends_in_the_spelled_end_gets_a_real_one_from_us_and_no_second_one_from_trl(tmp_path):
    tokenizer = byte_tokenizer()
    (ours,), (theirs,) = (
        by_galvan(tokenizer, [Document("d", "Over.</s>", "s", 1)]),
        by_trl(tmp_path, tokenizer, [{"text": "Over.</s>"}]),
    )
    assert ours[0][-1] == theirs[0][-1] == 257 and len(ours[0]) == len(theirs[0]) + len("</s>")


def test_difference_without_marks_trl_learns_the_users_turns_too_and_we_do_not(tmp_path):
    tokenizer = chat_tokenizer(LLAMA)
    (ours,), (theirs,) = by_galvan(tokenizer, payloads(Chat((USER, YES)))), by_trl(tmp_path, tokenizer, [{"messages": [USER, YES]}])
    assert ours[0] == theirs[0]
    assert all(label == id_ for label, id_ in zip(theirs[1], theirs[0][1:], strict=True))
    assert sum(label != -100 for label in ours[1]) == len("Yes.") + 1
