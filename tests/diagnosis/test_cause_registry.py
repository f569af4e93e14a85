"""Every row of the catalogue is a registered cause with all its words, a fault that it must catch and a healthy case that it must not accuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_adapter_causes import HEALTHY, TOKENS

from galvan.diagnosis import causes, phrase, spans
from galvan.diagnosis.catalogue import Facts, Finding, Scores, diagnose
from galvan.diagnosis.run_facts import RunFacts
from galvan.diagnosis.words import CERTAINTIES, capped, measured, word_for

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import cause_tests  # noqa: E402

ROWS = {"A": 14, "B": 14, "C": 8, "D": 12, "E": 13, "F": 4, "G": 13, "H": 3, "I": 3}  # of the catalogue
CODES = [f"{family}{number:02}" for family, n in ROWS.items() for number in range(1, n + 1)]
NOT_INJECTED = {
    "A08": "needs a server that keeps keys and values of another adapter",
    "A13": "needs a server that does not get the adapter's name",
    "B09": "needs the loader of another program",
}


def test_all_84_rows_are_registered_with_all_their_words() -> None:
    rows = causes()
    assert len(CODES) == 84 and [row.code for row in rows] == sorted(CODES)
    for row in rows:
        assert all((row.title, row.symptom, row.proof, row.remedy, row.settle, row.sources, row.family)), row.code
        assert row.symptom[-1] == row.proof[-1] == row.settle[-1] == "." and row.title[-1] != ".", row.code


def test_every_cause_has_a_fault_that_a_test_injects_and_a_healthy_case() -> None:
    faults, healthy = cause_tests.faults(), cause_tests.healthy()
    assert [code for code in CODES if code not in faults and code not in NOT_INJECTED] == []
    assert [code for code in CODES if code not in healthy] == []


def test_a_code_without_a_test_is_seen(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(
        'import pytest\n\n@pytest.mark.cause("E01", "fault")\ndef test_an_end():\n    pass\n\nFAULTS = {"zeros": ("B07", None)}\n'
        'ALL = [pytest.param(c, marks=pytest.mark.cause(c, "healthy")) for c in ("E01", "E02")]\n'
    )
    assert cause_tests.faults(tmp_path) == {"E01": ["an end"], "B07": ["zeros"]}
    assert set(cause_tests.healthy(tmp_path)) == {"E01", "E02"}


@pytest.mark.parametrize(
    "code",
    [pytest.param(c, marks=pytest.mark.cause(c, "healthy")) for c in (
        "A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A09", "A10", "A11", "A12", "A13", "A14",
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B13", "B14",
        "C01", "C02", "C03", "C04", "C05", "C06", "C07", "C08",
        "D01", "D02", "D03", "D04", "D05", "D06", "D07", "D08", "D09", "D10", "D11", "D12",
    )],
)  # fmt: skip
def test_a_healthy_adapter_is_not_accused(code: str) -> None:
    facts = Facts(HEALTHY, run=RunFacts(tokens=TOKENS), scores=Scores(0.4, 1e-6))
    finding = next(f for f in diagnose(facts) if f.code == code)
    assert finding.status != "present" and (finding.status == "absent") == (
        not finding.because or not finding.because[0].startswith("Not known")
    )


@pytest.mark.parametrize("code", NOT_INJECTED)
def test_causes_of_other_programs_are_never_claimed_from_here(code: str) -> None:
    assert next(f for f in diagnose(Facts()) if f.code == code).status == "unknown"


# ---- words of certainty ----


@pytest.mark.parametrize(("right", "of", "word"), [
    (40, 40, "very likely"), (39, 40, "very likely"), (9, 10, "likely"), (20, 20, "very likely"), (16, 16, "likely"), (7, 10, "likely"),
    (6, 10, "cannot tell"), (0, 10, "cannot tell"),
])  # fmt: skip
def test_words_mean_frequencies(right: int, of: int, word: str) -> None:
    """Lower ends by hand: 0.025 ** (1 / 20) = 0.83 for 20 of 20, 0.025 ** (1 / 16) = 0.794 for 16 of 16."""
    assert word_for(right, of) == word


def test_a_word_that_the_benchmark_does_not_bear_out_is_lowered_and_none_is_raised() -> None:
    table = {"E06": {"very likely": (6, 8), "likely": (30, 30)}}
    assert capped("E06", "very likely", table) == "likely"
    assert capped("E06", "likely", table) == "likely"
    assert capped("E10", "very likely", table) == "very likely" and capped("E06", "certain", table) == "certain"


def test_a_cause_that_was_right_in_few_runs_is_held_to_all_that_were_named_with_the_word() -> None:
    borne_out = {"D05": {"very likely": (3, 3)}, "B06": {"very likely": (40, 40)}, "D06": {"very likely": (1, 2)}}
    assert [capped(code, "very likely", borne_out) for code in borne_out] == ["very likely", "very likely", "cannot tell"]
    assert capped("D05", "very likely", {"D05": {"very likely": (3, 3)}, "E06": {"very likely": (2, 9)}}) == "likely"


def test_the_frozen_table_names_causes_and_words_that_there_are() -> None:
    for code, words in measured().items():
        assert code in CODES and set(words) <= set(CERTAINTIES)
        assert all(0 <= right <= of for right, of in words.values())


def test_what_is_not_excluded_is_said_in_spans() -> None:
    assert spans(["A01", "A02", "A03", "B07", "G01", "G02"]) == "A01-A03, B07, G01, G02" and spans([]) == "none"


def test_a_finding_reads_as_it_should() -> None:
    found = Finding("G10", "present", "very likely", "The evaluation is too small", ["25 documents."], [], "more", "Judge on more.")
    other = Finding("H01", "unknown", "cannot tell", "x", ["Not known: y."], [], "z", "w")
    assert phrase(found, [found, other]) == [
        ("Most likely", "The evaluation is too small (G10, very likely)."), ("Because", "25 documents."),
        ("Against it", "Nothing that was measured."), ("Not excluded", "H01."), ("To settle it", "Judge on more."),
    ]  # fmt: skip


def test_explaining_needs_no_torch() -> None:
    code = "import sys; from galvan.diagnosis import causes; causes(); print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
