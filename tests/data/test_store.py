"""Collections on disk: they are what was put in, in any order, and their memory is what they say."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from galvan.data.rows import Row
from galvan.data.seen import Seen
from galvan.data.store import Documents, Mapped, spool_of, take, tokens_of
from galvan.errors import ResourceError
from galvan.payload import Pair
from galvan.rundir import Document


def row(number: int, size: int = 10) -> Row:
    return Row(f"{number} " + "x" * size, "book", number, f"a.csv line {number}", None, Pair("a", "b") if number % 3 else None)


def test_items_come_back_as_they_were_in_any_order(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [row(number, rng.choice([0, 10, 300_000])) for number in range(40)]
    spool = spool_of(Row, rows, tmp_path)
    assert list(spool) == rows and spool[-1] == rows[-1] and spool[3:6] == rows[3:6]
    order = rng.sample(range(40), 40)
    assert [spool[place] for place in order] == [rows[place] for place in order]
    spool.append(row(99))
    assert spool[40] == row(99) and spool[0] == rows[0] and len(spool) == 41
    with pytest.raises(IndexError):
        spool[41]
    assert list(tmp_path.iterdir()) == []  # nothing is left, even if the process is killed


def test_what_is_taken_of_documents_knows_what_they_know() -> None:
    documents = Documents()
    plain = [Document(f"d:{number}", f"text {number}", "book", number) for number in range(10)]
    for number, document in enumerate(plain):
        documents.append(document, 100 + number)
    some = take(take(documents, range(2, 8)), [4, 0])
    assert some == [plain[6], plain[2]] and tokens_of(some, {}).tolist() == [106, 102]
    assert take(plain, [6, 2]) == [plain[6], plain[2]] and tokens_of(plain[:1], {"d:0": 7}).tolist() == [7]


def test_a_function_of_items_is_worked_out_when_it_is_asked_for() -> None:
    asked = []
    mapped = Mapped(lambda number: asked.append(number) or number * 2, [1, 2, 3])
    assert asked == [] and mapped[1] == 4 and asked == [2] and list(mapped) == [2, 4, 6]


def test_rows_on_disk_take_a_few_bytes_of_memory_each(tmp_path: Path) -> None:
    def used(count: int) -> int:
        tracemalloc.start()
        spool = spool_of(Row, (row(number, 1_000) for number in range(count)), tmp_path)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size + 0 * len(spool)

    used(10)  # what is made once
    assert (used(8_000) - used(2_000)) / 6_000 < 50  # a text has a thousand


def test_a_full_disk_is_said_in_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    spool = spool_of(Row)
    spool._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    with pytest.raises(ResourceError, match="disk is full"):
        spool.append(row(1, size=100_000))


def test_keys_are_numbered_as_they_come_and_known_again() -> None:
    rng, seen, expected = np.random.default_rng(3), Seen(), dict[bytes, int]()
    for key in rng.integers(0, 6_000, 20_000).tolist():
        name = str(key).encode()
        is_new = name not in expected
        assert seen.number(name) == (expected.setdefault(name, len(expected)), is_new)
    for name, number in expected.items():
        assert seen.number(name) == (number, False)
    assert seen.number(b"new") == (len(expected), True)
