"""Mutation testing: one change at a time in a module, and whether a test fails. A change that they let pass is a survivor.

python -m benchmarks.mutants [--modules statistics measure.scoring ...] [--count N] [--seed N] [--jobs N] [--write] [--again]

Written for this project because mutmut cannot draw a sample, and all mutants of these modules take a day. First every test file runs once, and
coverage.py notes which test executes which line of them; then each drawn mutant meets the tests that execute its line, the quickest file first. Each
runs in a fork of one session that has collected the tests already, in which the functions in memory get the changed code; what stands outside of
functions is changed by importing the module anew. No file is changed. `survivors.py` explains those that no test can see.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

from benchmarks import reliability
from benchmarks.survivors import EXPLAINED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "galvan"
KEPT = ROOT / "runs" / "mutants"
MODULES = ("statistics", "measure.scoring", "likelihood", "measure.integrity", "measure.adapter_files", "measure.live")
APART = {
    "action",
    "app",
    "browser",
    "chaos",
    "cli",
    "determinism",
    "docs",
    "fuzz",
    "fuzzed",
    "distributed",
    "novels",
    "postgres",
    "resume",
}  # judge files or other processes
_NO_USE, _NO_TESTS, _OURS, _OUTSIDE = (
    4,
    5,
    70,
    71,
)  # exit codes that say nothing of a mutant; the last: it is no change within a function
T = TypeVar("T")
ENOUGH = 60  # seconds of tests for one mutant, of all that execute its line

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """The `number`th place of a file that can be changed: the lines of its statement, its function, and how it reads before and after."""

    path: Path
    number: int
    lines: range
    function: str
    change: str

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(PACKAGE)} {self.function}: {self.change}"

    def code(self) -> CodeType:
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        for number, _ in enumerate(_places(tree)):
            if number == self.number:
                break
        return compile(ast.fix_missing_locations(tree), str(self.path), "exec", dont_inherit=True)


def mutants(path: Path) -> list[Mutant]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at = {id(node): (lines, function) for node, lines, function in _statements(tree, range(0), "")}
    found, known = list[Mutant](), Counter[tuple[str, str]]()
    for number, (node, change) in enumerate(_places(tree)):
        lines, function = at[id(node)]
        known[function, change] += 1
        again = f" ({known[function, change]})" if known[function, change] > 1 else ""
        found.append(Mutant(path, number, lines, function, change + again))
    return found


def _statements(node: ast.AST, lines: range, function: str) -> Iterator[tuple[ast.AST, range, str]]:
    """Each node with the lines of the innermost statement around it (of one with a body its head alone) and the function that holds it."""
    for child in ast.iter_child_nodes(node):
        inner, name = lines, function
        if isinstance(child, ast.stmt):
            body = getattr(child, "body", None)
            inner = range(child.lineno, max(child.lineno + 1, body[0].lineno if body else (child.end_lineno or child.lineno) + 1))
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{function}.{child.name}".lstrip(".")
        yield child, inner, function
        yield from _statements(child, inner, name)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Change one place, give its node and how it reads with what is around it, and change it back when the next is asked for."""
    around = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in _inside(tree):
        seen = around[id(node)] if isinstance(node, ast.Constant | ast.UnaryOp) else node
        before = ast.unparse(seen)
        for name, old, new in _changes(node):
            setattr(node, name, new)
            yield node, f"{_first(before)} -> {_first(ast.unparse(seen))}"
            setattr(node, name, old)


def _first(text: str) -> str:
    return text.splitlines()[0][:160]


