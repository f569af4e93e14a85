"""A sweep on a tiny base: each trial is the run that it would be alone, the chosen one alone is judged, and what is done stays done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from galvan.errors import DataError, RecipeError
from galvan.recipe import Recipe, from_text
from galvan.rundir import read_json
from galvan.story import Story
from galvan.sweep import driver
from galvan.sweep.driver import Swept, sweep
from galvan.sweep.space import dimensions, grid_points
from galvan.sweep.study import Study, Told
from galvan.sweep.trial import PRUNED, Pruner
from models_for_tests import letters

RATES = ["training.learning_rate=1e-9,1e-2", "training.lora.rank=2"]


def recipe(place: Path, *more: str) -> Recipe:
    if not (place / "letters.csv").exists():
        letters(place, 60)
    settings = [
        f"data.source={place / 'letters.csv'}", "data.document_tokens=64", "data.split.by=random", "data.split.validation=0.2",
        "data.split.test=0.2", f"model.base={place / 'tiny'}", "training.epochs=3", "training.batch_size=4", "training.evaluations=4",
        "training.probe_documents=4", "training.lora.targets=[q_proj, up_proj]", "generation.documents=0",
    ]  # fmt: skip
    return from_text("", "test", [*settings, *more])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept]:
    """The higher rate learns; the folder and the sweep."""
    place = tmp_path_factory.mktemp("sweep")
    return place, sweep(recipe(place), RATES, out=place / "out")


def test_the_trial_of_the_least_validation_loss_is_chosen_and_it_alone_is_scored_on_test_documents(
    swept: tuple[Path, Swept],
) -> None:
    place, found = swept
    by = {t.name: t for t in found.trials}
    assert found.choice.best == "001" and by["001"].settings["training.learning_rate"] == 1e-2
    assert by["001"].validation_nats < by["000"].validation_nats
    assert [n for n in by if (place / "out/trials" / n / "scores.parquet").exists()] == ["001"]
    assert read_json(place / "out/sweep.json")["verdict"]["verdict"] == found.judged.verdict["verdict"] == "improved"
    assert "2 trials were looked at" in (place / "out/sweep.md").read_text()
    assert "001" in (place / "out/sweep.html").read_text()


def test_a_trial_comes_to_the_same_adapter_as_a_run_of_its_own(swept: tuple[Path, Swept], tmp_path: Path) -> None:
    place, _ = swept
    alone = recipe(place, "training.learning_rate=1e-2", "training.lora.rank=2", "training.lora.alpha=4.0")
    story = Story.begin(alone, tmp_path / "alone", None, True)
    story.prepare()
    story.train()
    adapter = "adapter/adapter_model.safetensors"
    assert (place / "out/trials/001" / adapter).read_bytes() == (tmp_path / "alone" / adapter).read_bytes()


def test_the_same_command_again_trains_nothing_and_says_the_same(
    swept: tuple[Path, Swept], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, found = swept
    monkeypatch.setattr(driver, "run_trial", lambda *a: pytest.fail("a trial ran again"))
    again = sweep(recipe(place), RATES, out=place / "out")
    assert again.to_json() == found.to_json()


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_with_the_trial_that_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run_trial = [], driver.run_trial

    def dying(asked: Recipe, folder: Path, *rest: object) -> object:
        ran.append(folder.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run_trial(asked, folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "run_trial", dying)
    rates = ["training.learning_rate=1e-9,1e-3,1e-2"]
    with pytest.raises(KeyboardInterrupt):
        sweep(recipe(tmp_path), rates, out=tmp_path / "out")
    found = sweep(recipe(tmp_path), rates, out=tmp_path / "out")
    assert ran == ["000", "001", "002", "001"]
    assert [t.name for t in found.trials] == ["000", "001", "002"] and found.choice.best == "002"


@pytest.mark.slow
def test_a_trial_that_cannot_train_is_a_line_in_the_table_and_with_prune_a_hopeless_one_is_given_up(tmp_path: Path) -> None:
    grid = ["training.learning_rate=1e-2,1e-9", "training.lora.targets=all-linear,[no_such_layer]"]
    found = sweep(recipe(tmp_path), grid, prune=True, out=tmp_path / "out")
    by = {(t.settings["training.learning_rate"], t.settings["training.lora.targets"] == "all-linear"): t for t in found.trials}
    assert "no_such_layer" in str(by[1e-2, False].reason)
    hopeless = by[1e-9, True]
    assert hopeless.pruned and hopeless.steps is not None and hopeless.steps < by[1e-2, True].steps
    assert not (tmp_path / "out/trials" / hopeless.name / "stages/train.json").exists()
    assert found.choice.best == by[1e-2, True].name
    assert "given up" in found.to_text()


def curves(level: float, evaluations: int) -> list[dict[str, object]]:
    return [
        {"step": step, "set": "validation", "document": str(n), "nll_nats": 100 * (3 + 0.1 * n + level), "n_tokens": 100}
        for step in range(evaluations + 1)
        for n in range(12)
    ]


def test_pruning_looks_once_half_way_and_stops_what_is_surely_worse() -> None:
    study = optuna.create_study(pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=8))
    best = study.ask()
    assert Pruner(best, 4)(2, {}, curves(0.0, 2)) is None  # nothing to be worse than
    study.tell(best, 3.0)
    worse, same = (Pruner(study.ask(), 4) for _ in range(2))
    assert worse(1, {}, curves(0.1, 1)) is None  # too early
    assert worse(2, {}, curves(0.1, 2)) == PRUNED
    assert same(2, {}, curves(0.0, 2)) is None
    assert same(3, {}, curves(0.9, 3)) is None  # one look, one test


def test_two_workers_that_queue_the_same_grid_run_each_point_once(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from galvan.sweep.space import dimensions, grid_points

    dims = dimensions(["training.lora.rank=1,2,3,4,5"], Recipe())
    workers = [Study(tmp_path, "same", dims, "grid", 0, f"sqlite:///{tmp_path / 'study.db'}", False) for _ in range(2)]
    for worker in workers:
        known = worker.study.get_trials
        worker.study.get_trials = lambda *a, **k: []  # both looked before either queued
        worker.enqueue(grid_points(dims))
        worker.study.get_trials = known
    ran = []
    for turn in range(12):
        worker = workers[turn % 2]
        if (one := worker.ask(5)) is not None:
            ran.append(one.name)
            worker.tell(one, 1.0)
    assert sorted(ran) == ["000", "001", "002", "003", "004"]
    assert [t.name for t in workers[0].told()] == sorted(ran)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"search": "random"}, "sweep/trials"),
        ({"trials": 3}, "sweep/trials"),
        ({"prune": True, "ray": "local"}, "sweep/prune"),
        ({"storage": "postgresql+psycopg://nobody@127.0.0.1:1/none"}, "sweep/storage"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(wrong: dict[str, object], code: str, tmp_path: Path) -> None:
    with pytest.raises((RecipeError, OSError)) as raised:
        sweep(recipe(tmp_path), RATES, out=tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert raised.value.code == code  # type: ignore[attr-defined]


def test_without_validation_documents_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few to choose by"):
        sweep(recipe(tmp_path, "data.split.validation=0.0"), RATES, out=tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_tpe_chooses_points_by_those_before_and_keeps_to_its_number(tmp_path: Path) -> None:
    from galvan.sweep.space import dimensions

    dims = dimensions(["training.learning_rate=1e-5..1e-2:log"], Recipe())
    study, seen = Study(tmp_path, "tpe", dims, "tpe", 3, None, False), []
    while (one := study.ask(25)) is not None:
        rate = one.point["training.learning_rate"]
        seen.append(rate)
        study.tell(one, (np.log10(rate) + 3) ** 2)
    assert len(seen) == 25
    assert np.mean(np.abs(np.log10(seen[15:]) + 3)) < np.mean(np.abs(np.log10(seen[:10]) + 3))


def to_the_end(folder: Path, search: Any) -> list[Told]:
    """A study as `sweep` drives it, whose trials take no time."""
    from galvan.sweep.space import dimensions, grid_points

    grid = search == "grid"
    dims = dimensions(["training.learning_rate=" + ("1e-4,1e-3,1e-2" if grid else "1e-5..1e-2:log")], Recipe())
    study = Study(folder, "same", dims, search, 3, None, False)
    study.enqueue(grid_points(dims) if grid else [])
    study.revive()
    while (one := study.ask(3)) is not None:
        study.tell(one, -float(one.point["training.learning_rate"]))
    done = [t.user_attrs["name"] for t in study.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
    assert sorted(done) == ["000", "001", "002"], "each once, in the study too"
    return study.told()


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("search", ["grid", "tpe"])
def test_a_journal_that_ends_anywhere_goes_on_to_the_same_trials(search: str, every: int, tmp_path: Path) -> None:
    undisturbed = to_the_end(tmp_path / "whole", search)
    content = (tmp_path / "whole" / "study.journal").read_bytes()
    ends = {n + 1 for n, byte in enumerate(content) if byte == ord("\n")} | set(range(0, len(content), 97))
    for end in sorted(ends)[::every]:
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / "study.journal").write_bytes(content[:end])  # a process was killed when it had written so much
        assert to_the_end(folder, search) == undisturbed, content[max(0, end - 200) : end]


@pytest.mark.parametrize("every", [173, pytest.param(5, marks=pytest.mark.slow)])
def test_a_damaged_line_of_a_journal_is_named_or_changes_no_trial(every: int, tmp_path: Path) -> None:
    undisturbed = to_the_end(tmp_path / "whole", "grid")
    content, named = (tmp_path / "whole" / "study.journal").read_bytes(), 0
    for place in range(0, len(content), every):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "study.journal").write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        line = content.count(b"\n", 0, place) + 1
        try:
            assert to_the_end(folder, "grid") == undisturbed, content[max(0, place - 100) : place + 100]
        except DataError as error:
            assert error.code == "sweep/damaged" and f"study.journal: line {line} " in str(error)
            named += 1
    assert named > len(range(0, len(content), every)) / 2


def test_where_another_worker_takes_the_last_point_meanwhile_none_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dims = dimensions(["training.lora.rank=1"], Recipe())
    study = Study(tmp_path, "same", dims, "grid", 0, f"sqlite:///{tmp_path / 'study.db'}", False)
    study.enqueue(grid_points(dims))
    first = study.ask(1)
    assert first is not None and first.name == "000"
    known, taken = Study._trials, study.study.get_trials(deepcopy=False)
    seen: list[set[Any]] = []

    def trials(self: Study, states: set[Any]) -> list[Any]:  # it still waits when it is first looked for
        waiting = states == {optuna.trial.TrialState.WAITING}
        seen.extend([states] if waiting else [])
        return taken if waiting and len(seen) <= 2 else known(self, states)

    monkeypatch.setattr(Study, "_trials", trials)
    assert study.ask(1) is None
