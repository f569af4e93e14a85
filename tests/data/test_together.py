"""What is looked for in many texts at once is what looking at each of them would find."""

from __future__ import annotations

import re
from itertools import chain

from hypothesis import example, given, settings
from hypothesis import strategies as st

from galvan import recipe
from galvan.data import clean, gutenberg, mend
from galvan.data.audit import Marks
from galvan.data.rows import Row
from galvan.data.together import Together
from galvan.text import SECRET_HINTS, has_secret, has_words, is_plain, tidy, without_secrets, word_places

HINTS = [*chain.from_iterable(SECRET_HINTS.values())]
TOKENS = ["hf_" + "CaNaRy" * 6, "sk-" + "CaNaRy7" * 3, "AKIA" + "CANARY1" * 2 + "AB", "-----BEGIN RSA PRIVATE KEY-----\nQUJD", "xoxb-" + "1CaNaRyCaNaRy", "hf_\u200b" + "CaNaRy" * 6]  # fmt: skip
PIECES = st.sampled_from([*"ab A.’“—é漢𝔘😀<>", " ", " \n", "\t\n", "\n", "\n\n\n", "\r\n", "\u2028", "\u00a0", "\u200b", "\x00", "\x1f", "\x7f", "gUtenBErg", "the", "Ã©", "...", ". . .", "--", "---", "_x_", "<b>", '"', "'", "it's", "\ufffd", "e\u0301", *TOKENS, *HINTS])  # fmt: skip
TEXTS = st.lists(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=20)), min_size=1, max_size=8)
PLAIN = st.lists(st.lists(st.sampled_from([*"ab .’—-_<>", "\n", "...", ". .", "--", "x" * 60, " \t\n", "\x1f", "<i>"]), max_size=20).map("".join), min_size=1, max_size=5)  # fmt: skip


def test_every_hint_of_a_secret_is_seen() -> None:
    assert [Together(["a", hint, "b"]).hinted() for hint in HINTS] == [{1}] * len(HINTS)
    assert Together(["Prose, well-bred, of Anna and a zoo_keeper; no more."] * 3).hinted() == set()


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example(["", "", "a\n", "\n\nb", " "])
@example(["😀 \n", TOKENS[0], "😀" + TOKENS[1], "a\n\n\nb", "gutenberg"])
def test_no_text_is_passed_over(texts: list[str]) -> None:
    together = Together(texts)
    assert {number for number, text in enumerate(texts) if has_secret(text)} <= together.hinted()
    assert together.holds("enb") or not any(map(gutenberg.is_named, texts))
    for number in set(range(len(texts))) - together.untidy():
        assert is_plain(texts[number]) and tidy(texts[number]) == texts[number].strip()
    blanks = [re.sub("[ \t\n]", "", text) for text in texts]
    assert [key.decode("utf-16-le", "surrogatepass") for key in together.without_blanks()] == blanks


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.booleans())
def test_rows_cleaned_together_are_rows_cleaned_one_by_one(texts: list[str], invisible: bool) -> None:
    log, how = clean.Log(), recipe.Cleaning(invisible=invisible)
    kept = [row.text for row in clean.clean([Row(text, "s", n, f"line {n}") for n, text in enumerate(texts)], log, how)]
    expected, keys, empty, tidied = list[str](), set[str](), 0, 0
    for text in texts:
        mended = given = without_secrets(text)
        for _, step in mend.steps(how):
            mended = step(mended)
        mended = without_secrets(tidy(mended, invisible))
        key = re.sub("[ \t\n]", "", mended)
        empty, tidied = empty + (not mended), tidied + (mended != given)
        if mended and key not in keys:
            expected.append(mended)
        keys.add(key)
    assert kept == expected and log.rows_tidied == tidied
    assert sum(entry.count for entry in log.removed.values()) == len(texts) - len(kept)
    assert ("empty" in log.removed) == (empty > 0) and (not empty or log.removed["empty"].count == empty)


@settings(max_examples=150, deadline=None)
@given(st.one_of(PLAIN, TEXTS))
def test_marks_counted_together_are_those_of_the_text(texts: list[str]) -> None:
    assert Marks.of_all(texts) == Marks.of("\n\n".join(texts))


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(0, 5))
def test_a_text_has_so_many_words_or_not(texts: list[str], least: int) -> None:
    assert [has_words(text, least) for text in texts] == [len(word_places(text)) >= least for text in texts]
