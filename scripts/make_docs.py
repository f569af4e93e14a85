"""Write the pages under docs/ that follow from the code: recipe, commands, causes. A test checks that they are current.

python scripts/make_docs.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import typer

import cause_tests
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


def _injected(ways: list[str]) -> str:
    """The first three ways in words."""
    if not ways:
        return "not here: it needs another program, and is answered unknown."
    return "; ".join(way.strip().rstrip(".").replace("|", "/") for way in list(dict.fromkeys(ways))[:3]) + "."


PAGES = {"recipe.md": recipe_page, "commands.md": commands_page, "causes.md": causes_page}


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
