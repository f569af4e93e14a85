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
        "example", "coverage", "verdicts", "null", "public", "detectable", "enough", "family",
    ]  # fmt: skip
    assert set(re.findall(r"<!-- figure (\w+) -->", PAGE)) == set(figures.FIGURES)


def test_the_figures_that_need_no_simulation_are_current():
    assert figures.fill(PAGE, figures.INSTANT) == PAGE


def test_a_page_with_an_old_figure_is_noticed():
    old = re.sub(r"\d+ documents for an 80 %", "7 documents for an 80 %", PAGE)
    assert old != PAGE and figures.fill(old, figures.INSTANT) == PAGE


def test_a_slice_of_null_comparisons_by_the_public_path_is_rarely_called_improved():
    """40 null comparisons: 9 or more called improved would have a chance of 1 in 10,000 at a rate of 5 %."""
    rng = figures.np.random.default_rng(8)
    found = figures.improved_among(figures.null_rows(rng, 20, figures.same_model_with_noise))
    found += figures.improved_among(figures.null_rows(rng, 20, figures.permuted_arms))
    assert found.count("improved") < 9 and "refused" not in found


def test_adapters_of_random_numbers_are_not_called_improved():
    assert "improved" not in figures.improved_among(figures.random_adapters(3, 12))


@pytest.mark.slow
def test_a_thousand_null_comparisons_by_the_public_path_are_called_improved_in_at_most_five_percent():
    rows = figures.public().splitlines()
    assert float(rows[-1].split("|")[4].split("%")[0]) <= 5


@pytest.mark.slow
def test_all_figures_are_current():
    assert figures.main(["--check"]) == 0
