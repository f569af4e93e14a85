"""What no campaign of chaos, fuzz or load asks: hostile models and data, secrets, memory, determinism, packages. Runs the tests that hold each.

python -m benchmarks.defences [--write]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reliability

ROOT = Path(__file__).parents[1]
SUBJECTS = {
    "memory gives out in training": (
        "tests/training/test_loop.py::test_out_of_memory_makes_passes_smaller_and_changes_no_step",
        "tests/training/test_loop.py::test_a_document_that_does_not_fit_alone_is_refused_with_what_would",
        "tests/training/test_loop.py::test_an_error_that_is_not_about_memory_is_not_tried_again",
    ),
    "hostile models and adapters, beside sound ones": ("tests/test_hostile_models.py", "tests/test_models.py"),
    "hostile data, where it is read": ("tests/data/test_bad_input.py", "tests/test_recipe.py"),
    "hostile text, where people read it": (
        "tests/test_text.py",
        "tests/test_diagnostic.py",
        "tests/test_rundir.py::test_text_that_acts_on_a_terminal_is_escaped_and_comes_back",
        "tests/report/test_judge.py::test_a_page_with_hostile_names_renders_without_html_links_or_images",
        "tests/report/test_page.py::test_over_500_ways_to_inject_a_script_run_nothing",
        "tests/report/test_page.py::test_the_same_watch_sees_a_payload_that_was_not_escaped",
        "tests/test_app.py::test_five_hundred_payloads_in_texts_prompts_reasons_and_names_stay_text",
    ),
    "secrets": ("tests/test_secrets.py", "tests/test_trackers.py::test_secrets_of_the_environment_are_hidden"),
    "the same bytes, the same verdict": (
        "tests/test_determinism.py",
        "tests/test_resume.py",
        "tests/report/test_judge.py::test_another_hash_seed_writes_the_same_bytes_and_torch_is_never_imported",
    ),
    "packages and what is published": ("tests/test_threats.py", "tests/test_publish.py"),
}


class Counted:
    """How each case ended, by subject."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {subject: Counter() for subject in SUBJECTS}

    def pytest_runtest_logreport(self, report: Any) -> None:
        ended = report.outcome if report.when == "call" or report.outcome != "passed" else None
        for subject, held_by in SUBJECTS.items():
            if ended and report.nodeid.startswith(held_by):
                self.ended[subject][ended] += 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defences", description=__doc__)
    parser.add_argument("--write", action="store_true", help="Put the table into docs/reliability.md.")
    asked, counted = parser.parse_args(), Counted()
    tests = [str(ROOT / test) for held_by in SUBJECTS.values() for test in held_by]
    code = pytest.main(["-q", "-m", "not slow", "--rootdir", str(ROOT), *tests], plugins=[counted])
    head = ("what", "held by", "cases", "held", "skipped")
    rows = []
    for subject, ended in counted.ended.items():
        files = dict.fromkeys(test.partition("::")[0].removeprefix("tests/") for test in SUBJECTS[subject])
        rows.append((subject, ", ".join(f"`{file}`" for file in files), ended.total(), ended["passed"], ended["skipped"]))
    tried, held, skipped = (sum(row[k] for row in rows) for k in (2, 3, 4))
    last = f"{tried} tried, {held} held, {skipped} skipped"
    lines = [f"{last}.", "", *reliability.table(head, rows)]
    if asked.write:
        reliability.write("defences", lines)
    print(*lines[2:], last, sep="\n")
    sys.exit(int(code))


if __name__ == "__main__":
    main()
