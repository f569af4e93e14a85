"""A seeded slice of the campaigns of benchmarks/chaos: kills and failing disks in the middle of a command, files damaged at rest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from benchmarks.chaos import corruption, shim, trials
from benchmarks.chaos.shim import Call
from benchmarks.chaos.trials import Ground, damage, unsynced
from benchmarks.chaos.verbs import VERBS, add_weak, make_ground
from benchmarks.chaos.votes import Votes

pytestmark = pytest.mark.skipif(shim.missing() is not None, reason=str(shim.missing()))
SLICE = {"kill": 1, "ENOSPC": 1, "EIO": 1, "EACCES": 1}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ground(tmp_path_factory.mktemp("chaos") / "origin")


@pytest.mark.parametrize("verb", ["train", "repair"])
def test_a_command_survives_faults_in_its_writes(verb: str, origin: Path, tmp_path: Path) -> None:
    ground, rng = Ground(VERBS[verb], origin, tmp_path), random.Random(3)
    assert unsynced(ground.calls) == []
    for kind, wanted in SLICE.items():
        for number in trials.numbers(len(ground.can(kind)), wanted, rng):
            trial = ground.trial(kind, number)
            assert trial.problems == (), trial


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_survives_more_faults(verb: str, origin: Path, tmp_path: Path) -> None:
    if verb == "improve":
        add_weak(origin)
    ground, rng = Ground(VERBS[verb], origin, tmp_path), random.Random(4)
    for kind in SLICE:
        for number in trials.numbers(len(ground.can(kind)), 4, rng):
            assert ground.trial(kind, number).problems == ()


def test_votes_survive_faults_in_their_writes(origin: Path, tmp_path: Path) -> None:
    votes, rng = Votes(origin, tmp_path), random.Random(5)
    for kind in SLICE:
        for number in trials.numbers(len(votes.can(kind)), 5, rng):
            assert votes.trial(kind, number).problems == (), (kind, number)
    for _ in range(5):
        assert (trial := votes.instant(rng.random())).problems == (), trial


def test_damaged_files_are_named_or_harmless(origin: Path, tmp_path: Path) -> None:
    quick = {"report", "votes", "base", "adapter", "recipe"}
    done = list(corruption.trials(origin, tmp_path, 12, random.Random(6), quick))
    assert {trial.verb for trial in done} == quick and [trial for trial in done if trial.problems] == []


def test_every_checkpoint_of_training_is_among_the_writes_that_are_killed(origin: Path, tmp_path: Path) -> None:
    """Six steps, a checkpoint each: its two files are opened, filled, synced and named, so that each step gives several kills."""
    calls = Ground(VERBS["train"], origin, tmp_path).can("kill")
    killed = [calls[number - 1] for number in trials.in_checkpoints(calls)]
    named = {Path(call.to).name for call in killed if call.name == "rename"}
    assert {f"step-{step:08d}.json" for step in range(1, 7)} <= named
    assert {call.name for call in killed} >= {"open", "write", "fsync", "rename"}


# ---- the campaign itself sees what it looks for ----


def test_a_file_that_is_half_written_under_its_final_name_is_seen(tmp_path: Path) -> None:
    for name, half, whole in (
        ("a.json", b'{"a": ', b'{"a": 1}'), ("a.jsonl", b'{"a": 1}\n{"a"', b'{"a": 1}\n'), ("a.yaml", b"a: [", b"a: []"),
        ("a.parquet", b"PAR1", None), ("a.safetensors", b"\x40\0\0", None), ("a.html", b"<html>", b"</html>\n"), ("a.sqlite", b"x" * 4096, b""),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(half)
        assert damage(tmp_path / name), name
        if whole is not None:
            (tmp_path / name).write_bytes(whole)
            assert damage(tmp_path / name) is None, name


def test_a_name_given_before_the_content_is_synced_is_seen() -> None:
    write, sync = Call("write", "/w/.a.part", "#1"), Call("fsync", "/w/.a.part", "#1")
    name = Call("rename", "/w/.a.part", "/w/a", "#1")
    assert unsynced([write, sync, name]) == []
    assert unsynced([write, name]) == unsynced([write, sync, write, name]) == ["/w/.a.part as /w/a"]
    other = Call("write", "/w/.tmp", "#3")  # what safetensors puts in the place of a file that it is given, unseen
    assert unsynced([other, sync, name._replace(number="#3")]) == ["/w/.tmp as /w/a"]
    inside, folder = Call("write", "/w/.d.part/.tmp", "#2"), Call("rename", "/w/.d.part", "/w/d")
    assert unsynced([inside, Call("fsync", "/w/.d.part/a", "#2"), folder]) == []  # the same file, whose name was changed unseen
    assert unsynced([inside, folder]) == ["/w/.d.part/.tmp as /w/d"]
    copied, mended = Call("sendfile", "/w/.d.part/a", "#4"), Call("rename", "/w/.d.part/.a.part", "/w/.d.part/a", "#5")
    assert unsynced([copied, mended, folder]) == []  # what was replaced needs no syncing


def test_a_command_that_ignores_a_failed_write_does_not_survive(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(VERBS["repair"], origin, tmp_path)
    ground.expected = {name: content + b"?" for name, content in ground.expected.items()}
    assert any("differs" in problem for problem in ground.trial("kill", 1).problems)
