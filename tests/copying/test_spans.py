"""Matching statistics are exact: brute force, difflib, pydivsufsort, hand-worked and planted copies (METHODS C5.1, C5.2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galvan.copying.spans import matching_statistics, suffix_array
from galvan.data import overlap

WORDS = st.lists(st.sampled_from("abc"), max_size=25)
VOCABULARY = [f"w{i}" for i in range(400)]


def brute_force(training: Sequence[Sequence[str]], text: Sequence[str]) -> list[int]:
    """The definition: try every place of every document."""

    def common(a: Sequence[str], b: Sequence[str]) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    return [max((common(text[p:], d[q:]) for d in training for q in range(len(d))), default=0) for p in range(len(text))]


@given(st.lists(st.integers(0, 3), max_size=60))
def test_the_suffix_array_is_the_order_of_the_suffixes(ids: list[int]) -> None:
    assert suffix_array(np.array(ids, dtype=np.int64)).tolist() == sorted(range(len(ids)), key=lambda i: ids[i:])


def test_the_suffix_array_of_one_word_repeated_is_the_reverse() -> None:
    assert suffix_array(np.zeros(1000, dtype=np.int64)).tolist() == list(range(999, -1, -1))


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=3))
def test_matching_statistics_equal_brute_force_and_name_a_true_place(training: list[list[str]], texts: list[list[str]]) -> None:
    for text, found in zip(texts, matching_statistics(training, texts), strict=True):
        assert found.lengths.tolist() == brute_force(training, text)
        for p, n in enumerate(found.lengths.tolist()):
            if n:
                document, position = training[found.documents[p]], found.positions[p]
                assert document[position : position + n] == text[p : p + n]
            else:
                assert found.documents[p] == found.positions[p] == -1


def test_a_case_worked_by_hand() -> None:
    # "the sea" stands in the first document, "sea was calm" in the second; "the sea was" in neither, for no span crosses an end.
    found = matching_statistics([["the", "sea"], ["sea", "was", "calm"]], [["the", "sea", "was", "calm", "again"]])[0]
    assert found.lengths.tolist() == [2, 3, 2, 1, 0]
    assert (found.documents.tolist(), found.positions.tolist()) == ([0, 1, 1, 1, -1], [0, 0, 1, 2, -1])


def test_the_longest_span_is_the_one_that_difflib_and_the_leak_check_find() -> None:
    rng = random.Random(3)
    for _ in range(30):
        a, b = ([rng.choice(VOCABULARY[:12]) for _ in range(200)] for _ in range(2))
        longest = int(matching_statistics([a], [b])[0].lengths.max())
        assert longest == SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size
        shared = overlap.longest(overlap.Corpus([a]), overlap.Corpus([b]))
        assert shared is not None and shared.length == longest


@pytest.mark.parametrize("length", range(5, 61))
def test_a_planted_copy_is_found_where_it_was_planted_with_its_exact_length(length: int) -> None:
    rng = random.Random(length)
    training = [[rng.choice(VOCABULARY) for _ in range(170)] for _ in range(20)]
    document, position, place = rng.randrange(20), rng.randrange(170 - length), rng.randrange(100)
    copy = training[document][position : position + length]
    text = [f"new{i}" for i in range(place)] + copy + [f"new{i}" for i in range(place, 120)]
    found = matching_statistics(training, [text])[0]
    assert found.lengths[place] == length == found.lengths.max()
    assert (found.documents[place], found.positions[place]) == (document, position)
    assert np.count_nonzero(found.lengths) == length


def test_spans_with_planted_copies_are_those_of_pydivsufsort() -> None:
    """Its maximal common substrings, in numbers for words: the longest from p on is what is left of the longest that covers p."""
    pydivsufsort = pytest.importorskip("pydivsufsort")
    rng = np.random.default_rng(7)
    for length in (5, 17, 60):
        training, text = rng.integers(0, 40, 400), rng.integers(0, 40, 150)
        begin = int(rng.integers(0, 400 - length))
        text[30 : 30 + length] = training[begin : begin + length]
        expected = np.zeros(150, dtype=int)
        for place, _, n in pydivsufsort.common_substrings(text, training, limit=1):
            expected[place : place + n] = np.maximum(expected[place : place + n], np.arange(n, 0, -1))
        found = matching_statistics([[f"w{i}" for i in training]], [[f"w{i}" for i in text]])[0].lengths
        assert found.tolist() == expected.tolist() and found[30] >= length


@given(st.data())
def test_planted_copies_are_all_found(data: st.DataObject) -> None:
    training = [[f"d{d}w{i}" for i in range(80)] for d in range(4)]
    plants = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 19), st.integers(5, 60)), min_size=1, max_size=4))
    text: list[str] = []
    places = []
    for number, (document, position, length) in enumerate(plants):
        text += [f"gap{number}"]
        places.append((len(text), length))
        text += training[document][position : position + length]
    found = matching_statistics(training, [text])[0]
    assert [found.lengths[place] for place, _ in places] == [length for _, length in places]


def test_a_passage_cuts_its_spans_at_its_end() -> None:
    found = matching_statistics([list("abcdefgh")], [list("abcdefgh")])[0]
    assert found.within(2, 5).tolist() == [3, 2, 1]
