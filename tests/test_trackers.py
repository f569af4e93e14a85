"""Trackers get curves and verdict and nothing else, are asked for before training, and can never stop a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from galvan import recipe as recipes
from galvan import trackers
from galvan.errors import RecipeError
from galvan.progress import Silent
from galvan.recipe import Recipe
from galvan.report import judge
from galvan.rundir import read_json, read_rows
from galvan.trackers import Tracking, concluded, require, settings_of, tracking, without_secrets
from synthetic import make

SECRET_WORDS = ("someone", "secret prompt")
CURVE = {step: {"train/loss_nats": 3.0 - step / 10, "train/learning_rate": 1e-3} for step in (1, 2, 3)}


def asked(*names: str) -> Recipe:
    return recipes.from_text(
        f"name: run-x\ntrackers: [{', '.join(names)}]\ndata: {{source: /home/someone/book.csv}}\nmodel: {{base: /home/someone/base}}\n"
        "generation: {prompts: [my secret prompt]}\n"
    )


def through(folder: Path, name: str, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A run that is stopped after step 2, goes on, and is judged by another process; what trackers.json says in the end."""
    for steps in ((1, 2), (2, 3)):
        with tracking(folder, asked(name), Silent(), offline=True) as tracked:
            for step in steps:
                tracked.log(step, CURVE[step])
    with tracking(folder, asked(name), Silent(), offline=True) as tracked:
        tracked.conclude(3, verdict)
    found: dict[str, Any] = read_json(folder / trackers.FILE)[name]
    return found


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return judge(make(tmp_path_factory.mktemp("judged") / "run")).verdict


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_verdict_becomes_figures_and_words(verdict: Mapping[str, Any]) -> None:
    figures, words = concluded(verdict)
    assert figures["verdict/perplexity_change_percent"] == verdict["fit"]["gain"]["perplexity_change_percent"]
    assert figures["verdict/perplexity_change_ci95_low"] < figures["verdict/perplexity_change_ci95_high"] < 0
    assert "verdict/style_gap_closed" not in figures  # undefined in this run, and undefined is not 0
    assert words["verdict"] == "improved" and all(math.isfinite(value) for value in figures.values())


def test_no_text_path_or_prompt_is_among_the_settings() -> None:
    found = settings_of(asked("tensorboard"))
    assert found["training.lora.rank"] == 8 and not [w for w in SECRET_WORDS if w in str(found)]
    assert not [name for name in found if name.startswith(("data.", "generation."))]


def test_a_tracker_that_is_not_installed_is_one_error_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from galvan import pipeline

    real = trackers.importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    with pytest.raises(RecipeError, match="pip install wandb") as refused:
        pipeline.run(recipes.from_text("trackers: [wandb]"), tmp_path / "run")
    assert refused.value.code == "tracker/missing" and not (tmp_path / "run").exists()


def test_nothing_is_imported_or_written_where_no_tracker_is_named(tmp_path: Path) -> None:
    with tracking(tmp_path, asked(), Silent()) as tracked:
        tracked.log(1, CURVE[1])
    require([])
    assert list(tmp_path.iterdir()) == []


class Broken:
    """Breaks at step 2 as a server that goes away does, with a token in its message."""

    id = "broken-1"

    def __init__(self, *_: Any) -> None:
        self.steps: list[int] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        print("noise on stdout")
        self.steps.append(step)
        if step >= 2:
            raise ConnectionError("POST https://user:pass@host.example failed with key abcdef123456\nsecond line")

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        raise AssertionError("dropped")

    def close(self) -> None: ...


class Said(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_one_that_fails_half_way_is_said_once_recorded_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: Mapping[str, Any]
) -> None:
    monkeypatch.setitem(trackers.HOOKS, "wandb", Broken)
    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    said = Said()
    tracked = Tracking(tmp_path, asked("wandb"), said)
    for step in (1, 2, 3):
        tracked.log(step, CURVE[step])
    tracked.conclude(3, verdict)
    tracked.close()
    assert len(said.sentences) == 1 and said.sentences[0].startswith(
        "wandb failed and gets nothing more of this run, which goes on: "
    )
    record = read_json(tmp_path / trackers.FILE)["wandb"]
    assert record["id"] == "broken-1" and record["failed"] in said.sentences[0]
    assert "abcdef" not in record["failed"] and "pass" not in record["failed"] and "second line" not in record["failed"]
    assert capsys.readouterr().out == ""


def test_one_that_cannot_even_start_is_no_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> Any:
        raise PermissionError("no")

    monkeypatch.setitem(trackers.HOOKS, "wandb", refuses)
    said = Said()
    with tracking(tmp_path, asked("wandb"), said) as tracked:
        tracked.log(1, CURVE[1])
        tracked.log(2, CURVE[2])
    assert len(said.sentences) == 1 and read_json(tmp_path / trackers.FILE)["wandb"] == {"failed": "no"}


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    assert without_secrets("bad hf_0123456789 at https://me:hunter2@h.example/x") == "bad *** at https://***@h.example/x"


