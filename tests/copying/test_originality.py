"""Copies are told from set phrases: the floor, the test, the flags, and the spans beside their source (METHODS S5.1 to S5.3, S5.6, C5.3, C5.4)."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import galvan
from galvan.copying.originality import BASE, HUMAN, TUNED, Text, judge_sets
from galvan.data.read import read
from galvan.errors import DataError
from galvan.rundir import write_rows
from galvan.text import word_places, words

PHRASES = ["at the same time as the", "for the first time in my life", "as if he had been a", "on the other side of the"]


def prose(rng: random.Random, n: int) -> str:
    """Words by a Zipf-like law with a set phrase now and then: shared runs of up to seven words, as in people's text."""
    said: list[str] = []
    while len(said) < n:
        said += rng.choice(PHRASES).split() if rng.random() < 0.02 else [f"w{int(rng.paretovariate(0.9))}"]
    return " ".join(said[:n])


def named(texts: list[str], name: str) -> list[Text]:
    return [Text(f"{name}-{i}", text) for i, text in enumerate(texts)]


def corpus(seed: int, n: int = 60) -> tuple[list[str], list[str], list[str]]:
    rng = random.Random(seed)
    return [prose(rng, 170) for _ in range(n)], [prose(rng, 150) for _ in range(40)], [prose(rng, 170) for _ in range(30)]


def copying(train: list[str], texts: list[str], share: float, length: int = 30) -> list[str]:
    """`texts` of which the first ones hold a run of `length` training words."""
    n = int(share * len(texts))
    return [
        " ".join([*t.split()[:50], *train[i].split()[20 : 20 + length], *t.split()[50 + length :]]) if i < n else t
        for i, t in enumerate(texts)
    ]


def test_text_that_copies_is_in_excess_and_text_that_does_not_is_not() -> None:
    train, texts, human = corpus(1)
    clean, guilty = galvan.originality(train, texts, human), galvan.originality(train, copying(train, texts, 0.3), human)
    assert (clean.excess.answer, guilty.excess.answer) == ("not shown", "excess copying")
    assert clean.flagged == [] and len(guilty.flagged) == 12
    assert guilty.of(TUNED).longest_of_all >= 30 > clean.of(TUNED).longest_of_all  # type: ignore


def test_where_the_base_copies_as_much_the_base_knew_the_text() -> None:
    train, texts, human = corpus(2)
    guilty = copying(train, texts, 0.3)
    found = galvan.originality(train, guilty, human, base=guilty)
    assert found.excess.answer == "the base already knows this text"
    assert galvan.originality(train, guilty, human, base=texts).excess.answer == "excess copying"


def test_one_copy_is_flagged_although_it_is_no_excess() -> None:
    train, texts, human = corpus(3)
    found = galvan.originality(train, copying(train, texts, 0.026), human)
    assert (found.excess.answer, found.flagged) == ("not shown", ["text 1"])


def test_held_out_text_against_held_out_text_is_called_a_copy_in_at_most_one_case_of_twenty() -> None:
    false = 0
    for seed in range(60):
        rng = random.Random(seed)
        train, both = [prose(rng, 170) for _ in range(10)], [prose(rng, 120).split() for _ in range(40)]
        for said in both:
            if rng.random() < 0.1:  # one text in ten, in both halves alike, quotes the training text: a motto, a refrain
                said[40:54] = train[0].split()[:14]
        texts = [" ".join(said) for said in both]
        found = judge_sets(named(train, "d"), {TUNED: named(texts[:20], "t"), HUMAN: named(texts[20:], "h")})
        false += found.excess.answer == "excess copying"
    assert false <= 3


def test_the_bundled_letters_do_not_copy_one_another() -> None:
    letters = [row.text for row in read("galvan/letters")]
    train, rest = letters[::2], [" ".join(text.split()[:150]) for text in letters[1::2]]
    false = 0
    for seed in range(20):
        random.Random(seed).shuffle(rest)
        half = len(rest) // 2
        false += galvan.originality(train, rest[:half], rest[half:]).excess.answer != "not shown"
    assert false <= 1


def test_figures_are_those_of_a_case_worked_by_hand() -> None:
    train = ["a b c d e f g h i j k l m n o p q r s t"]
    # the nine words b..j are copied, then z; then c d
    found = judge_sets(named(train, "d"), {TUNED: named(["z b c d e f g h i j z c d z"], "t")})
    tuned = found.of(TUNED)
    assert tuned is not None
    assert (tuned.longest_max, tuned.copied_share) == (9, 9 / 14)
    assert tuned.novelty[2] == 1 - 9 / 13 and tuned.novelty[9] == 1 - 1 / 6 and tuned.novelty[10] == 1.0
    assert (found.excess.answer, found.rows[0].copied_words, found.rows[0].flagged) == ("not measurable", 9, None)


def raven(train: list[str], texts: list[str], n: int) -> float:
    """1 - RAVEN's share of n-grams that are duplicated (McCoy et al. 2023): occurrences, not kinds; a word's score is the size of the
    smallest n-gram that ends in it and is novel, and n-grams are duplicated at every word whose score is above n. By brute force."""
    known = {
        tuple(said[i:j]) for said in map(words, train) for i in range(len(said)) for j in range(i + 1, min(len(said), i + 60) + 1)
    }
    duplicated = possible = 0
    for said in map(words, texts):
        possible += max(0, len(said) - n + 1)
        for end in range(1, len(said) + 1):
            score = next((size for size in range(1, end + 1) if tuple(said[end - size : end]) not in known), end + 1)
            duplicated += score > n
    return 1 - duplicated / possible


