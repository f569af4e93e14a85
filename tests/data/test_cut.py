"""Cutting: hand-worked cases, and that nothing is lost and nothing is too long under any tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from galvan.data import cut as cut_module
from galvan.data.cut import Offsets, cut, in_order, pieces, to_documents
from galvan.data.rows import Row


def by_word(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def by_character(text: str) -> list[tuple[int, int]]:
    return [(index, index + 1) for index in range(len(text))]


def by_byte(text: str) -> list[tuple[int, int]]:
    """Several tokens may share one character, as in byte-level BPE."""
    return [(index, index + 1) for index, character in enumerate(text) for _ in character.encode()]


def by_context(text: str) -> list[tuple[int, int]]:
    """A text alone has up to three tokens more than in its context, and its tokens straddle words."""
    extra = [(0, 1)] * min(3, len(text)) if text[:1].isalpha() else []
    return extra + [(index, min(index + 5, len(text))) for index in range(0, len(text), 5)]


def byte_bpe() -> Offsets:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["the rain came over the sea and the light was dark. It was the sea that came."] * 9, trainer)

    def offsets(text: str) -> Sequence[tuple[int, int]]:
        spans: Sequence[tuple[int, int]] = tokenizer.encode(text).offsets
        return spans

    return offsets


TOKENIZERS = {"word": by_word, "character": by_character, "byte": by_byte, "context": by_context, "bpe": byte_bpe()}


def test_a_text_is_cut_at_the_last_sentence_end_that_fits() -> None:
    # by_word: "One two three." has 4 tokens, "Four five." 3, "Six." 2, "Seven eight nine ten." 5; 14 in all.
    # Budget 8: the first 8 tokens end inside "Six.", so the first piece is the first two sentences.
    # 7 tokens are left, which fit.
    text = "One two three. Four five. Six. Seven eight nine ten."
    assert list(pieces(text, 8, by_word)) == [("One two three. Four five.", 7), ("Six. Seven eight nine ten.", 7)]


def test_a_paragraph_end_in_the_last_quarter_is_preferred_to_a_later_sentence_end() -> None:
    # Budget 8, 12 tokens or more left: the paragraph ends after 6 tokens (three quarters of 8), "D e." would still fit.
    assert next(iter(pieces("A b. C d.\n\nE. F g. H i j k.", 8, by_word))) == ("A b. C d.", 6)
    # It ends after 3: too early, so the sentence end after 8 tokens is taken.
    assert next(iter(pieces("A b.\n\nC d. E. F g. H i j k.", 8, by_word))) == ("A b.\n\nC d. E.", 8)


def test_a_sentence_above_the_budget_is_cut_at_white_space_and_a_word_above_it_anywhere() -> None:
    # 10 tokens, budget 4: four, then 6 are left, which is more than 5/4 of the budget: four again, and two.
    assert [text for text, _ in pieces("a b c d e f g h i j", 4, by_word)] == ["a b c d", "e f g h", "i j"]
    assert [text for text, _ in pieces("abcdefghijkl", 4, by_character)] == ["abcd", "efgh", "ijkl"]
    assert [text for text, _ in pieces("ab ひひひひ", 4, by_byte)] == ["ab", "ひ", "ひ", "ひ", "ひ"]


def test_the_last_two_pieces_share_what_is_left() -> None:
    # 18 sentences of 2 tokens, budget 32: 36 tokens would leave a stump of 4. 5/8 of 36 is 22: 11 sentences and 7.
    text = " ".join(f"W{number}." for number in range(18))
    assert [n_tokens for _, n_tokens in pieces(text, 32, by_word)] == [22, 14]


def test_abbreviations_do_not_end_a_piece() -> None:
    assert next(iter(pieces("It rained. I met Mr. Smith there today.", 8, by_word)))[0] == "It rained."


def test_rows_that_fit_are_not_touched_and_know_their_tokens() -> None:
    rows = [Row("One two.", "s", 1, "w"), Row("One two three. " * 3, "s", 2, "w")]
    assert [(piece.row.position, piece.number, piece.n_tokens) for piece in cut(rows, 8, by_word)] == [
        (1, 0, 3),
        (2, 1, 8),
        (2, 2, 4),
    ]


WORDS = st.sampled_from(
    ["a", "the", "Mr.", "night.", "sea?", "“No!”", "ひらがな。", "é́", "\U0001f9d1\u200d\U0001f680", "x" * 40, "I."]
)
GAPS = st.sampled_from([" ", " ", " ", "\n", "\n\n", "  "])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=80).map(lambda pairs: "".join(word + gap for word, gap in pairs))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(TEXTS, st.text(max_size=300)), budget=st.integers(16, 40))
def test_cutting_loses_nothing_but_white_space_and_keeps_to_the_budget(tokenizer: str, text: str, budget: int) -> None:
    offsets = TOKENIZERS[tokenizer]
    parts = list(pieces(text, budget, offsets))
    assert "".join("".join(part.split()) for part, _ in parts) == "".join(text.split())
    assert all(n_tokens == len(offsets(part)) <= budget and part == part.strip() != "" for part, n_tokens in parts)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, budget=st.integers(16, 40), window=st.integers(1, 200))
def test_tokenising_a_book_in_windows_loses_nothing_either(text: str, budget: int, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_module, "_WINDOW_CHARACTERS", window)
        parts = list(pieces(text, budget, by_word))
    assert "".join("".join(part.split()) for part, _ in parts) == "".join(text.split())
    assert all(len(by_word(part)) <= budget for part, _ in parts)


def test_windows_cut_as_one_window_does() -> None:
    text = "".join(f"Sentence {number} is here, my friend.{chr(10) * 2 if number % 7 == 0 else ' '}" for number in range(2_000))
    whole = list(pieces(text, 64, by_word))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_module, "_WINDOW_CHARACTERS", 1_000)
        assert list(pieces(text, 64, by_word)) == whole


def test_a_megabyte_without_a_space_is_cut_in_linear_time() -> None:
    parts = list(pieces("x" * 1_000_000, 500, by_character))
    assert sum(len(part) for part, _ in parts) == 1_000_000


def test_ids_are_slug_position_and_part_and_positions_are_renumbered() -> None:
    rows = [
        Row("One two three. " * 3, "Letter I. Mr. O’Neill, to his wife at Bath in January, 1794", 4, "w"),
        Row("short", "Letter I. Mr. O’Neill, to his wife at Bath in January, 1794", 9, "w"),
        Row("short", "letter-i-mr-oneill-to-his-wife-at-bath", 1, "w"),
        Row("short", "手紙", 2, "w"),
    ]
    documents = [document for document, _ in to_documents(cut(rows, 8, by_word))]
    assert [(document.id, document.position) for document in documents] == [
        ("letter-i-mr-oneill-to-his-wife-at-bath:4.1", 1),
        ("letter-i-mr-oneill-to-his-wife-at-bath:4.2", 2),
        ("letter-i-mr-oneill-to-his-wife-at-bath:9", 3),
        ("letter-i-mr-oneill-to-his-wife-at-bath-2:1", 1),
        ("source:2", 1),
    ]


def test_rows_are_put_in_order_of_source_and_position() -> None:
    rows = [Row("", "b", 2, "1"), Row("", "a", 1, "2"), Row("", "b", 1, "3")]
    assert [row.where for row in in_order(rows)] == ["3", "1", "2"]


def test_positions_that_repeat_are_replaced_by_the_order_of_the_file() -> None:
    rows = [Row("", "b", 7, "1"), Row("", "b", 7, "2"), Row("", "b", 1, "3")]
    assert [(row.where, row.position) for row in in_order(rows)] == [("1", 1), ("2", 2), ("3", 3)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "A", "a-2", "é", "", "!"]), st.integers(-3, 3), TEXTS), max_size=20))
def test_ids_are_unique_and_positions_are_contiguous(items: list[tuple[str, int, str]]) -> None:
    rows = in_order(Row(text, source, position, "w") for source, position, text in items)
    documents = [document for document, _ in to_documents(cut(rows, 16, by_word))]
    assert len({document.id for document in documents}) == len(documents)
    for source in {document.source for document in documents}:
        places = [document.position for document in documents if document.source == source]
        assert places == list(range(1, len(places) + 1))
