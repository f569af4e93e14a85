"""The fault benchmark covers the catalogue: every cause is put into a run by some case, or stands among those that cannot be, with the reason."""

from __future__ import annotations

from benchmarks.faults.cases import registered
from benchmarks.faults.not_injected import NOT_INJECTED

from galvan.diagnosis import causes


def test_every_cause_is_put_in_or_said_why_not() -> None:
    put_in = {code for case in registered() for code in case.code.split("+")} - {"healthy"}
    assert put_in | NOT_INJECTED.keys() == {cause.code for cause in causes()}
    assert not put_in & NOT_INJECTED.keys()


def test_every_answer_that_a_case_accepts_is_a_cause_or_an_error() -> None:
    known = {cause.code for cause in causes()}
    assert all(code in known or "/" in code for case in registered() for code in case.accept)


def test_there_are_93_healthy_runs_and_more() -> None:
    assert sum(len(case.settings) for case in registered() if case.is_healthy) >= 93
