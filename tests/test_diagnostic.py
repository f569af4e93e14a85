"""Diagnostics at 80 columns and as annotations of a CI run, held against what GitHub's runner does with a log."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan import diagnostic
from galvan.diagnostic import Diagnostic, Muted
from galvan.rundir import to_json
from galvan.text import shown
from processes import galvan
from synthetic import VARIANTS, make

FOUND = Diagnostic(
    "error", "A01", "The base was evaluated with the adapter in it (certain)", "runs/a/integrity.json",
    [("because", "The base object holds 24 adapter layers, and 11,034 of 11,034 tokens have exactly the same likelihood in both arms."),
     ("help", "Load the base from fresh files in an object of its own.")],
)  # fmt: skip


def commands(log: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """What actions/runner would obey, after its ActionCommand.TryParseV2 and TryParse: line by line, blanks before it ignored;
    `::name key=value,key=value::data`, or, of the older form, `##[name ...]data` anywhere in the line."""
    for line in re.split("\r\n|\r|\n", log):
        command = re.match(r"\s*::([^\s:]+)(?: (.*?))?::(.*)$", line)
        if command:
            fields = [part.partition("=") for part in (command[2] or "").split(",") if part]
            yield command[1], {key.strip(): _plain(value) for key, _, value in fields}, _plain(command[3])
        elif re.search(r"##\[[^\]]+\]", line):
            yield "##", {}, line


def _plain(text: str) -> str:
    """The runner's own unescaping, in its order: the per cent sign last."""
    for code, mark in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, mark)
    return text


PARTS = [*":#[]%,=\r\n \t\x85\u3000\x1b\u202e", "::error::", "##[error]", "%0A::add-mask::", "a", "word "]
HOSTILE = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)


def test_a_diagnostic_has_code_place_because_and_help_at_80_columns() -> None:
    assert FOUND.lines(80) == [
        "error[A01]: The base was evaluated with the adapter in it (certain)",
        "  --> runs/a/integrity.json",
        "   = because: The base object holds 24 adapter layers, and 11,034 of 11,034",
        "              tokens have exactly the same likelihood in both arms.",
        "   = help: Load the base from fresh files in an object of its own.",
    ]


@settings(deadline=None)
@given(HOSTILE, HOSTILE, st.integers(40, 120))
def test_no_line_is_wider_than_asked_but_a_word_that_is_copied_whole(message: str, note: str, width: int) -> None:
    for line in Diagnostic("warning", "E01", message, None, [("because", note)]).lines(width):
        assert len(line) <= width or " " not in line.partition(": ")[2].strip() or " " not in line.strip()
        assert not [c for c in line if unicodedata.category(c) in {"Cc", "Cf"}]


@settings(deadline=None)
@given(HOSTILE)
def test_the_runner_sees_no_command_in_a_muted_log(text: str) -> None:
    log = io.StringIO()
    stream = Muted(log)
    for part in re.findall(r"(?s).{1,3}", text):
        stream.write(part)
    stream.end()
    assert list(commands(log.getvalue())) == []


def test_the_runner_would_have_seen_them() -> None:
    assert [c[0] for c in commands(" ::error::x\nnone: ::\rword ##[add-mask]x\n\r::set-env name=PATH::/x")] == [
        "error",
        "##",
        "set-env",
    ]


@settings(deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_an_annotation_is_one_command_that_says_what_was_to_be_said(message: str, place: str, note: str) -> None:
    said = Diagnostic("warning", "E01", message, place or None, [("because", note)]).annotation()
    [(name, fields, data)] = commands(said)
    assert (name, fields["title"], fields.get("file", "")) == ("warning", "E01", shown(place))
    assert data == shown(f"{message}\nbecause: {note}")


@settings(deadline=None)
@given(HOSTILE)
def test_json_keeps_its_values_and_commands_no_runner(text: str) -> None:
    document = to_json({"a": text, text: [text]})
    assert list(commands(document)) == [] and json.loads(document) == {"a": text, text: [text]}


@pytest.mark.parametrize("form", [["--format", "github"], ["--format", "github", "--json"], []])
def test_a_log_of_a_hostile_run_commands_nothing_but_its_annotations(tmp_path: Path, form: list[str]) -> None:
    import dataclasses

    evil = "x\n::stop-commands::y\n ##[error]z"
    make(tmp_path / "run", dataclasses.replace(VARIANTS["dead"], prefix=evil, base=evil))
    done = galvan("report", "run", *form, cwd=tmp_path, env={"GITHUB_ACTIONS": "true", "COLUMNS": "80"})
    assert done.code == 4 and list(commands(done.out)) == []
    told = [(name, fields["title"]) for name, fields, _ in commands(done.err)]
    findings = json.loads((tmp_path / "run" / "findings.json").read_text())
    present = [f["code"] for f in findings if f["status"] == "present"]
    assert present and [title for _, title in told] == ([*present, "refused"] if form else [])
    assert {level for level, _ in told} == ({"error"} if form else set())
    if "--json" in form:
        assert json.loads(done.out)["verdict"] == "refused"


def test_an_error_is_annotated_too_and_a_healthy_run_is_a_notice(tmp_path: Path) -> None:
    done = galvan("report", "nowhere,::x", "--format", "github", cwd=tmp_path)
    [(name, fields, data)] = commands(done.err)
    assert (
        done.code == 2
        and name == "error"
        and "nowhere,::x" in data
        and fields["title"] == re.search(r"^error\[(.*?)\]", done.err, re.M)[1]
    )  # type: ignore[index]
    make(tmp_path / "run", "improved")
    done = galvan("report", "run", "--format", "github", cwd=tmp_path)
    assert [(name, fields["title"]) for name, fields, _ in commands(done.err)][-1] == ("notice", "improved")


def test_nothing_is_muted_or_told_unless_it_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostic.tell([FOUND])
    print("::notice::by hand")
    out, err = capsys.readouterr()
    assert (out, err) == ("::notice::by hand\n", "")