def test_novelty_is_that_of_raven() -> None:
    """C5.4. Its own test files (numbers for words, four texts, their scores known) were compared by hand too: all equal."""
    letters = [row.text for row in read("galvan/letters")]
    train, human = letters[:30], [" ".join(text.split()[:120]) for text in letters[30:45]]
    texts = copying(train, human, 0.4, 25)
    found = judge_sets(named(train, "d"), {TUNED: named(texts, "t")}).of(TUNED)
    assert found is not None and found.novelty[10] < 1
    for n, share in found.novelty.items():
        assert share == pytest.approx(raven(train, texts, n), abs=1e-12)


def test_a_span_shows_exact_characters_and_its_source_with_what_stands_around_it() -> None:
    source = "He said: \u201cThe storm, Mr. Walton, passed over\u2014the lake, in the night!\u201d Then he slept."
    text = "Truly the STORM; Mr Walton passed over the lake in the night and more."
    span = judge_sets([Text("book-7", source)], {TUNED: [Text("p3", text)]}).longest_spans[0]
    assert (span.n_words, span.position, span.document, span.document_position) == (11, 1, "book-7", 2)
    assert span.text == "the STORM; Mr Walton passed over the lake in the night"
    assert span.document_text == "The storm, Mr. Walton, passed over\u2014the lake, in the night"
    assert span.before.endswith("He said: \u201c") and span.after.startswith("!\u201d Then")


def test_the_longest_spans_are_listed_longest_first_though_none_is_a_copy() -> None:
    said = [f"a{k}" for k in range(200)]
    texts = [" ".join([f"new{n}", *said[10 * n : 10 * n + n], f"end{n}"]) for n in range(1, 16)]
    spans = galvan.originality([" ".join(said)], texts).longest_spans
    assert [(s.n_words, s.document_position) for s in spans] == [(n, 10 * n) for n in range(15, 5, -1)]
    few = galvan.originality([" ".join(said)], texts[:7]).longest_spans
    assert [s.n_words for s in few] == [7, 6, 5, 4]


def test_a_passage_that_many_texts_copy_is_listed_once_with_their_number() -> None:
    train, texts, human = corpus(4)
    copied = [f"{t} mark {' '.join(train[5].split()[10:50])} mark" for t in texts]
    first = galvan.originality(train, copied, human).longest_spans[0]
    assert (first.n_words, first.document, first.document_position, first.n_texts) == (40, "training text 6", 10, 40)


def test_held_out_text_is_cut_to_the_lengths_of_the_texts_and_sets_are_compared_in_equal_numbers() -> None:
    train, texts, human = corpus(5)
    found = judge_sets(named(train, "d"), {TUNED: named(texts, "t"), BASE: named(texts[:25], "b"), HUMAN: named(human, "h")})
    assert {row.n_words for row in found.rows} == {150}
    assert [(s.set, s.n_texts, s.n_compared) for s in found.sets] == [(TUNED, 40, 25), (BASE, 25, 25), (HUMAN, 30, 25)]


def test_held_out_text_that_was_trained_on_is_called_no_floor() -> None:
    train, texts, human = corpus(6)
    assert galvan.originality(train, texts, human).cautions == []
    assert "no measure of what is usual" in galvan.originality(train, texts, [*human, train[0]]).cautions[0]


def test_places_of_words_are_those_of_the_words() -> None:
    for text in ("It's 'quoted' \u2014 and Jack\u2019s, o'clock_x!", "na\u00efve caf\u00e9\u2026 \u201cyes\u201d", "", "a--b"):
        assert [text[a:b].lower().replace("\u2019", "'") for a, b in word_places(text)] == words(text)


@pytest.mark.parametrize(("train", "texts"), [([], ["a"]), (["a"], []), (["..."], ["a"])])
def test_nothing_to_compare_is_refused_in_a_sentence(train: list[str], texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"^The"):
        galvan.originality(train, texts)


def test_empty_texts_are_counted_and_share_nothing() -> None:
    found = galvan.originality(["one two three"], ["", "four"])
    assert [(row.n_words, row.longest_span_words) for row in found.rows] == [(0, 0), (1, 0)]


def test_the_command_prints_the_figures_and_ends_with_the_answer(tmp_path: Path) -> None:
    train, texts, human = corpus(7)
    for name, some in (("train", train), ("clean", texts), ("guilty", copying(train, texts, 0.5)), ("human", human)):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": text} for text in some])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "galvan", "originality", "--train", "train.jsonl", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    guilty = run("--texts", "guilty.jsonl", "--human", "human.jsonl", "--json")
    assert (guilty.returncode, guilty.stderr) == (1, "") and '"answer": "excess copying"' in guilty.stdout
    alone = run("--texts", "clean.jsonl")
    assert alone.returncode == 6 and "Copying: not measurable. Too few held-out passages" in alone.stdout
    missing = run("--texts", "absent.jsonl")
    assert missing.returncode == 3 and missing.stderr.startswith("error[data/missing]") and "Traceback" not in missing.stderr