def _inside(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and conditions of functions; not annotations, decorators, messages, assertions, or what is raised."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: an assertion
            continue
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


def files_of(module: str) -> list[Path]:
    place = PACKAGE / module.replace(".", "/")
    return sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from changed code."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self._path, loader=self) if name == self._name else None  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


@dataclass
class Map:
    """Which test executes which line, how long each test that passes takes, and what a file prepares for its tests."""

    seconds: dict[str, float] = field(default_factory=dict)
    prepared: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tests: dict[Path, dict[int, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Of the tests that execute its statement the quickest, for about a minute, file by file; of what runs when the module is imported, those of its file."""
        lines = self.tests[mutant.path]
        chosen = set().union(*(found for line, found in lines.items() if line in mutant.lines or not mutant.function))
        for whole in [test for test in chosen if test.endswith("::")]:  # what prepares a file's tests serves all of them
            chosen |= {test for test in self.seconds if test.startswith(whole)}
        files, total = defaultdict[str, list[str]](list), 0.0
        for test in sorted(chosen & self.seconds.keys(), key=lambda test: (self._cost([test]), test)):
            file = file_of(test)
            total += self.seconds[test] if file in files else self._cost([test])
            if total > ENOUGH and files:
                break
            files[file].append(test)
        return [test for some in sorted(files.values(), key=self._turn) for test in some]

    def _turn(self, tests: Sequence[str]) -> tuple[int, float]:
        """Files about this module come before those that run through many."""
        return max(map(self._breadth.__getitem__, tests)), self._cost(tests)

    @cached_property
    def _breadth(self) -> Counter[str]:
        """How many of the watched modules each test executes."""
        return Counter(test for lines in self.tests.values() for test in set().union(*lines.values()))

    def _cost(self, tests: Sequence[str]) -> float:
        """Of tests of one file."""
        return self.prepared[file_of(tests[0])] + sum(self.seconds[test] for test in tests)


def file_of(test: str) -> str:
    return test.partition("::")[0]


class _Watch:
    """Tells coverage.py which test runs, and keeps the time of those that pass."""

    def __init__(self, coverage: Any) -> None:
        self._coverage, self.seconds = coverage, dict[str, float]()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(file_of(nodeid) + "::")

    def pytest_pyfunc_call(self, pyfuncitem: Any) -> None:
        self._coverage.switch_context(pyfuncitem.nodeid)

    def pytest_runtest_teardown(self, item: Any) -> None:
        self._coverage.switch_context(file_of(item.nodeid) + "::")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration


class _Chosen:
    """Keeps these tests, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: number for number, test in enumerate(tests)}
        self.prepared, self.seconds = defaultdict[str, float](float), dict[str, float]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "setup":
            self.prepared[file_of(report.nodeid)] += report.duration
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid])


class _Meets(_Chosen):
    """Collects once; then each mutant meets its tests in a fork of its own."""

    def __init__(self, tests: Mapping[Mutant, Sequence[str]], limits: dict[Mutant, float], jobs: int) -> None:
        super().__init__(list(dict.fromkeys(test for some in tests.values() for test in some)))
        self._tests, self._limits, self._jobs = tests, limits, jobs
        self.codes = list[tuple[Mutant, int | None]]()
        self._said = os.fdopen(os.dup(1), "w")

    def pytest_runtestloop(self, session: Any) -> bool:
        met = {mutant: partial(self._meet, session, mutant) for mutant in self._tests}
        for mutant, code in forked(met, self._limits, self._jobs):
            self.codes.append((mutant, code))
            print(code, len(self._tests[mutant]), mutant.name, sep="\t", file=self._said, flush=True)
        return True

    def _meet(self, session: Any, mutant: Mutant) -> int:
        from _pytest.main import pytest_runtestloop

        if not changed_in_memory(mutant):
            return _OUTSIDE
        by = {item.nodeid: item for item in session.items}
        session.items[:] = [by[test] for test in self._tests[mutant]]
        session.config.option.maxfail = 1
        try:
            pytest_runtestloop(session)
        except BaseException:  # the first failure ends the session, and so does a test that exits
            return 1
        return int(session.testsfailed > 0)


def changed_in_memory(mutant: Mutant) -> bool:
    """Give every function in memory that `mutant` changes its new code, whoever has imported it; False where there is none."""
    source, file = mutant.path.read_text(encoding="utf-8"), str(mutant.path)
    pairs = zip(_functions(compile(source, file, "exec", dont_inherit=True)), _functions(mutant.code()), strict=True)
    changed = {old: new for old, new in pairs if old != new}
    found = [
        one
        for one in gc.get_objects()
        if isinstance(one, FunctionType) and one.__code__.co_filename == file and one.__code__ in changed
    ]
    for function in found:
        function.__code__ = changed[function.__code__]
    return bool(found)


