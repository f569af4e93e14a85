"""Labels of conversations and prompts, worked by hand: expected is what is learned, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from chat_tokenizers import CHATML, CHATML_MARKED, LLAMA, MISTRAL, THINKING, chat_tokenizer
from galvan.data.chat import render
from galvan.data.encode import encode, prompt_ids
from galvan.data.tokens import IGNORE, training_rows
from galvan.errors import DataError
from galvan.payload import Chat, Pair, Tokens
from galvan.rundir import Document

TALK = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}))
LONG = Chat((*TALK.messages, {"role": "user", "content": "So"}, {"role": "assistant", "content": "Bye"}))


def document(payload) -> Document:
    return Document("d", "", "s", 1, payload=payload)


def learned(tokenizer, payload, learn_eos=True, max_tokens=None) -> str:
    """The learned tokens, with a bar between them."""
    (row,) = training_rows(tokenizer, [document(payload)], max_tokens, learn_eos)
    assert all(label in (IGNORE, i) for label, i in zip(row.labels, row.input_ids, strict=True)) and row.labels[0] == IGNORE
    return "|".join(tokenizer.decode([int(i)]) for i in row.labels if i != IGNORE)


@pytest.mark.parametrize("pad_is_eos", [False, True], ids=["pad", "pad = eos"])
@pytest.mark.parametrize(
    ("template", "text", "one", "two"),
    [
        (CHATML, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n", "Y|o|<|im_end|>|\n", "Y|o|<|im_end|>|\n|B|y|e|<|im_end|>|\n"),
        (CHATML_MARKED, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n", "Y|o|<|im_end|>", "Y|o|<|im_end|>|B|y|e|<|im_end|>"),
        (LLAMA, "<s><|head|>user<|/head|>\n\nHi<|eot|><|head|>assistant<|/head|>\n\nYo<|eot|>", "Y|o|<|eot|>", "Y|o|<|eot|>|B|y|e|<|eot|>"),
        (MISTRAL, "<s>[INST] Hi[/INST] Yo</s>", " |Y|o|</s>", " |Y|o|</s>| |B|y|e|</s>"),
    ],
    ids=["ChatML", "ChatML with marks", "Llama", "Mistral"],
)  # fmt: skip
def test_only_the_assistants_turns_are_learned_and_their_ends_with_them(template, text, one, two, pad_is_eos):
    tokenizer = chat_tokenizer(template, pad_is_eos)
    encoded = encode(tokenizer, document(TALK), True)
    assert tokenizer.decode(encoded.input_ids) == text == tokenizer.apply_chat_template(list(TALK.messages), tokenize=False)
    assert encoded.input_ids.tolist() == tokenizer.apply_chat_template(list(TALK.messages))["input_ids"]
    assert encoded.way == ("marks" if template == CHATML_MARKED else "prefix")
    assert learned(tokenizer, TALK) == one
    assert learned(tokenizer, LONG) == two


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED, LLAMA, MISTRAL, None])
def test_what_is_generated_from_is_how_the_training_row_begins(template):
    tokenizer = chat_tokenizer(template)
    for payload in (TALK, LONG, Pair("Q: ", "yes")):
        given, row = prompt_ids(tokenizer, document(payload)), encode(tokenizer, document(payload), True).input_ids.tolist()
        assert row[: len(given)] == given and len(given) < len(row)
    if template is not None:
        assert (
            prompt_ids(tokenizer, document(TALK))
            == tokenizer.apply_chat_template(list(TALK.messages[:1]), add_generation_prompt=True)["input_ids"]
        )


@pytest.mark.parametrize("template", [LLAMA, MISTRAL, None])
def test_bos_stands_there_once(template):
    tokenizer = chat_tokenizer(template)
    for payload in (TALK, Pair("Q: ", "yes")):
        ids = encode(tokenizer, document(payload), True).input_ids.tolist()
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_a_prompt_is_read_and_its_completion_learned_with_the_end():
    tokenizer = chat_tokenizer(None)
    assert learned(tokenizer, Pair("Hi ", "Yo")) == "Y|o|</s>"
    assert learned(tokenizer, Pair("Hi ", "Yo"), learn_eos=False) == "Y|o"
    assert learned(tokenizer, Pair("", "Yo")) == "Y|o|</s>"
    tokenizer.pad_token = tokenizer.eos_token
    assert learned(tokenizer, Pair("Hi ", "Yo")) == "Y|o|</s>"


def test_truncation_takes_the_tail_of_the_completion_and_counts_what_was_to_be_learned():
    tokenizer = chat_tokenizer(None)
    assert learned(tokenizer, Pair("Hi", "Yo"), max_tokens=4) == "Y"  # <s> H i Y
    (row,) = training_rows(tokenizer, [document(Pair("Hi", "Yo"))], 2, True)
    assert (row.cut_tokens, row.cut_supervised, row.n_supervised) == (4, 3, 0)


def test_without_a_template_contents_are_parted_by_a_blank_line():
    tokenizer = chat_tokenizer(None)
    encoded = encode(tokenizer, document(LONG), True)
    assert tokenizer.decode(encoded.input_ids) == "<s>Hi\n\nYo\n\nSo\n\nBye</s>" and encoded.way == "no template"
    assert learned(tokenizer, LONG) == "Y|o|B|y|e|</s>"


def test_where_a_beginning_is_written_differently_turns_are_found_by_their_words():
    tokenizer = chat_tokenizer(THINKING)
    encoded = encode(tokenizer, document(LONG), True)
    assert encoded.way == "offsets"
    assert learned(tokenizer, LONG) == "Y|o|<|im_end|>|B|y|e|<|im_end|>"


def test_a_turn_that_the_template_does_not_write_is_refused():
    tokenizer = chat_tokenizer(THINKING.replace("m.content", "m.content | upper"))
    with pytest.raises(DataError, match="message 2 is not written as it is by the model's chat template") as caught:
        encode(tokenizer, document(LONG), True)
    assert caught.value.code == "tokens/turn-not-found"


def test_a_template_that_refuses_a_conversation_says_why():
    with pytest.raises(DataError, match="Document d: the model's chat template refuses it: roles must alternate") as caught:
        encode(chat_tokenizer(MISTRAL), document(Chat((*TALK.messages, *TALK.messages[1:]))), True)
    assert caught.value.code == "tokens/template"


def test_earlier_turns_given_as_context_and_turns_of_weight_0_are_only_read():
    tokenizer = chat_tokenizer(CHATML)
    assert learned(tokenizer, Chat(LONG.messages, None, 2)) == "B|y|e|<|im_end|>|\n"
    silent = Chat((LONG.messages[0], {**LONG.messages[1], "weight": 0}, *LONG.messages[2:]))
    assert learned(tokenizer, silent) == "B|y|e|<|im_end|>|\n"


def test_an_end_is_added_where_the_template_writes_none():
    tokenizer = chat_tokenizer(CHATML)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert learned(tokenizer, TALK).endswith("\n|<|im_end|>")
    assert not learned(tokenizer, TALK, learn_eos=False).endswith("<|im_end|>")


def test_only_the_words_of_the_answer_are_scored():
    for template, payload in ((CHATML, LONG), (LLAMA, LONG), (MISTRAL, LONG), (CHATML_MARKED, LONG)):
        encoded = encode(chat_tokenizer(template), document(payload), False)
        said = chat_tokenizer(template).decode(encoded.input_ids[encoded.scored])
        assert said.replace(" ", "") == "YoBye" and encoded.n_bytes == len(said)
    pair = encode(chat_tokenizer(None), document(Pair("Hé: ", "é!")), False)
    assert (int(pair.scored.sum()), pair.n_bytes) == (3, 3)


def test_ids_are_taken_as_they_are():
    tokenizer = chat_tokenizer(None)
    assert learned(tokenizer, Tokens((256, 40, 41, 257))).count("|") == 2
    encoded = encode(tokenizer, document(Tokens((256, 40, 41, 257), (-100, -100, 41, 257))), True)
    assert encoded.labels.tolist() == [-100, -100, 41, 257] and np.flatnonzero(encoded.scored).tolist() == [2]
    with pytest.raises(DataError, match="id 9999 is not in the tokenizer's vocabulary of 259"):
        encode(tokenizer, document(Tokens((1, 9999))), True)


def test_rendering_is_the_templates_own_text_for_tools_and_systems():
    tokenizer = chat_tokenizer(CHATML)
    tokenizer.chat_template = "{{ tools | length }}" + CHATML
    chat = Chat(({"role": "system", "content": "S"}, *TALK.messages), ({"type": "function", "function": {"name": "f"}},))
    assert render(tokenizer, chat).text.startswith("1<|im_start|>system\nS<|im_end|>\n<|im_start|>user")
