"""Which tests and which cases of the fault benchmark inject each cause, and which must not accuse it: read from their source.

A test says so by `@pytest.mark.cause("E01", "fault")` or `"healthy"`, a table of faults by an entry `"how it is injected": ("E01", ...)`
in a name that ends in FAULTS, a case of the benchmark by `@fault("E01")` and its docstring.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"[A-I]\d\d")

Found = dict[str, list[str]]  # by code: what is done, in words


def faults(root: Path = ROOT) -> Found:
    """How each cause is injected: the benchmark's words first, then those of the tests."""
    found: Found = defaultdict(list)
    for path in sorted((root / "benchmarks" / "faults").glob("*.py")):
        for code, words in _cases(ast.parse(path.read_text(encoding="utf-8"))):
            found[code].append(words)
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for code, words in [*_marked(tree, "fault"), *_tables(tree)]:
            found[code].append(words)
    return found


def healthy(root: Path = ROOT) -> Found:
    """Tests that must not accuse a cause."""
    found: Found = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for code, words in _marked(ast.parse(path.read_text(encoding="utf-8")), "healthy"):
            found[code].append(words)
    return found


def _cases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in (d for d in function.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "fault"):
            codes = str(getattr(call.args[0], "value", "")) if call.args else ""
            line = (ast.get_docstring(function) or function.name.replace("_", " ")).split("\n")[0]
            if "+" not in codes:
                yield from ((code, line) for code in CODE.findall(codes))


def _marked(tree: ast.Module, kind: str) -> Iterator[tuple[str, str]]:
    """Marks of one kind, on a function, a parameter, or every element of a comprehension over codes."""
    for statement in tree.body:
        for node in ast.walk(statement):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.cause" and len(node.args) == 2):
                continue
            if getattr(node.args[1], "value", None) != kind:
                continue
            first = node.args[0]
            codes = [str(first.value)] if isinstance(first, ast.Constant) else _looped(statement, node)
            words = _id(statement, node) or getattr(statement, "name", "").removeprefix("test_").replace("_", " ")
            yield from ((code, words) for code in codes)


def _id(statement: ast.stmt, mark: ast.Call) -> str | None:
    """The id of the parameter that carries the mark."""
    for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.param"):
        if mark in ast.walk(call):
            return next((str(k.value.value) for k in call.keywords if k.arg == "id" and isinstance(k.value, ast.Constant)), None)
    return None


def _looped(statement: ast.stmt, mark: ast.Call) -> list[str]:
    loops = [node for node in ast.walk(statement) if isinstance(node, ast.ListComp | ast.GeneratorExp) and mark in ast.walk(node)]
    iterated = [ast.unparse(generator.iter) for loop in loops for generator in loop.generators]
    return [code for text in iterated for code in CODE.findall(text)]


def _tables(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in tree.body:
        target = (
            statement.target
            if isinstance(statement, ast.AnnAssign)
            else statement.targets[0]
            if isinstance(statement, ast.Assign)
            else None
        )
        table = getattr(statement, "value", None)
        if not (isinstance(target, ast.Name) and target.id.endswith("FAULTS") and isinstance(table, ast.Dict)):
            continue
        for key, value in zip(table.keys, table.values, strict=True):
            first = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else None
            if isinstance(key, ast.Constant) and isinstance(first, ast.Constant) and CODE.fullmatch(str(first.value)):
                yield str(first.value), str(key.value)
