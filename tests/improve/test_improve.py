"""The loop on a tiny base: it mends what fails for a known reason, names what did it, judges on documents that chose nothing, and can end."""

from __future__ import annotations

import dataclasses
import json
import types
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from galvan import pipeline
from galvan.errors import RecipeError
from galvan.improve import driver
from galvan.improve.driver import Budget, Improved, improve, run_first
from galvan.improve.evidence import on_validation
from galvan.improve.held_out import enough_held_out
from galvan.improve.looks import ALPHA, look
from galvan.improve.remedy import EARLY_STOP, EPOCHS, RATE, State, _in_order, at_random, diagnosed, key, of_action, usual
from galvan.measure.scoring import score
from galvan.models import Located, load_base, load_tokenizer
from galvan.progress import Silent
from galvan.recipe import CONTINUE, CONTINUE_SHA256, Model, Recipe, from_text
from galvan.recipe import load as load_recipe
from galvan.report.remedies import Action
from galvan.rundir import read_documents, read_json, read_rows
from galvan.statistics import paired_gain
from models_for_tests import letters


def recipe(place: Path, *more: str) -> Recipe:
    settings = [
        f"data.source={place / 'letters.csv'}", "data.document_tokens=64", "data.split.by=random", "data.split.validation=0.2",
        "data.split.test=0.35", f"model.base={place / 'tiny'}", "training.epochs=1", "training.batch_size=8", "training.evaluations=4",
        "training.probe_documents=8", "generation.documents=0", "data.clean.near_duplicates=null",
    ]  # fmt: skip
    return from_text("", "test", [*settings, *more])


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Improved]:
    """A rate a thousand times too low."""
    place = tmp_path_factory.mktemp("improve")
    letters(place)
    pipeline.run(recipe(place, "training.learning_rate=1e-7"), place / "run")
    return place, improve(place / "run")


def test_a_rate_far_too_low_is_raised_and_named_as_what_did_it(mended: tuple[Path, Improved]) -> None:
    place, found = mended
    assert found.improved and "Raise the learning rate" in found.did_it[0]
    rows = list(read_rows(place / "run/improve/improve.jsonl"))
    assert [row["trial"] for row in rows] == [step.trial for step in found.steps]
    assert all(row["why"] and row["expected"] for row in rows)
    assert rows[0]["look"] is None and rows[-1]["look"]["improved"]
    assert found.reason in (place / "run/improve/improve.md").read_text()
    assert json.loads(found.to_json())["verdict"]["verdict"] == "improved"
    assert found.exit_code() == 0


def test_what_chooses_is_measured_as_what_judges_is_without_the_end_of_texts(mended: tuple[Path, Improved]) -> None:
    """An adapter that learned no more than where texts end would otherwise be chosen, and judged to have done nothing."""
    place, _ = mended
    base = Located("tiny", place / "tiny")
    documents = read_documents(place / "run/data/validation.jsonl")
    scored = score(load_base(base, Model(device="cpu")), load_tokenizer(base), documents, "base", "validation", 64)
    rows = [row for row in read_rows(place / "run/curves.jsonl") if row["set"] == "validation" and row["step"] == 0]
    assert load_recipe(place / "run/recipe.yaml").training.learn_eos and len(rows) == len(documents)
    for row, one in zip(rows, scored, strict=True):
        assert (row["document"], row["n_tokens"]) == (one.document, one.n_tokens)
        assert row["nll_nats"] == pytest.approx(one.nll_nats, rel=1e-5)


def test_only_trials_that_were_looked_at_were_scored_on_test_documents(mended: tuple[Path, Improved]) -> None:
    place, found = mended
    scored = [s.trial for s in found.steps if (place / "run/improve/trials" / s.trial / "scores.parquet").exists()]
    assert scored == [step.trial for step in found.steps if step.look]


