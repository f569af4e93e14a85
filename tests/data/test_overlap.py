"""Shared spans: exact, against the plain definition by sets of word tuples."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.data.overlap import Corpus, containment, documents_sharing, longest

Texts = list[list[str]]


def windows(texts: Texts, length: int) -> list[tuple[str, ...]]:
    return [tuple(text[start : start + length]) for text in texts for start in range(len(text) - length + 1)]


def plain_longest(a: Texts, b: Texts) -> int:
    length = 0
    while set(windows(a, length + 1)) & set(windows(b, length + 1)):
        length += 1
    return length


def test_the_longest_shared_run_is_found_in_both() -> None:
    a, b = (
        Corpus([["x", "the", "cat", "sat", "down"], ["on", "the", "mat", "it", "sat"]]),
        Corpus([["so", "the", "cat", "sat", "on", "the", "mat"]]),
    )
    span = longest(a, b)
    assert span is not None and span.length == 3
    assert a.words(span.a_start, 3) == b.words(span.b_start, 3) == ["the", "cat", "sat"]  # "sat on" would cross two documents


def test_nothing_in_common_is_none_and_no_window_is_undefined() -> None:
    assert longest(Corpus([["a"]]), Corpus([["b"]])) is None
    assert longest(Corpus([]), Corpus([[]])) is None
    assert containment(Corpus([["a"]]), Corpus([["b"]]), 13) is None


def test_a_long_passage_is_found_to_its_last_word() -> None:
    passage = [f"w{number}" for number in range(3_001)]
    assert longest(Corpus([["x"], ["y", *passage, "z"]]), Corpus([["q", *passage], ["r"]])).length == 3_001  # type: ignore[union-attr]


TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=60), max_size=5)


@settings(max_examples=300, deadline=None)
@given(a=TEXTS, b=TEXTS, length=st.integers(1, 25))
def test_hashing_agrees_with_the_plain_definition(a: Texts, b: Texts, length: int) -> None:
    in_a, in_b = Corpus(a), Corpus(b)
    span = longest(in_a, in_b)
    assert (span.length if span else 0) == plain_longest(a, b)
    if span:
        assert in_a.words(span.a_start, span.length) == in_b.words(span.b_start, span.length)
    known, asked = set(windows(a, length)), windows(b, length)
    assert containment(in_a, in_b, length) == (sum(window in known for window in asked) / len(asked) if asked else None)
    assert documents_sharing(in_a, in_b, length) == [
        number for number, text in enumerate(b) if known & set(windows([text], length))
    ]
