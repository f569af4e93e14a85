"""Near duplicates: exact against the plain definition, MinHash against the exact one and against datasketch."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.data.near import PERMUTATIONS, across, band_rows, jaccard, minhashed, near_duplicates, shingles, signature
from galvan.text import words


def plain(a: str, b: str) -> float:
    sets = [{tuple(spoken[i : i + 5]) for i in range(max(1, len(spoken) - 4))} for spoken in (words(a), words(b))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def story(rng: random.Random, n: int) -> str:
    return " ".join(f"word{rng.randrange(5_000)}" for _ in range(n))


def changed(text: str, place: int) -> str:
    spoken = text.split()
    return " ".join([*spoken[:place], "otherwise", *spoken[place + 1 :]])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=5, max_size=40), st.lists(st.sampled_from("abc"), min_size=5, max_size=40))
def test_similarity_is_that_of_the_plain_definition(a: list[str], b: list[str]) -> None:
    assert jaccard(shingles(" ".join(a)), shingles(" ".join(b))) == pytest.approx(plain(" ".join(a), " ".join(b)))


def test_a_text_with_one_word_changed_is_found_and_the_first_is_kept() -> None:
    rng = random.Random(1)
    texts = [story(rng, 100) for _ in range(20)]
    copies = [changed(texts[3], 50), texts[7].upper() + "!", changed(texts[3], 51)]
    found = near_duplicates([*texts, *copies], 0.8)
    assert [(one.number, one.first) for one in found] == [(20, 3), (21, 7), (22, 3)]
    # One word changed in the middle of 100: 5 of 96 shingles differ on each side, so 91 / 101.
    assert found[0].similarity == 91 / 101


def test_texts_that_share_half_or_only_phrases_are_kept() -> None:
    rng = random.Random(2)
    half = story(rng, 50)
    letters = [f"My dear friend, I hope this finds you well. {story(rng, 40)} Your affectionate brother." for _ in range(30)]
    assert near_duplicates([f"{half} {story(rng, 50)}" for _ in range(5)] + letters, 0.8) == []
    assert near_duplicates(["", " ", "?!"], 0.8) == []


def test_minhash_removes_what_the_exact_search_removes() -> None:
    rng = random.Random(3)
    texts = [story(rng, 60) for _ in range(400)]
    texts += [changed(texts[n], 30) for n in range(0, 400, 4)] + [texts[5]] * 3
    exact = {one.number for one in near_duplicates(texts, 0.8)}
    hashed = {one.number for one in minhashed(texts, 0.8)}
    assert hashed <= exact and len(exact - hashed) <= 1  # each is proposed with probability 0.99
    assert len(exact) == 103


def test_signatures_estimate_similarity_as_well_as_datasketchs() -> None:
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(4)
    errors, theirs = [], []
    for shared in range(0, 100, 5):
        both = story(rng, shared)
        a, b = (f"{both} {story(rng, 100 - shared)}" for _ in range(2))
        truth = plain(a, b)
        errors.append(float(np.mean(signature(shingles(a)) == signature(shingles(b)))) - truth)
        minhashes = []
        for text in (a, b):
            spoken = words(text)
            minhash = datasketch.MinHash(num_perm=PERMUTATIONS, seed=1)
            minhash.update_batch([" ".join(spoken[i : i + 5]).encode() for i in range(len(spoken) - 4)])
            minhashes.append(minhash)
        theirs.append(minhashes[0].jaccard(minhashes[1]) - truth)
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert abs(float(np.mean(errors))) < 0.03 and rms < max(0.08, 1.5 * float(np.sqrt(np.mean(np.square(theirs)))))


def test_bands_find_the_threshold_with_probability_99_percent() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        rows = band_rows(threshold)
        assert 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= 0.99
    assert band_rows(0.8) == 5


def test_documents_of_one_split_are_found_in_another() -> None:
    rng = random.Random(5)
    a, b = [story(rng, 60) for _ in range(5)], [story(rng, 60) for _ in range(5)]
    assert across(a, [*b, changed(a[2], 5)], 0.8) == [5]
    assert across(a, b, 0.8) == [] == across([], b, 0.8)
