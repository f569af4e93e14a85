"""Mutation testing: one change at a time in a module, and whether its tests fail. A change that they let pass is a survivor.

python -m benchmarks.mutants [--modules statistics measure.scoring ...] [--count N] [--seed N]

Written for this project because mutmut cannot draw a sample, and all mutants of these modules take a day. Each mutant runs in a fork of one process
that has imported the references already; no file is changed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "galvan"
MODULES = ("statistics", "measure.scoring", "likelihood", "measure.integrity", "measure.adapter_files", "measure.live")
SECONDS = 240  # a mutant that makes its tests run longer than that is caught by the clock

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """The `number`th place of a file that can be changed: where it is, and how it reads before and after."""

    path: Path
    number: int
    line: int
    change: str

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(PACKAGE)}:{self.line} {self.change}"

    def code(self) -> CodeType:
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        for number, _ in enumerate(_places(tree)):
            if number == self.number:
                break
        return compile(ast.fix_missing_locations(tree), str(self.path), "exec")


def mutants(path: Path) -> list[Mutant]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [Mutant(path, number, line, change) for number, (line, change) in enumerate(_places(tree))]


def _places(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Change one place, give its line and how it reads now, and change it back when the next is asked for."""
    for node in _inside(tree):
        before = ast.unparse(node)
        for field, old, new in _changes(node):
            setattr(node, field, new)
            yield node.lineno, f"{before.splitlines()[0]} -> {ast.unparse(node).splitlines()[0]}"
            setattr(node, field, old)


def _inside(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and conditions of functions; not annotations, decorators, messages, or what is raised."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom | ast.AnnAssign | ast.arguments):
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                yield from _inside(ast.Module([ast.Expr(node.value)], []))
            continue
        if isinstance(node, ast.expr | ast.stmt) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _inside(ast.Module(node.body, []))
        else:
            yield from _inside(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, object, object]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _SWAPS:
            yield "ops", node.ops, [_SWAPS[type(op)]()]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.UnaryOp(op=op) if type(op) in _SWAPS:
            yield "op", op, _SWAPS[type(op)]()
        case ast.UnaryOp(op=ast.Not()):
            yield "operand", node.operand, ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant(value=bool() as value):
            yield "value", value, not value
        case ast.Constant(value=int() | float() as value):
            yield "value", value, value + 1
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "test", test, ast.UnaryOp(ast.Not(), test)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from changed code."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self._path, loader=self) if name == self._name else None  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def tests_of(path: Path) -> list[str]:
    """Test files that name something public of the module, those first that name most of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    named = Counter(
        {
            test: sum(bool(re.search(rf"\b{name}\b", text)) for name in public)
            for test in (ROOT / "tests").rglob("test_*.py")
            if "galvan" in (text := test.read_text(encoding="utf-8"))
            and not {"app", "browser", "chaos", "docs"} & set(test.stem.split("_"))
        }
    )
    near = sorted(
        (test for test in named if named[test]), key=lambda test: (test.parent.name == path.parent.name, named[test]), reverse=True
    )
    return [str(test) for test in near[:3]]


def survives(mutant: Mutant, files: Sequence[str]) -> bool:
    """Do the tests pass with it?"""
    child = os.fork()
    if not child:
        _run_tests(mutant, files)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(mutant: Mutant, files: Sequence[str]) -> None:
    import pytest

    code = 70
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        name = ".".join(("galvan", *mutant.path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        sys.meta_path.insert(0, _Finder(name, mutant.path, mutant.code()))
        code = int(
            pytest.main(
                ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:randomly", "--rootdir", str(ROOT), *files]
            )
        )
    finally:
        os._exit(code)


def main() -> None:
    from benchmarks import reliability

    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--modules", nargs="+", default=list(MODULES))
    parser.add_argument("--count", type=int, default=60, help="Mutants drawn of each.")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="Put the table into docs/reliability.md.")
    asked = parser.parse_args()
    os.chdir(ROOT)
    for heavy in ("numpy", "scipy.stats", "hypothesis", "statsmodels.api", "torch", "transformers", "peft", "pyarrow.parquet"):
        importlib.import_module(heavy)
    rng, rows, alive = random.Random(asked.seed), list[tuple[object, ...]](), list[str]()
    for module in asked.modules:
        place = PACKAGE / module.replace(".", "/")
        every = [
            m for path in (sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]) for m in mutants(path)
        ]
        drawn = rng.sample(every, min(asked.count, len(every)))
        survivors = []
        for mutant in drawn:
            if survives(mutant, tests_of(mutant.path)):
                survivors.append(mutant.name)
                print("survived:", mutant.name, flush=True)
        killed = len(drawn) - len(survivors)
        rows.append((f"galvan.{module}", len(every), len(drawn), killed, f"{100 * killed / len(drawn):.0f} %"))
        print(*rows[-1], sep="\t", flush=True)
        alive += survivors
    lines = [
        *reliability.table(("module", "mutants", "drawn", "killed", "share"), rows),
        "",
        "Survivors:",
        "",
        *(f"- `{name}`" for name in alive),
    ]
    if asked.write:
        reliability.write("mutants", [f"Drawn with seed {asked.seed}.", "", *lines])
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
