"""The mutants that benchmarks/mutants.py draws, and what is said of those that survive."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import CodeType

from benchmarks.mutants import MODULES, files_of, mutants
from benchmarks.survivors import EXPLAINED


def test_every_explained_survivor_is_still_a_change_that_can_be_made() -> None:
    every = [mutant.name for module in MODULES for path in files_of(module) for mutant in mutants(path)]
    assert len(every) == len(set(every)) > 1000
    assert set(EXPLAINED) <= set(every)
    assert all(len(reason.split()) > 5 for reason in EXPLAINED.values())


def test_each_mutant_changes_the_code_at_one_place(tmp_path: Path) -> None:
    """`a < 1 or not b` by hand: the comparison, its 1, the `or` and the `not` can each be changed; what is raised and said cannot."""
    path = tmp_path / "one.py"
    path.write_text(
        "def f(a: int, b: bool = True) -> bool:\n    if a == 7:\n        raise ValueError(f'{a + 1}')\n    return a < 1 or not b\n"
    )
    found = mutants(path)
    assert [mutant.change for mutant in found] == [
        "if a == 7: -> if not a == 7:", "a == 7 -> a != 7", "a == 7 -> a == 8", "a < 1 or not b -> a < 1 and (not b)", "a < 1 -> a <= 1", "a < 1 -> a < 2",
        "a < 1 or not b -> a < 1 or not not b",
    ]  # fmt: skip
    assert {mutant.function for mutant in found} == {"f"} and [list(mutant.lines) for mutant in found[:4]] == [[2], [2], [2], [4]]
    plain = results(compile(path.read_text(), str(path), "exec"))
    assert all(results(mutant.code()) != plain for mutant in found)


def results(code: CodeType) -> list[object]:
    place: dict[str, Callable[[int, bool], bool]] = {}
    exec(code, place)
    found: list[object] = []
    for a, b in product((0, 1, 2, 7, 8), (True, False)):
        try:
            found.append(place["f"](a, b))
        except ValueError:
            found.append("refused")
    return found