def _functions(code: CodeType) -> Iterator[CodeType]:
    """The functions of a module and of its classes; what stands within a function is its own affair."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_OPTIMIZED:
                yield inner
            else:
                yield from _functions(inner)


def _pytest(files: Sequence[str], *options: str, plugin: object) -> int:
    import pytest

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return int(pytest.main([*options, "-m", "not slow", "-p", "no:randomly", "--rootdir", str(ROOT), *files], plugins=[plugin]))


def _watch(test: Path, watched: Sequence[Path], answer: Path) -> int:
    """Run one test file and leave what it executes in `answer`."""
    import coverage

    watch = coverage.Coverage(data_file=None, config_file=False, include=[str(path) for path in watched], messages=False)
    plugin = _Watch(watch)
    watch.start()
    code = _pytest([str(test)], plugin=plugin)
    watch.stop()
    data = watch.get_data()
    # the map is of use in another checkout of the same code
    found = {str(Path(path).relative_to(ROOT)): data.contexts_by_lineno(path) for path in data.measured_files()}
    answer.write_text(json.dumps([plugin.seconds, found]), encoding="utf-8")
    return code


def map_tests(tests: Sequence[Path], watched: Sequence[Path], jobs: int) -> Map:
    """Answers are kept in runs/mutants for as long as the test file and all that is watched stay the same."""
    known, now = Map(), hashlib.sha256(b"".join(path.read_bytes() for path in watched)).hexdigest()[:16]
    answers = {test: KEPT / f"{now}-{hashlib.sha256(test.read_bytes()).hexdigest()[:16]}-{test.stem}.json" for test in tests}
    KEPT.mkdir(parents=True, exist_ok=True)
    work = {test: partial(_watch, test, watched, answer) for test, answer in answers.items() if not answer.exists()}
    for test, code in forked(work, dict.fromkeys(work, 1800.0), jobs):
        print("mapped", test.relative_to(ROOT), code, flush=True)
    for answer in filter(Path.exists, answers.values()):
        seconds, found = json.loads(answer.read_text(encoding="utf-8"))
        known.seconds |= seconds
        for path, lines in found.items():
            for line, contexts in lines.items():
                known.tests[ROOT / path][int(line)] |= set(contexts)
    return known


def forked(work: dict[T, Callable[[], int]], limits: dict[T, float], jobs: int) -> Iterator[tuple[T, int | None]]:
    """Each piece of work in a process of its own, `jobs` at a time: its exit code, or None where it had to be ended.

    Limits are seconds of processor time, which a busy machine does not use up; one that waits for ever is ended after twenty times that.
    """
    waiting, running = list(work), dict[int, tuple[T, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            begun = waiting.pop(0)
            if not (child := os.fork()):
                _end_with(work[begun], int(limits[begun]))
            running[child] = begun, time.monotonic() + 20 * limits[begun]
        time.sleep(0.02)
        for child, (what, deadline) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done or time.monotonic() > deadline:
                if not done:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                del running[child]
                code = os.waitstatus_to_exitcode(status) if done else None
                yield what, None if code == -signal.SIGXCPU else code


def _end_with(work: Callable[[], int], seconds: int) -> None:
    code = _OURS
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        code = work()
    finally:
        os._exit(code)


def unchanged(known: Map, tests: set[str]) -> Map:
    """Run them all in one process, as mutants meet them: what is known of those that pass without any change."""
    ordered = sorted(tests)

    def work() -> tuple[dict[str, float], dict[str, float]]:
        plugin = _Chosen(ordered)
        _pytest(_files(ordered), plugin=plugin)
        return plugin.seconds, plugin.prepared

    sure = Map(*_answer_of(work), known.tests)
    for test in sorted(tests - sure.seconds.keys()):
        print("fails without any change:", test, flush=True)
    return sure


def _answer_of(work: Callable[[], T]) -> T:
    """What `work` returns in a fork of this process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")

        def kept() -> int:
            answer.write_bytes(pickle.dumps(work()))
            return 0

        assert list(forked({"one": kept}, {"one": 36000.0}, 1)) == [("one", 0)]
        return cast(T, pickle.loads(answer.read_bytes()))


def _files(tests: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(str(ROOT / file_of(test)) for test in tests))


