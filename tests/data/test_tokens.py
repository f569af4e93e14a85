"""Ids and labels, worked by hand with a tokenizer of one id a byte: BOS 256, EOS 257, padding 258."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from galvan.data.tokens import IGNORE, adds_bos, encode_texts, first_token_bytes, first_token_rule, training_rows
from galvan.models import Located, load_tokenizer, locate
from galvan.rundir import Document
from models_for_tests import byte_tokenizer, save_base, tiny_gpt2

WITH, WITHOUT = byte_tokenizer(), byte_tokenizer(bos=False)
BOS, EOS = 256, 257


def ids(text):
    """A byte's id is the rank of its symbol in the byte-level alphabet; for ASCII letters and signs that is the order of bytes."""
    return [WITH.convert_tokens_to_ids(symbol) for symbol in text]


def rows(tokenizer, *texts, max_tokens=None, learn_eos=False):
    documents = [Document(f"d{i}", text, "book", i) for i, text in enumerate(texts)]
    return [(r.input_ids.tolist(), r.labels.tolist()) for r in training_rows(tokenizer, documents, max_tokens, learn_eos)]


def test_the_byte_tokenizer_is_what_the_hand_worked_cases_take_it_for():
    assert ids("AB") == [ids("A")[0], ids("A")[0] + 1]
    assert WITH("AB")["input_ids"] == [BOS, *ids("AB")]
    assert WITHOUT("AB")["input_ids"] == ids("AB")


def test_where_the_tokenizer_adds_bos_it_is_there_once_and_every_token_of_the_text_is_predicted():
    a, b, c = ids("abc")
    assert adds_bos(WITH) and first_token_rule(WITH) == "bos-prepended"
    assert rows(WITH, "abc") == [([BOS, a, b, c], [IGNORE, a, b, c])]


def test_where_it_adds_none_the_first_token_is_context_and_not_predicted():
    a, b, c = ids("abc")
    assert not adds_bos(WITHOUT) and first_token_rule(WITHOUT) == "first-token-is-context"
    assert rows(WITHOUT, "abc") == [([a, b, c], [IGNORE, b, c])]


def test_eos_is_appended_and_learned_only_when_asked():
    a, b = ids("ab")
    assert rows(WITH, "ab", learn_eos=True) == [([BOS, a, b, EOS], [IGNORE, a, b, EOS])]
    assert rows(WITHOUT, "ab", learn_eos=True) == [([a, b, EOS], [IGNORE, b, EOS])]


def test_truncation_takes_the_tail_and_the_end_with_it():
    a, b = ids("ab")
    long, exact = rows(WITH, "abc", "ab", max_tokens=4, learn_eos=True)
    assert long == ([BOS, *ids("abc")], [IGNORE, *ids("abc")])  # five ids with EOS: the end was not seen, so it is not taught
    assert exact == ([BOS, a, b, EOS], [IGNORE, a, b, EOS])
    documents = [Document("d", "abcdef", "book", 0)]
    (row,) = training_rows(WITH, documents, 4, True)
    assert (len(row.input_ids), row.cut_tokens, row.n_supervised) == (4, 4, 3)


def test_a_pad_token_that_is_the_eos_token_does_not_mask_the_end():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    (row,) = training_rows(tokenizer, [Document("d", "ab", "book", 0)], None, True)
    assert row.labels[-1] == tokenizer.pad_token_id == EOS and row.n_supervised == 3


@pytest.mark.parametrize("tokenizer", [WITH, WITHOUT], ids=["bos", "no bos"])
def test_text_that_spells_a_special_token_stays_text(tokenizer):
    text = "a <s> b</s><pad>"
    (encoded,) = encode_texts(tokenizer, [text])
    assert len(encoded) == len(text) and encoded.max() < 256
    assert tokenizer.decode(encoded.tolist()) == text
    assert adds_bos(tokenizer) == (tokenizer is WITH)  # encoding changes no state of the tokenizer that the rule rests on


def test_text_that_spells_a_special_token_stays_text_with_the_bundled_tokenizer():
    tokenizer = load_tokenizer(locate("galvan/spark"))
    text = "He wrote <s> and </s> in the margin."
    (encoded,) = encode_texts(tokenizer, [text])
    assert not set(encoded.tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(encoded.tolist()) == text


def test_a_special_token_spelled_at_the_start_does_not_replace_bos():
    (row,) = training_rows(WITH, [Document("d", "<s>a", "book", 0)], None, False)
    assert row.input_ids.tolist() == [BOS, *ids("<s>a")]


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_a_row_is_bos_text_eos_and_nothing_else(text):
    (encoded,) = encode_texts(WITH, [text])
    (row,) = training_rows(WITH, [Document("d", text, "book", 0)], None, True)
    assert len(encoded) == len(text.encode())
    assert row.input_ids.tolist() == [BOS, *encoded.tolist(), EOS]
    assert row.n_supervised == len(encoded) + 1 and row.cut_tokens == 0


def test_no_text_gives_no_rows():
    assert encode_texts(WITH, []) == [] and training_rows(WITH, [], None, True) == []


def test_the_first_token_may_end_inside_a_character():
    # A quotation mark is three bytes, and this tokenizer's first token is one of them.
    assert first_token_bytes(WITHOUT, "\u201cYes\u201d") == 1
    assert first_token_bytes(WITHOUT, "Yes") == 1
    assert first_token_bytes(WITHOUT, "\u00e9") == 1
    assert first_token_bytes(WITHOUT, "<s>") == 1


def test_the_first_token_of_a_byte_fallback_tokenizer_counts_its_bytes():
    vocab = {"<unk>": 0, "<0xE2>": 1, "<0x80>": 2, "<0x9C>": 3, "\u2581a": 4, "b": 5, "\u00e9": 6, "\u2581": 7, "a": 8}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never"), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert first_token_bytes(tokenizer, "\u201cb") == 1  # E2 of E2 80 9C
    assert first_token_bytes(tokenizer, " ab") == 2  # the leading space belongs to the token, and decoding alone would lose it
    assert first_token_bytes(tokenizer, "\u00e9b") == 2  # one token, two bytes


def test_a_tokenizer_without_bos_keeps_its_rule_through_saving(tmp_path):
    save_base(tmp_path, tiny_gpt2(), bos=False)
    tokenizer = load_tokenizer(Located("tiny", tmp_path))
    assert first_token_rule(tokenizer) == "first-token-is-context"
    assert encode_texts(tokenizer, ["</s>"])[0].tolist() == ids("</s>")