class Recorder:
    """Remembers what a run tells it."""

    id, logged, concluded = "r", dict[int, dict[str, float]](), list[tuple[int, Mapping[str, str]]]()

    def __init__(self, *_: Any) -> None: ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.setdefault(step, {}).update(figures)

    def conclude(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        self.concluded.append((step, words))

    def close(self) -> None: ...


def test_a_run_tells_every_step_every_evaluation_and_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Mapping[str, Any]
) -> None:
    from galvan.story import Story
    from test_resume import make_inputs

    monkeypatch.setitem(trackers.HOOKS, "tensorboard", Recorder)
    monkeypatch.setattr(trackers, "require", lambda names: None)
    monkeypatch.chdir(make_inputs(tmp_path / "w"))
    story = Story.begin(recipes.load(Path("recipe.yaml"), ["trackers=[tensorboard]"]), tmp_path / "run", None, True)
    with story.alone():
        story.prepare()
        story.train()
        story.conclude(verdict)
    trace = list(read_rows(tmp_path / "run" / "training.jsonl"))
    assert [Recorder.logged[row["step"]]["train/loss_nats"] for row in trace] == [row["loss_nats"] for row in trace]
    curves = list(read_rows(tmp_path / "run" / "curves.jsonl"))
    for step in {row["step"] for row in curves}:
        rows = [row for row in curves if (row["step"], row["set"]) == (step, "validation")]
        mean = sum(row["nll_nats"] for row in rows) / sum(row["n_tokens"] for row in rows)
        assert Recorder.logged[step]["validation/nats_per_token"] == pytest.approx(mean)
    assert [(step, words["verdict"]) for step, words in Recorder.concluded] == [(len(trace), "improved")]


# ---- the real ones ----


def test_tensorboard_reads_back_curves_and_verdict(tmp_path: Path, verdict: Mapping[str, Any]) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert through(tmp_path, "tensorboard", verdict) == {"id": "trackers/tensorboard"}
    seen = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    seen.Reload()
    assert [(s.step, round(s.value, 5)) for s in seen.Scalars("train/loss_nats")] == [(1, 2.9), (2, 2.8), (3, 2.7)]  # step 2 once
    change = verdict["fit"]["gain"]["perplexity_change_percent"]
    assert seen.Scalars("verdict/perplexity_change_percent")[0].value == pytest.approx(change, rel=1e-6)
    assert seen.Tensors("verdict/verdict/text_summary")[0].tensor_proto.string_val[0] == b"improved"
    assert not [word for word in SECRET_WORDS if word.encode() in bytes_of(tmp_path)]


def test_mlflow_reads_back_curves_and_verdict(tmp_path: Path, verdict: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="large: pip install mlflow")
    pytest.importorskip("sqlalchemy", reason="mlflow without its database")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    known = through(tmp_path, "mlflow", verdict)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'trackers' / 'mlflow.db'}")
    run = client.get_run(known["id"])
    assert {m.step: m.value for m in client.get_metric_history(known["id"], "train/loss_nats")} == pytest.approx(
        {1: 2.9, 2: 2.8, 3: 2.7}
    )
    assert run.data.tags["verdict.verdict"] == "improved" and run.data.params["training.lora.rank"] == "8"
    assert run.data.metrics["verdict/gain_nats_per_token"] == verdict["fit"]["gain"]["nats_per_token"]
    assert run.info.status == "FINISHED" and "failed" not in known
    assert not [word for word in SECRET_WORDS if word.encode() in bytes_of(tmp_path)]


def test_wandb_keeps_curves_and_verdict_offline(tmp_path: Path, verdict: Mapping[str, Any]) -> None:
    pytest.importorskip("wandb", reason="large: pip install wandb")
    known = through(tmp_path, "wandb", verdict)
    assert "failed" not in known
    held = list((tmp_path / "trackers").rglob("*.wandb"))
    assert len(held) == 3 and all(known["id"] in path.name for path in held)  # one a process, which `wandb sync` joins by their id
    content = b"".join(path.read_bytes() for path in held)
    assert b"train/loss_nats" in content and b"verdict/gain_nats_per_token" in content
    assert not [word for word in SECRET_WORDS if word.encode() in content]


def test_trackio_reads_back_curves_and_verdict(tmp_path: Path, verdict: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="brings a server of its own: pip install trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    if str(utils.TRACKIO_DIR) == str(Path.home() / ".cache" / "huggingface" / "trackio"):
        pytest.skip("it would write into this user's own database; set TRACKIO_DIR")
    known = through(tmp_path, "trackio", verdict)
    logs = SQLiteStorage.get_logs("galvan", known["id"])
    curve = [(row["step"], row["train/loss_nats"]) for row in logs if "train/loss_nats" in row]
    assert dict(curve) == pytest.approx({1: 2.9, 2: 2.8, 3: 2.7})
    assert [row["verdict/verdict"] for row in logs if "verdict/verdict" in row] == ["improved"] and "failed" not in known
