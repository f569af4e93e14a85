"""The run directory: whole files or none, JSON for any reader, stages that know when they must be done again, one process a run."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan import rundir as runs
from galvan.errors import EXIT_RESOURCES, EXIT_USAGE, DataError, RecipeError, ResourceError
from galvan.recipe import Recipe
from galvan.rundir import (
    Document,
    Stage,
    alone,
    atomic,
    atomic_path,
    fingerprint,
    read_documents,
    read_json,
    read_rows,
    to_json,
    write_bytes,
    write_json,
    write_rows,
)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- atomic files ----


def test_a_file_appears_with_its_whole_content_and_makes_its_folder(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.txt", b"whole")
    assert held(tmp_path / "a" / "b") == {"c.txt": b"whole"}
    assert (tmp_path / "a" / "b" / "c.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failure", [ValueError("ours"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic(path) as stream:
        stream.write(b"half")
        raise failure
    assert held(tmp_path) == {"a.json": b"old"}


def test_rows_that_fail_half_way_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_rows(tmp_path / "rows.jsonl", ({"n": 1 // (3 - n)} for n in range(5)))
    assert held(tmp_path) == {}


def fail_with(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(function, failing)


@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "tempfile.mkstemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EFBIG])
def test_a_disk_that_gives_out_at_any_moment_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        fail_with(patch, function, number)
        with pytest.raises(ResourceError) as caught:
            write_bytes(path, b"new")
    assert caught.value.exit_code == EXIT_RESOURCES
    if number in (errno.ENOSPC, errno.EDQUOT):
        assert caught.value.code == "disk/full"
        assert str(caught.value).startswith(f"{path}: the disk is full: this file needs 3 bytes, ")
        assert str(caught.value).endswith(" are free; free some space and run again.")
    else:
        assert caught.value.code == "disk/unwritable"
        assert str(caught.value) == f"{path}: cannot be written: {os.strerror(number)}; choose another folder with --out."
    assert held(tmp_path) == {"a.json": b"old"}


def test_a_path_below_a_file_and_a_folder_in_the_way_are_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path, reason in [
        (tmp_path / "file" / "deep" / "a", "Not a directory"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(ResourceError) as caught:
            write_bytes(path, b"x")
        assert (caught.value.code, str(caught.value)) == (
            "disk/unwritable",
            f"{path}: cannot be written: {reason}; choose another folder with --out.",
        )
    assert sorted(held_names(tmp_path)) == ["file", "folder"]


def held_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def test_a_real_limit_of_the_file_size_is_answered_likewise(tmp_path: Path) -> None:
    """RLIMIT_FSIZE holds for root too; Python ignores SIGXFSZ, so that the write fails with EFBIG."""
    script = (
        "import resource, sys; from pathlib import Path; from galvan.rundir import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except Exception as error:\n    print(type(error).__name__, error.code)"
    )
    (tmp_path / "a").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert done.stdout == "ResourceError disk/unwritable\n"
    assert held(tmp_path) == {"a": b"old"}


def test_a_really_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets us mount no small disk")
    try:
        write_bytes(small / "a", b"old")
        with pytest.raises(ResourceError) as caught:
            write_bytes(small / "a", b"x" * 200_000)
        assert caught.value.code == "disk/full"
        assert held(small) == {"a": b"old"}
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ---- JSON ----


def test_undefined_numbers_become_null_and_arrays_lists() -> None:
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": np.float32(0.5), "d": np.arange(2), "e": np.array([np.nan]), "f": np.bool_(True), 1: Path("x/y"), "g": Document("i", "t", "s", 0)}  # fmt: skip
    assert json.loads(to_json(value)) == {
        "a": None, "b": [None, None, 1.5], "c": 0.5, "d": [0, 1], "e": [None], "f": True, "1": "x/y",
        "g": {"id": "i", "text": "t", "source": "s", "position": 0, "group": None},
    }  # fmt: skip
    assert json.loads(to_json(Recipe()))["training"]["betas"] == [0.9, 0.999]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES)
def test_any_value_is_written_as_strict_json_in_utf8_and_has_a_fingerprint(value: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    document = to_json(value).encode("utf-8").decode("utf-8")
    json.loads(document, parse_constant=refuse)
    assert fingerprint(value) == fingerprint(json.loads(document))


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": (2,), "a": 1})
    assert len({fingerprint(v) for v in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, {"a": [1]}, [1], [[1]], {"b": 1})}) == 8


def test_text_that_acts_on_a_terminal_is_escaped_and_comes_back(tmp_path: Path) -> None:
    document = Document("1", "\x1b[31m\u202e\u200b\x9b31m \U000e0041 \ud800", "s", 0)
    write_rows(tmp_path / "d.jsonl", [document])
    raw = (tmp_path / "d.jsonl").read_text(encoding="utf-8")
    assert raw.isascii() and raw.isprintable() is False and raw.rstrip("\n").isprintable()
    assert read_documents(tmp_path / "d.jsonl") == [document]


# ---- reading what a run wrote ----


def test_damaged_files_of_a_run_are_named_with_their_line(tmp_path: Path) -> None:
    def said(content: bytes, read: Any) -> str:
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(DataError) as caught:
            list(read(tmp_path / "f"))
        assert caught.value.code == "run/damaged"
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert said(b'{"a": 1}\n{"a"', read_rows) == "f line 2: not a JSON object; delete the file and run again."
    assert said(b'{"a": 1}\n\xff\n', read_rows) == "f line 2: not a JSON object; delete the file and run again."
    assert said(b"[1]\n", read_rows) == "f line 1: not a JSON object; delete the file and run again."
    assert said(b"[" * 100_000, read_rows) == "f line 1: not a JSON object; delete the file and run again."
    assert said(b'{"id": "1", "text": "x"}\n', read_documents) == "f line 1: not a document of ours; run again."
    assert said(b'{\n"a": }', read_json) == "f line 2: not readable as JSON; delete the file and run again."
    assert said(b"\xff", read_json) == "f: not readable as JSON; delete the file and run again."


def test_documents_come_back_as_they_were_written(tmp_path: Path) -> None:
    documents = [Document("a", "é\u2028x\n", "book", 3), Document("b", "", "book", 4, "author")]
    write_rows(tmp_path / "d.jsonl", documents)
    assert read_documents(tmp_path / "d.jsonl") == documents
    assert [d.n_bytes for d in documents] == [7, 0]
    written = list(read_rows(tmp_path / "d.jsonl"))
    assert [row | {"payload": None, "parent": None} for row in written] == [dataclasses.asdict(d) for d in documents]
    assert not any(
        "payload" in row or "parent" in row for row in written
    )  # plain text is written as it was before there were other shapes


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        runs.open_run(tmp_path / "none")
    assert (caught.value.code, caught.value.exit_code) == ("run/missing", EXIT_USAGE)
    (tmp_path / "recipe.yaml").write_text("")
    assert runs.open_run(tmp_path) == tmp_path


# ---- stages ----


def finished(folder: Path, inputs: Any = 1) -> Stage:
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    stage = Stage(folder, "s", {"inputs": inputs})
    stage.finish(["a", "b"])
    return stage


def test_a_stage_is_done_when_the_same_inputs_were_finished_and_its_files_are_unchanged(tmp_path: Path) -> None:
    assert not Stage(tmp_path, "s", {"inputs": 1}).done()
    finished(tmp_path)
    assert Stage(tmp_path, "s", {"inputs": 1}).done()
    assert not Stage(tmp_path, "s", {"inputs": 2}).done()
    assert not Stage(tmp_path, "t", {"inputs": 1}).done()


def test_a_stage_is_not_done_when_a_file_was_changed_or_removed_or_replaced_by_a_folder(tmp_path: Path) -> None:
    stage = finished(tmp_path)
    (tmp_path / "a").write_bytes(b"A")
    assert not stage.done()
    (tmp_path / "a").write_bytes(b"a")
    assert stage.done()
    (tmp_path / "b").unlink()
    assert not stage.done()
    (tmp_path / "b").mkdir()
    assert not stage.done()


def test_a_stage_that_has_begun_again_is_not_done(tmp_path: Path) -> None:
    stage = finished(tmp_path)
    stage.begin()
    stage.begin()
    assert not stage.done()


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff", b'{"fingerprint": "x"}', b"null", b"[" * 100_000])
def test_a_damaged_marker_means_not_done(tmp_path: Path, marker: bytes) -> None:
    stage = finished(tmp_path)
    stage.marker.write_bytes(marker)
    assert not stage.done()


def test_a_marker_with_the_right_fingerprint_and_damaged_outputs_means_not_done(tmp_path: Path) -> None:
    stage = finished(tmp_path)
    for outputs in (None, ["a"], {"a": None}, {"a\0": "x"}, 5):
        write_json(stage.marker, {"fingerprint": stage.fingerprint, "outputs": outputs})
        assert not stage.done()


def test_a_marker_that_cannot_be_withdrawn_is_one_sentence(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "s", {})
    stage.marker.mkdir(parents=True)
    with pytest.raises(ResourceError) as caught:
        stage.begin()
    assert caught.value.code == "disk/unwritable"


def test_what_is_put_in_the_place_of_the_temporary_file_is_what_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As safetensors does: it writes a file of its own and renames it."""
    synced, sync = set(), os.fsync

    def noted(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic_path(tmp_path / "a") as temporary:
        other = tmp_path / ".tmpAbc123"
        other.write_bytes(b"whole")
        other.chmod(0o600)
        other.replace(temporary)
    found = (tmp_path / "a").stat()
    assert found.st_ino in synced and found.st_mode & 0o777 == 0o644
    assert held(tmp_path) == {"a": b"whole"}


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "inner").mkdir()
    for name in (".a.json.x1.part", "work/.tmpAbc123", "inner/.lock", "inner/.tmpAbc123", "work/.tmp", "work/step.json"):
        (tmp_path / name).write_bytes(b"")
    with alone(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", "inner/.lock", "inner/.tmpAbc123", "work/.tmp", "work/step.json"}
