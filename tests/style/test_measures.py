"""Typography, measures and the space they span: hand-worked cases and lexicalrichness (METHODS S4.2, S4.3, C4.6)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.style import MEASURES
from galvan.style.features import CLIP, learn
from galvan.style.lists import LISTS
from galvan.style.measures import mattr, mtld, sentence_lengths
from galvan.style.normalise import distorted, first_words, normalise, tokens, typography, unlike

TEXT = 'He came, he saw; he wrote: "No!" \u2014 and why? Because. The sea was calm.'
BY_NAME = {measure.name: measure for measure in MEASURES}


def test_two_editions_of_one_text_become_one() -> None:
    london = "\u2018I came,\u2019 said he\u2014\u2018and you didn\u2019t!\u2019 He _paused_ . . . then went."
    boston = '"I came," said he -- "and you didn\'t!" He paused... then *went*.'
    assert normalise([london]) == normalise([boston])


def test_an_apostrophe_is_no_quotation_mark() -> None:
    assert normalise(["\u2019Tis the soldiers' tent, don't you know, and 'twas cold."]) == [
        "'Tis the soldiers' tent, don't you know, and 'twas cold."
    ]


def test_the_outer_quote_is_decided_for_each_source() -> None:
    single, double = "'Come,' she said. 'Now.'", '"Come," she said. "Now, \'dearest\'."'
    assert normalise([single, double], ["a", "b"])[0] == '"Come," she said. "Now."'
    assert "'dearest'" in normalise([single, double], ["a", "b"])[1]


def test_a_hyphen_and_a_range_of_years_are_no_dashes() -> None:
    assert normalise(["a well-known man, 1816\u20131823"]) == ["a well-known man, 1816\u20131823"]
    assert normalise(["a man - known \u2013 well--here"]) == ["a man \u2014 known \u2014 well \u2014 here"]


def test_the_type_is_reported_as_it_came() -> None:
    found = typography(["\u201cYes\u201d \u2014 no -- 'maybe' so ..."])
    assert found.curly_quotes == pytest.approx(2000 / found.words)
    assert (
        found.long_dashes
        == found.double_hyphens
        == found.single_outer_quotes
        == found.ellipses
        == pytest.approx(1000 / found.words)
    )


def test_sets_that_look_different_are_named_with_their_rates_and_equal_ones_are_not() -> None:
    """The Copperfield case: 43 single quotes in 1,000 words against 29 double ones."""
    single, double = "'Come,' she said. " + "word " * 40, '"Come," she said. ' + "word " * 40
    said = unlike({"author": typography([single]), "base": typography([double])})
    assert [line.split(":")[0] for line in said] == ["straight double quotes", "opening single quotes"]
    assert "author 0.0, base 46.5" in said[0]
    assert unlike({"author": typography([single]), "base": typography([single])}) == []


def test_words_outside_the_common_ones_are_one_star() -> None:
    assert distorted("The Creature fled, and the sea\u2019s roar", frozenset({"the", "and"})) == "the * *, and the *\u2019* *"


def test_a_text_is_cut_behind_its_last_word_and_its_mark() -> None:
    assert first_words('He said, "Go." Then left.', 3) == 'He said, "Go."'
    assert first_words("short", 9) == "short"


def test_marks_are_counted_per_hundred_words() -> None:
    n = len(tokens(TEXT))
    assert n == 14
    expected = {
        "commas": 1,
        "semicolons": 1,
        "colons": 1,
        "full_stops": 2,
        "exclamation_marks": 1,
        "question_marks": 1,
        "quotation_marks": 2,
        "dashes": 1,
    }
    assert {name: BY_NAME[name](TEXT) for name in expected} == {name: pytest.approx(100 * k / n) for name, k in expected.items()}


def test_sentences_are_measured_in_words() -> None:
    text = "One two three. Four five. Mr. Six seven eight nine ten."
    assert sentence_lengths(text) == [3, 2, 6]
    assert BY_NAME["sentence_length"](text) == pytest.approx(11 / 3)
    assert BY_NAME["sentence_length_spread"](text) == pytest.approx(
        math.sqrt(((3 - 11 / 3) ** 2 + (2 - 11 / 3) ** 2 + (6 - 11 / 3) ** 2) / 2)
    )
    assert BY_NAME["word_length"]("ab abcd") == 3


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_a_measure_of_nothing_is_none_and_has_a_phrase(measure: object) -> None:
    assert measure("") is None and measure.phrase  # type: ignore[operator, attr-defined]


def test_mtld_by_hand() -> None:
    """a b a a: the share falls 1, 1, 2/3 <= 0.72: one factor, then `a` alone adds none: 4 words a factor. Backwards a a: 1/2, one factor;
    then b a: none: 4 as well."""
    assert mtld(["a", "b", "a", "a"]) == 4.0
    assert mtld(["a", "b", "c"]) == 3.0
    assert mattr(["a"] * 49) is None and mattr(["a", "b"] * 25) == 2 / 50


@given(st.lists(st.sampled_from([f"w{i}" for i in range(60)]), min_size=50, max_size=400))
@settings(max_examples=60, deadline=None)
def test_mattr_is_the_mean_over_all_windows(words: list[str]) -> None:
    windows = [len(set(words[i : i + 50])) / 50 for i in range(len(words) - 49)]
    assert mattr(words) == pytest.approx(sum(windows) / len(windows), abs=1e-12)


def test_mtld_and_mattr_equal_lexicalrichness() -> None:
    lexicalrichness = pytest.importorskip("lexicalrichness")
    rng = np.random.default_rng(0)
    for size in (60, 150, 400):
        words = [f"w{chr(97 + i % 26)}{i}" for i in np.minimum(rng.zipf(1.4, size), 300)]
        known = lexicalrichness.LexicalRichness(" ".join(words), preprocessor=None, tokenizer=lambda text: text.split())
        assert mtld(words) == pytest.approx(known.mtld(threshold=0.72), abs=1e-9)
        assert mattr(words) == pytest.approx(known.mattr(window_size=50), abs=1e-9)


def test_a_nearly_constant_feature_cannot_outweigh_the_others() -> None:
    """The Copperfield case: one edition's mark, absent elsewhere, is clipped at four standard deviations."""
    texts = [f"It was the {word} of times, and so on it went." for word in ("best", "worst", "age", "epoch")] * 10
    space = learn(texts)
    strange = space.points([";" * 60 + texts[0]])
    assert np.abs(strange).max() == CLIP
    assert np.abs(space.points(texts)).max() <= CLIP and np.isfinite(space.points(texts)).all()


def test_names_and_topics_do_not_count_in_character_runs() -> None:
    base = ["the cat and the dog went to the sea and saw it"] * 5
    space = learn(base)
    one, other = space.points(
        ["the zebra and the walrus went to the qworp and saw it", "the xylem and the phloem went to the brzk and saw it"]
    )
    n_words, n_measures = len(space.words), len(MEASURES)
    assert (one[n_words:-n_measures] == other[n_words:-n_measures]).all()


def test_words_can_be_left_out_of_the_features() -> None:
    texts = ["she said that he had it and she went", "he said that she had it"]
    assert "she" in learn(texts).words and "she" not in learn(texts, frozenset({"she"})).words


def test_the_lists_of_words_are_words_as_texts_are_counted_in_them() -> None:
    for listed in LISTS.values():
        assert all(tokens(normalise([word])[0]) == (word,) for word in listed)
