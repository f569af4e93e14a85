"""The audit: worked by hand on small splits, and every warning seen to speak and to keep silent."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from galvan.data.audit import audit, lengths, typography
from galvan.data.clean import Log, Removed
from galvan.data.facts import Audit, Lengths
from galvan.data.split import Splits
from galvan.data.warn import notices
from galvan.rundir import Document, to_json

LONG = " ".join(f"word{number}" for number in range(30))


def of(*texts: str, source: str = "s", begin: int = 1) -> list[Document]:
    return [Document(f"{source}:{position}", text, source, position) for position, text in enumerate(texts, begin)]


def audited(splits: Splits, log: Log | None = None) -> Audit:
    n_tokens = {document.id: len(document.text.split()) for _, part in splits.items() for document in part}
    return audit("a.csv", "text", splits, n_tokens, (1, 2), log or Log(rows_read=100))


def test_counts_lengths_and_runs_of_each_split() -> None:
    facts = audited(Splits(of("one two", "one two three four"), of("five"), of("six seven", begin=7) + of("a b c", source="t")))
    assert facts.documents == 5 and facts.sources == 2
    assert facts.words == Lengths(12, 1, 2.0, 2.0, 3.0, 4)
    assert facts.splits["train"].words == Lengths(6, 2, 2.5, 3.0, 3.5, 4)
    assert (facts.splits["train"].runs, facts.splits["test"].runs, facts.splits["test"].sources) == (1, 2, 2)
    assert lengths([]) == Lengths(0, None, None, None, None, None)


def test_a_leak_is_measured_and_named() -> None:
    facts = audited(Splits(of(f"Once {LONG}.", "x y z"), [], of(f"He said: {LONG.upper()}!", "X, y -- z", begin=7)))
    (pair,) = facts.overlaps
    assert (pair.a, pair.b, pair.longest_span_words, pair.longest_span_in) == ("train", "test", 30, ("s:1", "s:7"))
    assert pair.longest_span == LONG
    assert (pair.leaking, pair.leaking_documents, pair.duplicates) == (1, ["s:7"], 1)
    # The test document has 32 words: 20 windows of 13, of which 18 lie inside the 30 shared words.
    assert pair.contained_13_grams == 18 / 20
    notice = next(notice for notice in facts.warnings if notice.code == "data/leak")
    assert (
        notice.message
        == "1 of 2 test documents share 20 words or more in a row with train (longest 30; s:7); 1 of 2 test documents are nearly one of train."
    )


def test_every_pair_of_splits_is_compared_and_empty_ones_are_not() -> None:
    facts = audited(Splits(of("a"), of("b", begin=2), of("c", begin=3)))
    assert [(pair.a, pair.b) for pair in facts.overlaps] == [("train", "validation"), ("train", "test"), ("validation", "test")]
    assert [pair.contained_13_grams for pair in facts.overlaps] == [None] * 3
    assert audited(Splits(of("a"), [], [])).overlaps == []


def test_repetitions_within_a_split_are_counted_beyond_the_first() -> None:
    assert audited(Splits(of("One two.", "one two", "one, two", "three"), [], [])).splits["train"].duplicates == 2


def test_typography_is_counted() -> None:
    found = typography('"It\'s" “so” — he said -- well... … _very_ <b>bold</b> snake_case_name --- caf\u00e9\ufffd')
    assert (found.straight_quotes, found.curly_quotes, found.straight_apostrophes, found.curly_apostrophes) == (2, 2, 1, 0)
    assert (found.em_dashes, found.double_hyphens, found.ellipsis_characters, found.three_dots) == (1, 1, 1, 1)
    assert (found.underscored_words, found.markup_tags, found.replacement_characters) == (1, 2, 1)
    assert typography("").non_ascii_share is None and typography("abc").non_ascii_share == 0.0


def test_the_audit_is_json_without_loss() -> None:
    log = Log(rows_read=3, removed={"empty": Removed(1, [{"where": "a.csv line 2", "text": ""}])})
    written = json.loads(to_json(audited(Splits(of("a b"), [], of("c")), log)))
    assert written["removed"] == {"empty": {"count": 1, "examples": [{"where": "a.csv line 2", "text": ""}]}}
    assert written["splits"]["test"]["words"]["total"] == 1
    assert {notice["code"] for notice in written["warnings"]} == {"data/few-test-documents", "data/little-text"}


def fine() -> Audit:
    """Facts that deserve no warning."""
    many = [f"{LONG} {number}" for number in range(200)]
    return replace(audited(Splits(of(*many), [], of(*(f"t{number}" for number in range(20)), source="u"))), warnings=[])


def test_a_sound_collection_gets_no_warning() -> None:
    assert notices(fine()) == []


TYPE = fine().typography


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (
            {"typography": replace(TYPE, wrapped_lines_share=0.9)},
            "data/hard-wrapped",
            "90% of the lines are 55 to 80 characters long; the model will learn these line breaks too, unless data.clean.unwrap joins them.",
        ),
        (
            {"typography": replace(TYPE, straight_quotes=700, curly_quotes=300)},
            "data/mixed-quotes",
            "straight and curly quotation marks are mixed (700 and 300); the text comes from more than one edition.",
        ),
        (
            {"typography": replace(TYPE, em_dashes=70, double_hyphens=30)},
            "data/mixed-dashes",
            "em dashes and double hyphens are mixed (70 and 30); the text comes from more than one edition.",
        ),
        (
            {"typography": replace(TYPE, replacement_characters=2)},
            "data/replacement-characters",
            "U+FFFD stands in the text 2 times; letters were lost when it was converted.",
        ),
        (
            {"removed": {"duplicate": Removed(11)}},
            "data/many-duplicates",
            "11 of 100 rows repeat an earlier one; was the text exported twice?",
        ),
    ],
)
def test_each_warning_says_its_figure(changes: dict[str, object], code: str, message: str) -> None:
    (notice,) = notices(replace(fine(), **changes))  # type: ignore[arg-type]
    assert (notice.code, notice.message) == (code, message)
