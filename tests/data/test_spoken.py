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


def test_a_word_has_one_hash_wherever_it_stands_and_whatever_its_length() -> None:
    every = [letter * size + end for letter in "aé漢" for size in range(1, 45) for end in ("", "b", "c")]
    alone, together, listed = (spoken([word]) for word in every), spoken([" x, ".join(every), *every]), spoken_of_words([every])
    hashes = [int(one.hashes[0]) for one in alone]
    assert len(set(hashes)) == len(set(every)) == len(hashes)
    assert (
        together.hashes[: 2 * len(every) : 2].tolist()
        == together.hashes[-len(every) :].tolist()
        == listed.hashes.tolist()
        == hashes
    )
