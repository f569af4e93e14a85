"""Mending: each step undoes the damage it is for, and leaves sound text as it is."""

from __future__ import annotations

import pytest

from galvan import recipe
from galvan.data import clean, mend
from galvan.data.read import read
from galvan.data.rows import Row

SOUND = "“Café, naïve — he’d said…” it’s 5 < 6 & 7 > 2; AT&T; <she paused> x*y*z _so_"


def test_wrongly_decoded_text_is_repaired_and_sound_text_is_not_touched() -> None:
    assert mend.repair("The cafÃ© was closed; he wasnâ€™t there.") == "The café was closed; he wasn’t there."
    assert mend.repair(SOUND) == SOUND
    assert mend.repair("ﬁne ｗｉｄｅ “curly” &amp; \x1b[31m") == "ﬁne ｗｉｄｅ “curly” &amp; \x1b[31m"


def test_tags_comments_scripts_and_entities_go_and_the_authors_angle_brackets_stay() -> None:
    page = "<p>One &amp; <b>two</b></p><!-- no --><script>x < 1</script><br/>three &lt;four&gt;"
    assert mend.without_html(page).split() == ["One", "&", "two", "three", "<four>"]
    assert mend.without_html(SOUND) == SOUND


def test_marks_of_markdown_go_and_their_words_stay() -> None:
    page = "# Head\n\nA **bold** and *soft* [link](http://x.y) with `code`.\n\n> said\n\n- item\n\n```python\nx = 1\n```"
    assert mend.without_markdown(page).split() == [
        "Head",
        "A",
        "bold",
        "and",
        "soft",
        "link",
        "with",
        "code.",
        "said",
        "item",
        "x",
        "=",
        "1",
    ]
    assert mend.without_markdown("3 * 4 * 5, snake_case and a - b") == "3 * 4 * 5, snake_case and a - b"


WRAPPED = "You will rejoice to hear that no disaster has accompanied the\ncommencement of an enterprise which you have regarded with such evil\nforebodings."
VERSE = "Like one who, on a lonely road,\nDoth walk in fear and dread,\nAnd, having once turned round, walks on,\nAnd turns no more his head;"


def test_hard_wrapped_paragraphs_become_one_line_and_verse_stays_verse() -> None:
    assert (
        mend.unwrapped(f"{WRAPPED}\n\n{VERSE}\n\n{WRAPPED}")
        == f"{WRAPPED.replace(chr(10), ' ')}\n\n{VERSE}\n\n{WRAPPED.replace(chr(10), ' ')}"
    )
    assert mend.unwrapped("One.\n\nTwo.") == "One.\n\nTwo."


def test_no_word_is_lost_by_unwrapping_a_wrapped_book() -> None:
    text = "\n\n".join([WRAPPED, VERSE] * 50)
    assert mend.unwrapped(text).split() == text.split()


def test_invisible_characters_go_but_line_ends_and_joiners_stay() -> None:
    assert mend.without_invisible("a\u200bb\u202ec\x07") == "abc"
    assert mend.without_invisible("one\r\ntwo") == "one\r\ntwo"
    assert mend.without_invisible("می\u200cخواهم") == "می\u200cخواهم"


def test_each_change_is_counted_with_the_place_where_it_was_made() -> None:
    log = clean.Log()
    rows = [Row("x" * 300 + " cafÃ© and more", "s", 1, "a.csv line 2"), Row("sound", "s", 2, "a.csv line 3")]
    assert [row.text[-14:] for row in clean.clean(rows, log)] == [" café and more", "sound"]
    changed = log.changed["encoding repaired"]
    assert (
        changed.count == 1
        and changed.examples[0]["before"].endswith("x cafÃ© and more")
        and changed.examples[0]["where"] == "a.csv line 2"
    )


@pytest.mark.parametrize("setting", [{"repair": False}, {"invisible": False}])
def test_a_step_that_is_off_changes_nothing(setting: dict[str, bool]) -> None:
    how, text = recipe.Cleaning.model_validate(setting), "cafÃ©" if "repair" in setting else "a\u200bb"
    assert [row.text for row in clean.clean([Row(text, "s", 1, "w")], clean.Log(), how)] == [text]


@pytest.mark.parametrize("bundled", ["galvan/letters", "galvan/plain"])
def test_the_bundled_texts_need_no_mending(bundled: str) -> None:
    log = clean.Log()
    list(clean.clean(read(bundled), log))
    assert log.changed == {}