def test_the_start_is_not_trained_twice_and_a_second_call_trains_nothing(
    mended: tuple[Path, Improved], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, found = mended
    adapter = "adapter/adapter_model.safetensors"
    assert (place / "run" / adapter).read_bytes() == (place / "run/improve/trials/00" / adapter).read_bytes()
    from galvan.story import Story

    monkeypatch.setattr(Story, "_train_now", lambda *a: pytest.fail("trained again"))
    assert improve(place / "run").to_json() == found.to_json()


def test_evidence_of_a_trial_holds_the_validation_gain_where_a_judged_run_has_the_test_gain(mended: tuple[Path, Improved]) -> None:
    place, found = mended
    at = place / "run/improve/trials/00"
    test = on_validation(at).test
    assert test is not None and test.n_documents == len(read_documents(at / "data/validation.jsonl"))
    assert test.nats_per_token == found.steps[0].gain_nats


def test_on_a_run_that_works_nothing_is_done(mended: tuple[Path, Improved]) -> None:
    place, found = mended
    run = place / "run/improve/trials" / str(found.best)
    again, gain = improve(run), read_json(run / "verdict.json")["fit"]["gain"]
    assert again.improved and again.steps == ()
    assert again.reason.startswith(f"{run} is improved already: {gain['nats_per_token']:+.4f} nats a token")


@pytest.mark.slow
def test_a_start_that_cannot_train_is_mended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = run_first(recipe(tmp_path, "training.lora.targets=[no_such_layer]", "training.learning_rate=1e-2"), Silent(), True)
    found = improve(run)
    assert found.steps[0].failed and found.improved and "all linear layers" in found.did_it[0]


@pytest.mark.slow
def test_a_training_that_was_too_short_is_gone_on_with_instead_of_begun_anew(tmp_path: Path) -> None:
    letters(tmp_path)  # so few documents judge that the start is no success yet
    pipeline.run(
        recipe(tmp_path, "training.learning_rate=3e-4", "training.schedule=constant", "data.split.test=0.02", "training.epochs=4"),
        tmp_path / "run",
    )
    found = improve(tmp_path / "run", Budget(trials=1))
    first = found.steps[1]
    assert "Go on training this adapter" in first.action and first.better, [s.action for s in found.steps]
    trial = tmp_path / "run/improve/trials/01"
    facts, start = read_json(trial / "training.json"), read_json(tmp_path / "run/training.json")
    assert facts["continued"]["sha256"] == start["adapter_sha256"]
    epochs = from_text((trial / "recipe.yaml").read_text()).training.epochs
    assert facts["steps"] == epochs / 4 * start["steps"]  # it paid for what it added
    assert first.gain_nats > found.steps[0].gain_nats  # both counted from the base
    assert "goes on from trial 00" in (tmp_path / "run/improve/improve.md").read_text()
    assert improve(tmp_path / "run", Budget(trials=1)).to_json() == found.to_json()


@pytest.mark.slow
def test_the_budget_ends_the_loop_with_the_reason_and_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(tmp_path, 60)
    pipeline.run(recipe(tmp_path, "training.learning_rate=1e-9"), tmp_path / "run")
    useless = lambda state: next(state.untried(r for r in usual(state.recipe) if "dropout" in str(r.settings)), None)  # noqa: E731
    found = improve(tmp_path / "run", Budget(trials=1), policy=useless)
    assert not found.improved and found.reason == "Exhausted: all 1 trials were used." and found.judged is None
    assert found.exit_code() == 1
    exhausted = improve(tmp_path / "run", policy=useless)
    assert "every remedy" in exhausted.reason
    assert "tokens were trained" in improve(tmp_path / "run", Budget(tokens=1), policy=useless).reason


def test_an_action_becomes_options_of_training_and_nothing_that_would_change_the_question() -> None:
    def settings(command: str) -> object:
        found = of_action(Action("a", "b", "c", command))
        return found and dict(found.settings)

    assert settings("galvan run RECIPE --set training.epochs=4") == {"training.epochs": 4}
    both = settings("galvan run RECIPE --set training.lora.targets=all-linear --set training.lora.layers=null")
    assert both == {"training.lora.targets": "all-linear", "training.lora.layers": None}
    for other in ("--set data.source=MORE-TEXT", "--set data.split.test=0.4", "--set evaluation.margin_nats=1", "--seeds 5", ""):
        assert settings(f"galvan run RECIPE {other}") is None
    assert settings("galvan evaluate BASE ADAPTER --data X --set training.epochs=4") is None


ONWARD = Action("Go on.", "w", "e", f"galvan run RECIPE --set {CONTINUE}=ADAPTER --set training.epochs=6 --out FOLDER")


def gone_on(tried: frozenset[str] = frozenset()) -> State:
    """A state that stands on a trial of 6 epochs, which went on from an adapter with 3 behind it."""
    on = from_text("", "test", [f"{CONTINUE}=/first", f"{CONTINUE_SHA256}={'0' * 64}", "training.epochs=6"])
    evidence = types.SimpleNamespace(training={"continued": {"steps": 30, "epochs": 3.0}})
    return State(on, evidence, None, tried, "/second")  # type: ignore[arg-type]


def test_going_on_takes_the_best_adapter_and_is_no_remedy_where_there_is_none() -> None:
    found = of_action(ONWARD, "/best")
    assert found is not None and dict(found.settings) == {CONTINUE: "/best", EPOCHS: 6}
    assert of_action(ONWARD) is None
    again = gone_on().after({CONTINUE: "/second", EPOCHS: 4.0}).training
    assert (again.lora.continue_from, again.lora.continue_sha256, again.epochs) == ("/second", None, 4.0)


def test_after_going_on_any_other_change_begins_anew_with_all_the_epochs() -> None:
    state = gone_on()
    for settings in ({RATE: 1e-3}, {"training.lora.rank": 16}, {"data.recut": True}):
        asked = state.after(settings).training
        assert (asked.lora.continue_from, asked.lora.continue_sha256, asked.epochs) == (None, None, 9.0)
    for settings in ({EPOCHS: 2.0}, {EARLY_STOP: True}):  # how long alone: still from the first adapter
        assert state.after(settings).training.lora.continue_from == "/first"


def test_no_recipe_is_tried_twice_and_the_random_policy_follows_its_seed() -> None:
    state = State(Recipe(), None, None, frozenset([key(Recipe())]))
    first = diagnosed(state)
    assert first is not None
    from galvan.sweep.space import with_settings

    after = dataclasses.replace(state, tried=state.tried | {key(with_settings(Recipe(), first.settings))})
    assert diagnosed(after) != first
    drawn = [[at_random(seed)(state) for _ in range(3)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({str(at_random(seed)(state)) for seed in range(40)}) > 5
    assert {RATE: 3e-4} not in [dict(r.settings) for r in state.untried(usual(Recipe()))]  # it is the default


def test_past_its_best_the_best_weights_are_kept_and_the_rate_is_lowered_before_anything_usual() -> None:
    """As 50 epochs on 30 texts go at the usual rate: validation loss falls for a quarter and then rises, too little to be sure of."""

    def first(best: int, n: int = 2, early_stop: str = "false") -> list[dict[str, object]]:
        asked = from_text("", "test", [f"{RATE}=3e-4", f"{EARLY_STOP}={early_stop}"])
        points = [types.SimpleNamespace(step=step) for step in (0, 50, 100, 150)]
        curve = types.SimpleNamespace(kind="not determined", best_step=best, points=points, finding=None)
        evidence = types.SimpleNamespace(
            recipe=asked, refusal=None, findings=(), test=None, comparisons=None, training=None, audit=None, provenance={}, curve=curve,
            splits={"train": None},
        )  # fmt: skip
        state = State(asked, evidence, None, frozenset([key(asked)]))  # type: ignore[arg-type]
        return [dict(remedy.settings) for remedy in islice(state.untried(_in_order(state)), n)]

    assert first(50, 3) == [{EARLY_STOP: True}, {RATE: 1e-4}, {RATE: 1e-3}]
    assert first(50, early_stop="true") == [{RATE: 1e-4}, {RATE: 1e-3}]
    assert first(0) == [{RATE: 1e-4}, {RATE: 1e-3}]  # before the first step there is nothing to keep
    assert first(150) == [{RATE: 1e-3}, {RATE: 1e-4}]  # the last is the best: as usual


def test_all_looks_together_spend_no_more_than_alpha_on_null_data() -> None:
    # The worst loop: on every one of 5 looks another adapter that gained nothing, on the same test documents.
    rng, false, naive = np.random.default_rng(5), 0, 0
    for _ in range(200):
        tokens = rng.integers(150, 300, 40).astype(float)
        gains = [paired_gain(3.5 * tokens, (3.5 + 0.05 * rng.standard_normal(40)) * tokens, tokens) for _ in range(5)]
        false += any(look(gain, n, "").improved for n, gain in enumerate(gains, 1))
        naive += any(gain.verdict == "improved" for gain in gains)
    assert false <= 0.025 * 200 + 6  # one-sided 2.5 %, and three standard errors
    assert naive > 14  # looking five times at 95 % would not do
    assert sum(ALPHA / 2**n for n in range(1, 60)) <= ALPHA


@pytest.mark.parametrize(
    ("validation", "test", "kept", "grown"),
    [(0.0, 0.05, (), ("validation", "test")), (0.05, 0.3, ("test",), ("validation",)), (0.2, 0.35, ("validation", "test"), ())],
)
def test_held_out_parts_grow_only_so_that_no_document_that_chose_ever_judges(
    validation: float, test: float, kept: tuple[str, ...], grown: tuple[str, ...], tmp_path: Path
) -> None:
    letters(tmp_path)
    asked = recipe(tmp_path, f"data.split.validation={validation}", f"data.split.test={test}")
    from galvan.story import Story

    Story.begin(asked, tmp_path / "run", None, True).prepare()
    found = enough_held_out(asked, tmp_path / "run")
    Story.begin(found.recipe, tmp_path / "out", None, True).prepare()

    def ids(run: str, part: str) -> set[str]:
        return {d.id for d in read_documents(tmp_path / run / f"data/{part}.jsonl")}

    assert not ids("out", "test") & ids("run", "validation")
    for part in kept:
        assert ids("out", part) == ids("run", part)
    for part in grown:
        assert len(ids("out", part)) > len(ids("run", part)) and part in str(found.changed)


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a run"):
        improve(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(RecipeError, match="holds no prepared text"):
        improve(tmp_path)


def test_the_steps_of_a_loop_are_a_pure_reading_of_its_row() -> None:
    step = driver.Step("01", "00", "Raise it.", "w", "e", {}, 3.0, 0.1, None, "improved", True, None, 1.0, 10)
    assert driver.came(step) == "Validation gain +0.1000 nats a token. Better than before."
    assert "It failed" in driver.came(dataclasses.replace(step, failed="[x] y"))
