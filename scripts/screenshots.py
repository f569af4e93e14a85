"""Take the pictures of docs/images: a run's report and its app, in both themes, at desktop and phone width.

    python scripts/screenshots.py RUN [--refused RUN] [--app-only | --report-only] [--all DIR]

Only pictures that a page names are written; --all DIR writes every one there, to be looked at. Needs Chromium (apt-get install chromium) and the packages of requirements-dev.txt. The app writes ratings.sqlite, so it is shown on a copy of RUN.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZES = {"": (1000, 760), "-phone": (380, 760)}
THEMES = ("light", "dark")
REPORT_PARTS = {"documents": "light", "style": "dark", "copying": "light", "pairs": "light", "diagnosis": "dark"}
PROMPT = "I write to you from the lighthouse, where the winter has"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--refused", type=Path)
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--app-only", action="store_true")
    parser.add_argument("--all", type=Path)
    asked = parser.parse_args()
    keep = Keep(asked.all)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed here; apt-get install chromium first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if not asked.app_only:
            report(browser, keep, asked.run, asked.refused)
        if not asked.report_only:
            app(browser, keep, asked.run)
        browser.close()


class Keep:
    """Where a picture goes, and whether it is wanted."""

    def __init__(self, everything: Path | None) -> None:
        pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        self.wanted = {name for page in pages for name in re.findall(r"images/([\w-]+)\.png", page.read_text(encoding="utf-8"))}
        self.everything, self.folder = everything is not None, everything or IMAGES
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, page: Any, name: str, whole: bool = False) -> None:
        if self.everything or name in self.wanted:
            page.screenshot(path=self.folder / f"{name}.png", full_page=whole)


def report(browser: Any, keep: Keep, run: Path, refused: Path | None) -> None:
    """The first screen in both themes and widths, some parts, and the first screen of a refused run."""
    for theme in THEMES:
        for width in SIZES:
            shoot(browser, keep, run, f"report{width}-{theme}", theme, width)
    for part, theme in REPORT_PARTS.items():
        shoot(browser, keep, run, f"report-{part}", theme, "", part)
    if refused is not None:
        for width in SIZES:
            shoot(browser, keep, refused, f"report-refused{width}", "light", width)


def shoot(browser: Any, keep: Keep, run: Path, name: str, theme: str, width: str, part: str | None = None) -> None:
    """NAME.png: the first screen of the report, or that of one of its parts."""
    page = open_page(browser, theme, width)
    page.goto((run / "report.html").absolute().as_uri())
    if part is not None:
        page.locator(f"#{part}").evaluate("e => e.scrollIntoView()")
    keep(page, name)
    page.context.close()


def app(browser: Any, keep: Keep, run: Path) -> None:
    """A pair, the result and the playground, in both themes and widths."""
    with served(run) as url:
        cookies: list[Any] = []
        for theme in THEMES:
            for width in SIZES:
                page = open_page(browser, theme, width)
                if cookies:
                    page.context.add_cookies(cookies)
                page.goto(url if not cookies else url.partition("?")[0])
                cookies = cookies or page.context.cookies()
                through(page, keep, f"{width}-{theme}", reader=f"Reader{width} {theme}")
                page.context.close()


def through(page: Any, keep: Keep, suffix: str, reader: str) -> None:
    """One reader's way through the pages, with a picture at each."""
    origin = page.url.partition("/review")[0]
    page.goto(f"{origin}/review/rater")
    page.get_by_role("textbox").fill(reader)
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("heading", name="Pair 1 of").wait_for()
    for key in ("Left", "Right", "Tie"):
        page.get_by_role("button", name=key).click()
    keep(page, f"app-review{suffix}")
    page.get_by_role("button", name="Stop and show the result").click()
    keep(page, f"app-result{suffix}")
    page.goto(f"{origin}/playground")
    page.get_by_role("textbox", name="How shall the text begin?").fill(PROMPT)
    page.get_by_role("button", name="Write").click()
    page.locator("#status", has_text="Done").wait_for(timeout=120_000)
    keep(page, f"app-playground{suffix}", whole=True)


@contextmanager
def served(run: Path) -> Iterator[str]:
    """`galvan app` on a copy of the run, and the address that it prints."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(run, Path(place) / run.name, ignore=shutil.ignore_patterns("ratings.sqlite*")))
        server = subprocess.Popen(
            [sys.executable, "-m", "galvan", "app", str(copy), "--offline"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
            server.wait()


def open_page(browser: Any, theme: str, width: str) -> Any:
    size = dict(zip(("width", "height"), SIZES[width], strict=True))
    return browser.new_context(viewport=size, color_scheme=theme).new_page()


if __name__ == "__main__":
    main()
