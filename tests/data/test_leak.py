"""The leak audit: each planted leak is refused, phrases and refrains are not, and the recipe has the last word."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from galvan import recipe
from galvan.data.leak import leaks, refuse
from galvan.data.prepare import prepare
from galvan.data.read import read
from galvan.errors import EXIT_DATA, DataError


def by_word(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def written(folder: Path, texts: list[str]) -> str:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def sound(n: int = 120, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"word{rng.randrange(3_000)}" for _ in range(40)) + f" ending {number}." for number in range(n)]


def facts(folder: Path, texts: list[str], **split: object):  # type: ignore[no-untyped-def]
    data = recipe.Data.model_validate(
        {"source": written(folder, texts), "split": {"by": "random", **split}, "clean": {"near_duplicates": None}}
    )
    return prepare(data, 42, by_word).audit


def spliced(texts: list[str]) -> list[str]:
    """25 words of every text stand in another one too."""
    return [f"{text} {' '.join(texts[(number + 1) % len(texts)].split()[3:28])}" for number, text in enumerate(texts)]


def retyped(texts: list[str]) -> list[str]:
    """Every text again, in capitals."""
    return texts + [text.upper() for text in texts]


def edited(texts: list[str]) -> list[str]:
    """Every text again, its last words changed."""
    return texts + [text.rsplit(" ", 2)[0] + " another end" for text in texts]


@pytest.mark.parametrize(
    ("plant", "said"), [(spliced, "share 20 words or more"), (retyped, "stand whole in"), (edited, "are nearly one of")]
)
def test_a_planted_leak_is_refused(tmp_path: Path, plant: object, said: str) -> None:
    found = facts(tmp_path, plant(sound()))  # type: ignore[operator]
    assert said in "; ".join(leaks(found))
    with pytest.raises(DataError) as caught:
        refuse(found)
    assert (caught.value.code, caught.value.exit_code) == ("data/leak", EXIT_DATA)
    assert "data/leak" in {warning.code for warning in found.warnings}


def with_copies(words: int) -> list[str]:
    texts = sound()
    return [f"{text} {' '.join(texts[(number + 1) % len(texts)].split()[3 : 3 + words])}" for number, text in enumerate(texts)]


def test_copies_too_short_for_a_span_are_refused_when_there_are_many_and_shorter_ones_warned_of(tmp_path: Path) -> None:
    assert "copies of 13 words or more" in "; ".join(leaks(facts(tmp_path, with_copies(16))))
    shorter = facts(tmp_path, with_copies(10))
    assert leaks(shorter) == [] and "data/copied-phrases" in {warning.code for warning in shorter.warnings}
    assert "data/copied-phrases" not in {warning.code for warning in facts(tmp_path, sound()).warnings}


def test_phrases_greetings_and_one_word_answers_are_no_leak(tmp_path: Path) -> None:
    texts = [f"My dear sister, I hope you are well. {text} Ever yours, R." for text in sound()]
    found = facts(tmp_path, [*texts, "Yes, I will.", "yes i will", "YES I WILL"])
    refuse(found)
    assert leaks(found) == []


def test_allowing_a_leak_lets_it_pass_and_still_says_so(tmp_path: Path) -> None:
    found = facts(tmp_path, retyped(sound()), leaks="allow")
    refuse(found)
    assert found.leaks == "allow" and "data/leak" in {warning.code for warning in found.warnings}


def test_removing_leaks_leaves_a_split_that_passes_and_counts_what_went(tmp_path: Path) -> None:
    texts = sound()
    found = facts(tmp_path, [*texts, *(text.upper() for text in texts[:60])], leaks="remove")
    refuse(found)
    assert found.removed["held out, but shared with another part"].count > 0 and leaks(found) == []
    with pytest.raises(DataError, match="every test document shares text"):
        facts(tmp_path, retyped(texts), leaks="remove", validation=0.0, test=0.02)


def test_the_neutral_set_in_the_training_text_is_refused(tmp_path: Path) -> None:
    plain = [row.text for row in read("galvan/plain")][:5]
    found = facts(tmp_path, [*sound(), *plain], test=0.01, validation=0.01)
    assert any("neutral documents" in said for said in leaks(found))


@pytest.mark.parametrize("by", ["block", "random", "group"])
def test_the_bundled_letters_pass_however_they_are_split(by: str) -> None:
    found = prepare(recipe.Data.model_validate({"split": {"by": by}}), 42, by_word).audit
    assert leaks(found) == []
