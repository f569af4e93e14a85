"""What is left out, and that it is counted."""

from __future__ import annotations

from galvan.data import clean
from galvan.data.cut import Piece, cut
from galvan.data.rows import Row


def rows(*texts: str) -> list[Row]:
    return [Row(text, "s", number, f"a.csv line {number + 1}") for number, text in enumerate(texts, 1)]


def test_empty_and_repeated_rows_are_left_out_and_named() -> None:
    log = clean.Log()
    kept = list(clean.clean(rows("one two", " \n\t", "one  two\n", "One two", "\u200b"), log))
    assert [row.text for row in kept] == ["one two", "One two"]
    assert (log.rows_read, log.rows_tidied) == (5, 3)
    assert log.removed["empty"].count == 2
    assert log.removed["empty"].examples == [{"where": "a.csv line 3", "text": ""}, {"where": "a.csv line 6", "text": ""}]
    assert log.removed["duplicate"].examples == [{"where": "a.csv line 4", "text": "one two", "same_as": "a.csv line 2"}]


def test_text_is_made_nfc_with_unix_lines_and_without_invisible_characters() -> None:
    assert [row.text for row in clean.clean(rows("cafe\u0301\r\n\r\n\r\n\r\nb\u200b \u202ec"), clean.Log())] == ["café\n\nb c"]


def test_short_documents_are_left_out_by_words_not_by_characters() -> None:
    log = clean.Log()
    pieces = cut(
        rows("one two three", "- - - - -", "Antidisestablishmentarianism " * 2, "?! " * 100 + "a b c"), 1000, lambda text: []
    )
    assert [piece.row.position for piece in clean.long_enough(pieces, 3, log)] == [1, 4]
    assert log.removed["too short"].count == 2


def test_minimum_of_zero_words_keeps_everything() -> None:
    piece = Piece(rows("-")[0], "-", 0, 1)
    assert list(clean.long_enough([piece], 0, clean.Log())) == [piece]


def test_documents_beyond_the_maximum_are_counted() -> None:
    log = clean.Log()
    pieces = list(cut(rows("a", "b", "c"), 1000, lambda text: []))
    assert [piece.text for piece in clean.first(pieces, 2, log)] == ["a", "b"]
    assert log.removed["beyond data.maximum_documents"].examples == [{"where": "a.csv line 4", "text": "c"}]
    assert len(list(clean.first(pieces, None, log))) == 3


def test_examples_are_few_short_and_harmless() -> None:
    log = clean.Log()
    for number in range(9):
        log.remove("too short", f"line {number}", "\x1b[31m" + "x" * 300)
    assert log.removed["too short"].count == 9
    assert len(log.removed["too short"].examples) == 5
    assert all(len(example["text"]) <= 80 and "\x1b" not in example["text"] for example in log.removed["too short"].examples)
