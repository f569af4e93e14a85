"""Steps that see the whole collection: recurring lines, outliers, lengths."""

from __future__ import annotations

import pytest

from galvan import recipe
from galvan.data import boilerplate, clean, language
from galvan.data.read import read
from galvan.data.rows import Row

ENGLISH = "It was on a dreary night of November that I beheld the accomplishment of my toils, and with an anxiety that almost amounted to agony I collected the instruments of life around me, number {n}."
FRENCH = "Il était une fois, dans une ville de la France, des gens qui ne parlaient pas beaucoup, mais qui aimaient le pain et les fleurs dans les jardins du roi."
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."


def rows(*texts: str, source: str = "s") -> list[Row]:
    return [Row(text, source, number, f"a.csv line {number + 1}") for number, text in enumerate(texts, 1)]


def paged(pages: int, body: str = "Some words of the story go on here, and then some more of them follow on the page.") -> str:
    return "\n\n".join(f"THE MODERN PROMETHEUS\n\n{body} This is page text {n}.\n\n{n}" for n in range(1, pages + 1))


def test_headers_and_page_numbers_of_a_book_are_found_and_taken() -> None:
    shapes = boilerplate.repeated(rows(paged(12)))["s"]
    text, lines = boilerplate.without(paged(12), shapes)
    assert lines.count("THE MODERN PROMETHEUS") == 12 and len(lines) == 24
    assert text.count("Some words") == 12 and "PROMETHEUS" not in text


def test_chapter_headings_and_numbered_lists_are_no_boilerplate() -> None:
    chapters = "\n\n".join(f"A story of its own begins here, told at {n}.\n\n{ENGLISH.format(n=n)}" for n in range(4))
    jumble = "\n\n".join(f"{n}\n\nverse of the song" for n in (3, 1, 2, 3, 1, 2, 9, 4))
    assert boilerplate.repeated(rows(chapters))["s"] == frozenset()
    assert "page number" not in boilerplate.repeated(rows(jumble))["s"]


def test_a_footer_of_many_rows_is_counted_and_shown_and_only_where_asked() -> None:
    log, texts = clean.Log(), rows(*(f"{ENGLISH.format(n=n)}\n\nSent from my telegraph" for n in range(10)))
    kept = clean.compared(texts, recipe.Cleaning(boilerplate=True, near_duplicates=None), log)
    assert all(row.text == ENGLISH.format(n=n) for n, row in enumerate(kept))
    changed = log.changed["recurring lines removed"]
    assert (changed.count, changed.examples[0]["before"]) == (10, "Sent from my telegraph")
    untouched = clean.compared(texts, recipe.Cleaning(near_duplicates=None), clean.Log())
    assert untouched == texts


@pytest.mark.parametrize(
    ("stranger", "reason"), [(FRENCH, "French among English"), (RUSSIAN, "mostly cyrillic letters among latin ones")]
)
def test_a_text_in_another_language_or_script_is_reported_or_removed(stranger: str, reason: str) -> None:
    texts = rows(*(ENGLISH.format(n=n) for n in range(9)), stranger)
    how = recipe.Cleaning(near_duplicates=None)
    log = clean.Log()
    assert clean.compared(texts, how, log) == texts
    assert {name: entry.count for name, entry in log.reported.items()} == {reason: 1} and not log.removed
    log = clean.Log()
    assert clean.compared(texts, how.model_copy(update={"outliers": "remove"}), log) == texts[:-1]
    assert log.removed[reason].examples[0]["where"] == "a.csv line 11"
    assert clean.compared(texts, how.model_copy(update={"outliers": "keep"}), log) == texts


def test_quotations_names_and_short_texts_are_no_outliers() -> None:
    texts = [ENGLISH.format(n=n) for n in range(9)] + [
        "Oui.",
        "C'est la vie, he said, and left the house with his hat in his hand and the dog behind him at once.",
        "Да!",
    ]
    assert language.outliers(texts) == []
    assert language.outliers([RUSSIAN] * 3) == [] == language.outliers([])


@pytest.mark.parametrize("bundled", ["galvan/letters", "galvan/plain"])
def test_the_bundled_texts_lose_nothing(bundled: str) -> None:
    log = clean.Log()
    kept = list(clean.clean(read(bundled), log))
    assert clean.compared(kept, recipe.Cleaning(), log) == kept
    assert log.removed == {} == log.reported


def test_rows_with_too_many_words_are_left_out_and_counted() -> None:
    log = clean.Log()
    assert [row.text for row in clean.short_enough(rows("a b", "a b c", "long-winded"), 2, log)] == ["a b", "long-winded"]
    assert log.removed["too long"].examples == [{"where": "a.csv line 3", "text": "a b c"}]
    assert len(list(clean.short_enough(rows("a b c"), None, log))) == 1
