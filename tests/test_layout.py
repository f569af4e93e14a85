"""The shape of the package: imports go one way, judging never imports torch, generated pages are current, nothing local is committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "galvan"

# A module may import those that stand above it, and its own family.
ORDER = [
    {"errors", "text", "progress", "diagnostic", "__init__"},
    {"recipe", "distributed"},
    {"payload", "rundir"},
    {"statistics"},
    {"data"},
    {"guards"},
    {"models", "likelihood", "llama", "unpadded"},
    {"training"},
    {"measure", "style"},
    {"compare", "compare_seeds", "compare_shuffled", "copying", "forgetting", "augment", "app"},
    {"diagnosis"},
    {"notebook", "preflight", "report", "trackers"},
    {"plan", "story", "side_by_side"},
    {"doctor", "pipeline", "space"},
    {"publish", "sweep", "improve", "many"},
    {"cli"},
    {"__main__"},
]
HEAVY = ("torch", "transformers", "peft")


def family(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Families of galvan that a file imports, anywhere in it; imports for type checkers alone do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "galvan":
            names = [a.name for a in node.names] if node.module == "galvan" else [node.module.split(".")[1]]
            found.update(name for name in names if not name.startswith("__"))
        if isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("galvan."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_every_module_has_its_place_and_imports_only_from_above() -> None:
    level = {name: n for n, names in enumerate(ORDER) for name in names}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = family(path)
        assert own in level, f"{own} has no place in ORDER"
        wrong += [f"{path.relative_to(PACKAGE)} imports {name}" for name in imported(path) - {own} if level[name] > level[own]]
    assert wrong == []


def test_the_check_of_imports_sees_an_import_that_goes_up(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from galvan.cli import main\n    from galvan import report\n")
    assert imported(path) == {"cli", "report"}


@pytest.mark.parametrize(
    "module",
    ["galvan", "galvan.report", "galvan.diagnosis", "galvan.compare", "galvan.statistics", "galvan.data.prepare", "galvan.cli"],
)
def test_judging_and_the_command_line_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_library_functions_stay_functions_after_their_modules_are_imported() -> None:
    code = (
        "import galvan, galvan.pipeline, galvan.notebook, galvan.cli, galvan.report\n"
        "print([n for n in galvan.__all__ if not callable(getattr(galvan, n))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_lock_file_names_torch_exactly_and_the_project_a_range() -> None:
    assert "torch==2.13.0" in (ROOT / "requirements-torch.txt").read_text().splitlines()
    assert '"torch>=2.10"' in (ROOT / "pyproject.toml").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
