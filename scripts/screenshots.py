"""Take the pictures of docs/images from a run's report, in both themes and at phone width.

    python scripts/screenshots.py RUN [--refused RUN]

Needs Chromium (apt-get install chromium) and the packages of requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT, PHONE = 1000, 760, 380


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--refused", type=Path)
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed here; apt-get install chromium first")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            shoot(browser, asked.run, f"report-{theme}", theme, WIDTH)
        shoot(browser, asked.run, "report-documents", "light", WIDTH, "documents")
        shoot(browser, asked.run, "report-style", "dark", WIDTH, "style")
        shoot(browser, asked.run, "report-phone", "light", PHONE)
        if asked.refused is not None:
            shoot(browser, asked.refused, "report-refused", "light", WIDTH)
        browser.close()


def shoot(browser: Any, run: Path, name: str, theme: str, width: int, part: str | None = None) -> None:
    """docs/images/NAME.png: the first screen of the report, or that of one of its parts."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=theme)
    page.goto((run / "report.html").absolute().as_uri())
    if part is not None:
        page.locator(f"#{part}").evaluate("e => e.scrollIntoView()")
    page.screenshot(path=IMAGES / f"{name}.png")
    page.close()


if __name__ == "__main__":
    main()
