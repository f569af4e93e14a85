"""Words by the thousand are the words that `galvan.text.words` finds one text at a time."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from galvan.data.spoken import lists, spoken, spoken_of_words
from galvan.text import words

PROSE = st.text(st.sampled_from("abzÄé09'’‘“”—–….,- \n\tİßſ漢\u0301_\x00\x1f\x7f\xa0"), max_size=30)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ASCII = st.text(st.characters(max_codepoint=127), max_size=30)


@settings(max_examples=600, deadline=None)
@given(texts=st.lists(st.one_of(PROSE, ANY, ASCII), max_size=8))
@example(texts=["", "'", "a'", "'a", "rock'n'roll ''tis 'twas' don’t ‘so’", "", "\n"])
@example(texts=["it's", "é", "'", ""] * 300)
def test_words_in_numbers_are_the_words_of_each_text(texts: list[str]) -> None:
    assert list(lists(spoken(texts))) == [words(text) for text in texts]


def test_lists_of_words_come_back_as_they_were() -> None:
    documents = [["a", "b", "a"], [], ["b"]]
    assert list(lists(spoken_of_words(documents))) == documents
