"""The mutants that benchmarks/mutants.py draws, and what is said of those that survive."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import CodeType

import pytest
from benchmarks.mutants import MODULES, Map, changed_in_memory, files_of, judge, mutants
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
        "def f(a: int, b: bool = True) -> bool:\n    if a == 7:\n        raise ValueError(f'{a + 1}')\n    assert [*zip([a], [b], strict=True)]\n"
        "    list(zip([a], [b], strict=True))\n    return a < 1 or not b\n"
    )
    found = mutants(path)
    assert [mutant.change for mutant in found] == [
        "if a == 7: -> if not a == 7:", "a == 7 -> a != 7", "a == 7 -> a == 8", "a < 1 or not b -> a < 1 and (not b)", "a < 1 -> a <= 1", "a < 1 -> a < 2",
        "a < 1 or not b -> a < 1 or not not b",
    ]  # fmt: skip
    assert {mutant.function for mutant in found} == {"f"} and [list(mutant.lines) for mutant in found[:4]] == [[2], [2], [2], [6]]
    plain = results(compile(path.read_text(), str(path), "exec"))
    assert all(results(mutant.code()) != plain for mutant in found)


def test_mutants_that_no_test_is_known_to_meet_are_not_called_survivors() -> None:
    with pytest.raises(SystemExit, match="No test executes any of the lines"):
        judge(mutants(files_of("likelihood")[0])[:3], Map(), 1)


def test_functions_that_others_have_imported_get_the_changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain one, a method, one behind a cache and one within another; a constant outside of them is no function's."""
    path = tmp_path / "mutated_for_a_test.py"
    path.write_text(
        "from functools import cache\nK = 3\n@cache\ndef f(a):\n    return a + 1\nclass C:\n    def g(self, a):\n        return a < K\n"
        "def h(a):\n    def inner(b):\n        return b - a\n    return inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("mutated_for_a_test")
    f, g, h = module.f, module.C().g, module.h
    by = {mutant.change: mutant for mutant in mutants(path)}
    assert changed_in_memory(by["a + 1 -> a - 1"]) and f(5) == 4
    assert changed_in_memory(by["a < K -> a <= K"]) and g(3) is True
    assert changed_in_memory(by["b - a -> b + a"]) and h(1)(2) == 3
    assert not changed_in_memory(by["K = 3 -> K = 4"])


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
