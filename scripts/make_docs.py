"""Write the pages under docs/ that follow from the code: recipe, commands, causes, library. A test checks that they are current.

python scripts/make_docs.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import typer

import cause_tests
import galvan
from galvan import diagnosis, recipe
from galvan.cli import app

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Made by scripts/make_docs.py from the code; do not edit. -->\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def recipe_page() -> str:
    """Every option with its default and its sentence."""
    defaults = recipe.Recipe().model_dump(mode="json")
    lines = [
        NOTE,
        "# Recipe",
        "",
        "`galvan init` writes all of this as a commented file; `--set a.b=value` overrides one option.",
        "",
    ]
    lines += ["| option | default | meaning |", "| --- | --- | --- |"]
    for name, field in recipe.options():
        value = defaults
        for part in name.split("."):
            value = value[part]
        lines.append(f"| `{name}` | `{recipe.plain_yaml(value)}` | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its help as the terminal shows it."""
    group = typer.main.get_command(app)
    lines = [NOTE, "# Commands", ""]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        context = click.Context(command, info_name=f"galvan {name}", terminal_width=100, max_content_width=100)
        lines += [f"## galvan {name}", "", "```text", command.get_help(context).strip(), "```", ""]
    return "\n".join(lines)


def causes_page() -> str:
    """Every cause: what is seen, how it is proved, how it is mended, where it was seen."""
    lines = [
        NOTE, "# Causes", "", "Each is one function that answers present, absent or unknown; `galvan explain CODE` prints the same. *Injected* is how "
        "the tests and the fault benchmark put it in to see it caught.", "",
    ]  # fmt: skip
    injected = cause_tests.faults()
    for cause in diagnosis.causes():
        lines += [
            f"## {cause.code} {cause.title}", "", f"*{cause.family}*", "", f"- **Seen as:** {cause.symptom}", f"- **Proof:** {cause.proof}",
            f"- **Mend:** {cause.remedy}", f"- **Settle:** {cause.settle}", f"- **Injected:** {_injected(injected.get(cause.code, []))}", f"- **Sources:** {', '.join(cause.sources)}", "",
        ]  # fmt: skip
    return "\n".join(lines)


RESULTS = ("galvan.report.Judged", "galvan.pipeline.Checked", "galvan.notebook.Audit", "galvan.statistics.Gain", "galvan.style.judge.Style", "galvan.copying.originality.Originality")  # fmt: skip


def library_page() -> str:
    """Every public function with its signature and docstring, and what the functions return."""
    lines = [
        NOTE,
        "# Library",
        "",
        "Importing galvan imports neither torch nor transformers; each function brings what it needs.",
        "",
    ]
    for name in galvan.__all__:
        lines += [f"## galvan.{name}", "", *_described(f"galvan.{name}", getattr(galvan, name)), ""]
    lines += ["# What they return", ""]
    for path in RESULTS:
        module, _, name = path.rpartition(".")
        lines += [f"## {name}", "", *_described(path, getattr(import_module(module), name)), ""]
    return "\n".join(lines)


def _described(path: str, thing: Any) -> list[str]:
    """The signature as code, then the docstring; of a class also its public methods and properties, a line each."""
    public = [
        f"- `.{name}{'' if isinstance(member, property) else '()'}`: {_cell(inspect.getdoc(member) or '').partition('. ')[0].rstrip('.')}."
        for name, member in (vars(thing).items() if inspect.isclass(thing) else ())
        if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member)) and inspect.getdoc(member)
    ]
    return ["```text", _signature(path, thing), "```", "", inspect.getdoc(thing) or "", *(["", *public] if public else [])]


def _signature(path: str, thing: Callable[..., Any]) -> str:
    """`path(parameter: type = default, ...) -> type`, a parameter a line where it is long."""
    signature = inspect.signature(thing)
    text = re.sub(r"'([\w\[\], .|]+)'", r"\1", str(signature))
    if len(path + text) <= 110:
        return path + text
    rows = []
    for parameter in signature.parameters.values():
        rows += ["*"] if parameter.kind is parameter.KEYWORD_ONLY and "*" not in rows else []
        rows.append(re.sub(r": '(.*?)'( = |$)", r": \1\2", str(parameter)))
    tail = "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    return "\n".join([f"{path}(", *(f"    {row}," for row in rows), f"){tail.replace(chr(39), '')}"])


def _injected(ways: list[str]) -> str:
    """The first three ways in words."""
    if not ways:
        return "not here: it needs another program, and is answered unknown."
    return "; ".join(way.strip().rstrip(".").replace("|", "/") for way in list(dict.fromkeys(ways))[:3]) + "."


PAGES = {"recipe.md": recipe_page, "commands.md": commands_page, "causes.md": causes_page, "library.md": library_page}


def main() -> None:
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print(
        "written: " + ", ".join(stale)
        if stale and "--check" not in sys.argv
        else "stale: " + ", ".join(stale)
        if stale
        else "all current"
    )
    if stale and "--check" in sys.argv:
        sys.exit(1)


if __name__ == "__main__":
    main()
