"""What is done block by block is what is done at once, and memory does not grow with the text."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan import recipe
from galvan.data import index, language, shared
from galvan.progress import Silent
from galvan.recipe import Recipe
from galvan.rundir import Document, read_documents
from galvan.story import Story


def parts_with_copies(rng: random.Random) -> dict[str, list[Document]]:
    """Three parts in which runs of 5 to 40 words recur, some in many documents, and some documents whole."""
    vocabulary = [f"w{number}" for number in range(200)]
    runs = [" ".join(rng.choices(vocabulary, k=rng.choice([5, 9, 13, 21, 40]))) for _ in range(12)]
    parts: dict[str, list[Document]] = {}
    for name, count in (("train", 60), ("validation", 12), ("test", 20)):
        texts = []
        for _ in range(count):
            own = " ".join(rng.choices(vocabulary, k=rng.randint(0, 30)))
            texts.append(own if rng.random() < 0.5 else f"{own} {rng.choice(runs)}" if rng.random() < 0.8 else rng.choice(runs))
        parts[name] = [Document(f"{name}:{number}", text, name, number) for number, text in enumerate(texts, 1)]
    return parts


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_any_size_find_what_one_block_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_with_copies(random.Random(seed))
    pairs = list(combinations(parts, 2))
    at_once = shared.found(parts, pairs, list(parts))
    assert any(pair.leaking for pair in at_once.values()) and any(pair.contained for pair in at_once.values())
    for block, held in ((300, 300), (600, 1_500), (900, 10_000)):
        monkeypatch.setattr(shared, "BLOCK", block)
        monkeypatch.setattr(shared, "HELD", held)
        seen = Counter[str]()
        in_blocks = shared.found(parts, pairs, list(parts), lambda name, block, seen=seen: seen.update({name: len(block.texts)}))  # type: ignore[misc]
        assert in_blocks == at_once
        assert seen == {name: len(documents) for name, documents in parts.items()}  # each once, however often they stream past


def test_short_runs_are_found_where_no_copy_is_and_the_first_of_the_longest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    parts = {
        name: [Document(f"{name}:{n}", " ".join(rng.choices(vocabulary, k=7)), name, n) for n in range(1, 40)]
        for name, vocabulary in (("train", "abcdef"), ("validation", "abcxyz"), ("test", "xyzuvw"))
    }
    pairs = list(combinations(parts, 2))
    at_once = shared.found(parts, pairs, list(parts))
    spans = [pair.span for pair in at_once.values()]
    assert spans[1] is None and all(span and 1 < span[0] < shared.COPY_WORDS for span in (spans[0], spans[2]))
    monkeypatch.setattr(shared, "BLOCK", 40)
    monkeypatch.setattr(shared, "HELD", 100)
    assert shared.found(parts, pairs, list(parts)) == at_once


def test_training_text_is_read_once_however_much_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(6)
    runs = {
        name: [Document(f"{name}:{n}", " ".join(f"{name}{n}w{rng.random()}" for _ in range(30)), name, n) for n in range(count)]
        for name, count in (("train", 50), ("test", 40))
    }
    runs["train"][7] = dataclasses.replace(runs["train"][7], text=runs["test"][30].text)
    monkeypatch.setattr(shared, "BLOCK", 1_000)
    monkeypatch.setattr(shared, "HELD", 2_000)  # about a dozen turns
    read = Counter[str]()
    blocks = shared.blocks
    monkeypatch.setattr(shared, "blocks", lambda some: (read.update(d.id for d in b.documents) or b for b in blocks(some)))
    found = shared.found(runs, [("train", "test")], ["train", "test"])["train", "test"]
    assert found.leaking == found.long_whole == [30]
    assert {name: times for name, times in read.items() if name.startswith("train") and times > 1} == {"train:7": 2}


def test_a_sieve_lets_through_what_was_added_and_little_else() -> None:
    rng = np.random.default_rng(8)
    known, others = rng.integers(0, 2**64, (2, 50_000), dtype=np.uint64)
    sieve = index.Sieve(len(known))
    sieve.add(known)
    assert len(sieve.passing(known)) == len(known)
    assert len(sieve.passing(others)) < 0.03 * len(others)  # two bits of 2 in 16: (1/8) ** 2 at most, 0.0156


WORDS = {
    "English": "the and of to that in it was",
    "German": "der die das und ich ist nicht sie",
    "Russian": "он она было потому что всегда",
}
TEXTS = st.tuples(st.sampled_from(sorted(WORDS)), st.integers(0, 60), st.integers(0, 9)).map(
    lambda t: " ".join([*random.Random(t[1]).choices(WORDS[t[0]].split(), k=t[1]), *["häuser"] * t[2]])
)


@settings(max_examples=150, deadline=None)
@given(others=st.lists(TEXTS, max_size=12))
def test_looking_at_all_texts_together_finds_what_looking_at_each_alone_finds(others: list[str]) -> None:
    texts = [*[WORDS["English"] * 5] * 20, *others]
    alone = [(number, language._stranger(language.look(text), "LATIN", "English")) for number, text in enumerate(texts)]
    assert language.outliers(texts) == [(number, reason) for number, reason in alone if reason is not None]


def test_the_recipes_cleaning_applies_to_text_that_only_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["<p>One two three four</p>", "<b>One</b> two three four five", "six seven eight nine ten eleven twelve"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(Story, "_offsets", lambda self, text: [(n, n + 1) for n in range(len(text.split()))])

    def judging(**data: object) -> list[str]:
        story = object.__new__(Story)
        story.recipe = Recipe(data=recipe.Data.model_validate({"source": str(tmp_path / "a.jsonl"), **data}))
        story.folder, story.offline, story.progress = tmp_path / "run", True, Silent()
        story.take_documents(None)
        return [document.text for document in read_documents(tmp_path / "run" / "data" / "test.jsonl")]

    assert judging()[:2] == ["<p>One two three four</p>", "<b>One</b> two three four five"]
    assert judging(clean={"markup": "html"})[:2] == ["One two three four", "One two three four five"]
    assert judging(maximum_words=6) == ["<p>One two three four</p>"]


@pytest.mark.slow
def test_four_times_the_rows_take_hardly_more_memory(tmp_path: Path) -> None:
    code = """
import json, random, resource, sys
from pathlib import Path
from benchmarks.prepare import prepared, texts
from galvan.data import shared
shared.BLOCK = shared.HELD = 400_000
path = Path(sys.argv[1])
rows = texts(1)
with path.open("w") as stream:
    for turn in range(int(sys.argv[2])):
        stream.writelines(json.dumps({"text": " ".join(random.Random(turn).sample(row.split(), len(row.split())))}) + "\\n" for row in rows)
prepared(path)
print(int(sys.argv[2]) * len(rows), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    (few, low), (many, high) = (
        map(int, subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), times], cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
        ).stdout.split())
        for times in ("3", "12")
    )  # fmt: skip
    assert many == 4 * few and high < 1.15 * low  # measured 1.04: about 530 bytes a row
