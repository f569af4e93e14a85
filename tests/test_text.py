"""Words, sentences, tidying and the one sanitiser."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import galvan.text
from galvan.text import json_shown, sentence_ends, shown, tidy, words


def sentences(text: str) -> list[str]:
    ends = list(sentence_ends(text))
    return [text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    "text",
    [
        "I met Mr. Walton and Dr. Waldman at St. Gervais.",
        "He called on M. de Lacey, and on J. Q. Smith.",
        "It stands in vol. Two, in ch. Three, etc. Never mind.",
        "See No. 5 and nos. 7 to 9.",
        "The lamp went out. and nobody spoke.",
        "Well... she said nothing. not a word",
        "Well… she said nothing.",
        "“Begone!” he cried.",
        "“Who is there?” said my father.",
        "Alas! how great was that benevolence!",
        "It cost 3.50 francs at 10.30 in the night.",
        "A sentence without an end",
    ],
)
def test_abbreviations_initials_and_lower_case_do_not_end_a_sentence(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was late. I slept.", ["It was late.", "I slept."]),
        ("Never! Why? Because.", ["Never!", "Why?", "Because."]),
        ("It was I. He fled.", ["It was I.", "He fled."]),
        ("“No. I will not.”", ["“No.", "I will not.”"]),
        ("“I go.” She went. ‘Stay.’ He stayed.", ["“I go.”", "She went.", "‘Stay.’", "He stayed."]),
        ('(So it ended.) "And so?" He wept.', ["(So it ended.)", '"And so?"', "He wept."]),
        ("I waited... The door opened… Nobody.", ["I waited...", "The door opened…", "Nobody."]),
        ("One.\n\n  Two.  ", ["One.", "Two."]),
        ("夜だった。 風が吹いた！ 誰？", ["夜だった。", "風が吹いた！", "誰？"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@settings(deadline=None)
@given(st.text())
def test_sentence_ends_rise_and_the_last_is_the_end_of_the_text(text: str) -> None:
    ends = list(sentence_ends(text))
    assert ends == sorted(set(ends))
    assert ends[-1:] == ([len(text)] if text else [])


def test_words_are_lower_case_without_punctuation_and_keep_their_apostrophe() -> None:
    assert words("“Don’t!” she cried--'tis THE snake_case, o'clock; 3 l'été.") == [
        "don't", "she", "cried", "tis", "the", "snake", "case", "o'clock", "3", "l'été",
    ]  # fmt: skip
    assert words("—…'’_") == []


def test_tidy_normalises_lines_blanks_and_composition() -> None:
    assert tidy("cafe\u0301 \t\r\nb\rc\u00a0d\n\n\n\n e  ") == "café\nb\nc d\n\n e"
    assert tidy("page\x0cnext\x85third\u2028fourth\u2029fifth") == "page\nnext\nthird\nfourth\n\nfifth"
    assert tidy("\ufeffhid\u200bden\u202e \x1b[31m\u00adsoft \ud800") == "hidden [31msoft"


def test_tidy_keeps_the_joiners_that_belong_to_spelling() -> None:
    persian, astronaut, heart = "می\u200cخواهم", "\U0001f9d1\u200d\U0001f680", "\u2764\ufe0f"
    assert tidy(f"{persian} {astronaut} {heart}") == f"{persian} {astronaut} {heart}"


@settings(deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from("\r\n\u0301\u200b\x85 \u2029e"))))
def test_tidy_twice_is_tidy_once(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


def dangerous(character: str) -> bool:
    """By Unicode's own tables: control, format, surrogate, line or paragraph separator, tag, variation selector; not tab and line feed.

    The Arabic, Syriac and other signs of category Cf that are visible are no danger.
    """
    code = ord(character)
    visible = (0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)
    if (
        character in "\t\n"
        or code in visible
        or 0x13430 <= code <= 0x1343F
        or 0x1BCA0 <= code <= 0x1BCA3
        or 0x1D173 <= code <= 0x1D17A
    ):
        return False
    selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    return selector or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_control_bidirectional_zero_width_and_tag_character_is_spelled_out() -> None:
    for code in range(0x110000):
        character = chr(code)
        if dangerous(character):
            spelled = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
            assert shown(f"a{character}b") == f"a{spelled}b", hex(code)


def test_plain_text_tabs_and_lines_are_shown_as_they_are() -> None:
    text = "“Äpfel” — naïve\tcafé\n日本語 العربية 🚀 ½ \\u001b"
    assert shown(text) == text


dangers = st.sampled_from("\x00\x1b\x07\x7f\x9b\u200e\u202e\u2066\u200b\ufeff\U000e0041\u2028\r\ud800")


@settings(deadline=None)
@given(st.text(st.one_of(dangers, st.characters(exclude_categories=()))), st.one_of(st.none(), st.integers(1, 20)))
def test_shown_never_holds_a_dangerous_character_and_keeps_its_limit(text: str, limit: int | None) -> None:
    safe = shown(text, limit)
    assert not any(dangerous(c) for c in safe)
    assert shown(safe, limit) == safe
    assert limit is None or len(safe) <= limit
    safe.encode("utf-8")


@settings(deadline=None)
@given(st.text(st.one_of(dangers, st.characters(exclude_categories=()))))
def test_json_shown_holds_no_dangerous_character_and_means_the_same(text: str) -> None:
    document = json_shown(json.dumps({text: [text]}, ensure_ascii=False, indent=1))
    assert not any(dangerous(c) for c in document)
    assert json.loads(document) == json.loads(json.dumps({text: [text]}))


def plain_words(text: str) -> list[str]:
    """The definition of a word, without the fast path."""
    return [match.group().lower().replace("\u2019", "'") for match in re.finditer(r"[^\W_]+(?:['\u2019][^\W_]+)*", text)]


def plain_tidy(text: str) -> str:
    """What tidying means, every step always taken."""
    text = re.sub("\r\n?|[\x0b\x0c\x85\u2028]", "\n", text).replace("\u2029", "\n\n").replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", galvan.text._REMOVED.sub("", text))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


PROSE = st.text(
    st.one_of(
        st.sampled_from(" \n\t\r'\u2019\u2018\u201c\u201d\u2014_-.aB9\u00e9\u00a0\u200b\u3164\x0c\x1c\x7f\u2028"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


@settings(max_examples=1_000, deadline=None)
@given(PROSE)
def test_the_fast_paths_of_words_and_tidy_change_nothing(text: str) -> None:
    assert galvan.text.words(text) == plain_words(text)
    assert galvan.text.tidy(text) == plain_tidy(text)
    assert galvan.text.visible(text) == galvan.text._REMOVED.sub("", text)