def _meet_anew(mutant: Mutant, tests: Sequence[str]) -> int:
    """The exit code of the tests where the module is imported with that change: 0 where they pass."""
    name = ".".join(("galvan", *mutant.path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    sys.meta_path.insert(0, _Finder(name, mutant.path, mutant.code()))
    return _pytest(_files(tests), "-x", plugin=_Chosen(tests))


def judge(drawn: Sequence[Mutant], known: Map, jobs: int) -> dict[Mutant, str]:
    """ "killed", "killed by the clock" or "survived" for each."""
    meant = {test for mutant in drawn for test in known.tests_of(mutant)}
    if not meant:  # all would be survivors, of nothing
        sys.exit("No test executes any of the lines that would be changed: the map in runs/mutants is of other code.")
    sure = unchanged(known, meant)
    tests = {mutant: found for mutant in drawn if (found := sure.tests_of(mutant))}
    limits = {mutant: 60 + 2 * sum(sure.seconds[test] for test in found) for mutant, found in tests.items()}

    def together() -> list[tuple[Mutant, int | None]]:
        plugin = _Meets(tests, limits, jobs)
        _pytest(_files([test for found in tests.values() for test in found]), plugin=plugin)
        return plugin.codes

    codes = dict(_answer_of(together))
    outside = {mutant: partial(_meet_anew, mutant, tests[mutant]) for mutant, code in codes.items() if code == _OUTSIDE}
    codes |= dict(forked(outside, limits, jobs))
    assert codes.keys() == tests.keys() and not {_NO_USE, _NO_TESTS, _OURS, _OUTSIDE} & set(codes.values()), codes
    answers = {0: "survived", None: "killed by the clock"}
    return {mutant: answers.get(codes[mutant], "killed") if mutant in codes else "survived" for mutant in drawn}


def main() -> None:

    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--modules", nargs="+", default=list(MODULES))
    parser.add_argument("--count", type=int, default=60, help="Mutants drawn of each.")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="Processes at a time.")
    parser.add_argument("--tests", nargs="+", type=Path, help="These test files in place of all.")
    parser.add_argument("--write", action="store_true", help="Put the table into docs/reliability.md.")
    parser.add_argument(
        "--again",
        action="store_true",
        help="Ask only the survivors that stand in docs/reliability.md; what was killed there stays so.",
    )
    asked = parser.parse_args()
    os.chdir(ROOT)
    for heavy in ("numpy", "scipy.stats", "hypothesis", "statsmodels.api", "torch", "transformers", "peft", "pyarrow.parquet"):
        importlib.import_module(heavy)
    every = [test for test in sorted((ROOT / "tests").rglob("test_*.py")) if not APART & set(test.stem.split("_"))]
    watched = [path for module in MODULES for path in files_of(module)]
    known = map_tests([test.absolute() for test in asked.tests] if asked.tests else every, watched, asked.jobs)
    for module in asked.modules:
        places = [mutant for path in files_of(module) for mutant in mutants(path)]
        drawn = random.Random(f"{asked.seed} {module}").sample(places, min(asked.count, len(places)))
        before = reliability.read(f"mutants {module}") if asked.again else ""
        asking = [mutant for mutant in drawn if not asked.again or f"- `{mutant.name}`:" in before]
        answers = dict.fromkeys(drawn, "killed") | (judge(asking, known, asked.jobs) if asking else {})
        lines = [f"Drawn with seed {asked.seed}.", "", *told(f"galvan.{module}", len(places), answers)]
        if asked.write:
            reliability.write(f"mutants {module}", lines)
        print(*lines, sep="\n", flush=True)


def told(module: str, n_places: int, answers: Mapping[Mutant, str]) -> list[str]:
    """A table of one row, and every survivor."""

    survivors = [mutant.name for mutant, answer in answers.items() if answer == "survived"]
    clock, drawn = sum(answer == "killed by the clock" for answer in answers.values()), len(answers)
    killed, explained = drawn - len(survivors), sum(name in EXPLAINED for name in survivors)
    head = ("module", "mutants", "drawn", "killed", "of these by the clock", "survivors explained", "share killed")
    row = (module, n_places, drawn, killed, clock, explained, f"{100 * killed / drawn:.0f} %")
    return [*reliability.table(head, [row]), "", *(f"- `{name}`: {EXPLAINED.get(name, 'not explained.')}" for name in survivors)]


if __name__ == "__main__":
    main()
