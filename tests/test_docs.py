"""The site is built without a network, and every example of README and docs is run, or says why not, and at least parses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from galvan import diagnosis, diagnostic
from galvan.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?^```(?P<language>sh|python|text)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block. `mark` is the comment before it: `not run: WHY`, `quick`, `exit CODE...`, or `output` (of the block before)."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return self.language != "text" and not self.mark.startswith("not run: ")

    @property
    def codes(self) -> list[int]:
        return [int(code) for code in self.mark.split()[1:]] if self.mark.startswith("exit ") else [0]


def examples(page: Path) -> list[Example]:
    text = page.read_text(encoding="utf-8")
    return [
        Example(page.name, text[: m.start("language")].count("\n") + 1, m["language"], m["text"], m["mark"] or "")
        for m in FENCE.finditer(text)
    ]


EXAMPLES = [example for page in PAGES for example in examples(page)]
QUICK = [e for e in EXAMPLES if e.mark == "quick"]
STORIES = sorted({e.page for e in EXAMPLES if e.runs and e.mark != "quick" and not e.mark.startswith("figure")})
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def lines(text: str) -> list[list[str]]:
    """The words of each `galvan` command of a shell block."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in joined.splitlines() if line.startswith("galvan ")]


def parse(words: list[str]) -> None:
    """As the real command line does, and nothing is run."""
    assert words[0] in COMMANDS, words
    COMMANDS[words[0]].make_context(f"galvan {words[0]}", words[1:])


IN_BLOCKS = [(e.page, words) for e in EXAMPLES if e.language == "sh" for words in lines(e.text)]


@pytest.mark.parametrize(("page", "words"), IN_BLOCKS, ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60])
def test_every_command_in_the_pages_parses(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostic, "annotate", lambda: None)
    parse(words)


def test_the_check_of_commands_sees_an_option_that_does_not_exist() -> None:
    for wrong in (["run", "recipe.yaml", "--sed", "a=b"], ["judge", "x"], ["check", "base"]):
        with pytest.raises(Exception, match=r"No such option|Missing|judge"):
            parse(wrong)


def spoken() -> list[tuple[str, str]]:
    """Commands named in a sentence of a page, or in a cause's own remedy, with where they stand."""
    found = [(p.name, c) for p in PAGES for c in re.findall(r"`(galvan [a-z][^`]*)`", p.read_text(encoding="utf-8"))]
    return found + [(c.code, s) for c in diagnosis.causes() for s in re.findall(r"`(galvan [a-z][^`]*)`", f"{c.remedy} {c.settle}")]


def test_every_command_named_in_a_sentence_has_a_verb_and_options_that_exist() -> None:
    assert len(spoken()) > 100
    wrong = []
    for where, command in spoken():
        _, verb, *rest = command.replace("...", " ").split()
        known = {name for p in COMMANDS[verb].params for name in p.opts} if verb in COMMANDS else set()
        if verb not in COMMANDS or {word.rstrip(",.") for word in rest if word.startswith("--")} - known:
            wrong.append((where, command))
    assert wrong == []


def test_every_example_is_run_or_says_why_not() -> None:
    marks = {e.mark.split(":")[0].split()[0] for e in EXAMPLES if e.mark}
    assert marks <= {"not", "quick", "exit", "output", "figure"}, marks
    assert all(len(e.mark) > len("not run: ") for e in EXAMPLES if e.mark.startswith("not run"))
    assert len(STORIES) >= 3 and QUICK


def run(example: Example, place: Path) -> str:
    """Run one example in `place`, with `galvan` on the path."""
    (place / "bin").mkdir(exist_ok=True)
    command = place / "bin" / "galvan"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m galvan "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    start = ["bash", "-euo", "pipefail", "-c"] if example.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run([*start, example.text], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in example.codes, (
        f"{example.page}:{example.line} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    )
    return done.stdout


@pytest.mark.parametrize("example", QUICK, ids=lambda e: f"{e.page}:{e.line}")
def test_short_examples_run(example: Example, tmp_path: Path) -> None:
    assert run(example, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", STORIES)
def test_the_examples_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    said = ""
    for example in (e for e in EXAMPLES if e.page == page):
        if example.runs:
            said = run(example, tmp_path)
        elif example.mark == "output":
            assert example.text in said, f"{page}:{example.line} does not say what was printed:\n{said[-3000:]}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    loads = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")
    for page in pages:
        assert loads.findall(page.read_text(encoding="utf-8")) == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_every_picture_is_used_and_every_page_is_in_the_site(site: Path) -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in PAGES)
    assert [p.name for p in (ROOT / "docs" / "images").glob("*.png") if f"images/{p.name}" not in text] == []
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f": {p.name}" not in menu] == []
