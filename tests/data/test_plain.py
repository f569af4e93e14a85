"""Shortcuts for plain text say what the long way says."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from galvan.data.mend import repair, without_invisible
from galvan.text import has_hostile, has_words, is_plain, tidy, words

TEXTS = st.one_of(st.text(st.sampled_from("ab Z09.,'’‘“”—–…\n\t\x7f\x00\r\u200bé\u0301\u3164_"), max_size=25), st.text(max_size=15))


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("“so”—a…")
@example("a\x7f")
@example("e\u0301")
def test_plain_text_needs_no_mending_and_is_tidied_as_any_other(text: str) -> None:
    if is_plain(text):
        assert not has_hostile(text) and repair(text) == text == without_invisible(text) == unicodedata.normalize("NFC", text)
    assert tidy(text) == tidy(text, plain=False)


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.integers(0, 6))
def test_as_many_words_are_found_as_there_are(text: str, least: int) -> None:
    assert has_words(text, least) == (len(words(text)) >= least)
