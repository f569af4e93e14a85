"""docs/statistics.md says what the code computes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("statistics_figures", ROOT / "scripts" / "statistics_figures.py")
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")


def test_every_figure_has_its_place_on_the_page_and_is_filled():
    assert re.findall(r"<!-- figure (\w+) -->\n(?!<!-- end)", PAGE) == [
        "example", "coverage", "verdicts", "null", "detectable", "enough", "family",
    ]  # fmt: skip
    assert set(re.findall(r"<!-- figure (\w+) -->", PAGE)) == set(figures.FIGURES)


def test_the_figures_that_need_no_simulation_are_current():
    assert figures.fill(PAGE, figures.INSTANT) == PAGE


def test_a_page_with_an_old_figure_is_noticed():
    old = re.sub(r"\d+ documents for an 80 %", "7 documents for an 80 %", PAGE)
    assert old != PAGE and figures.fill(old, figures.INSTANT) == PAGE


@pytest.mark.slow
def test_all_figures_are_current():
    assert figures.main(["--check"]) == 0
