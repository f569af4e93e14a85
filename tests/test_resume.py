"""A run killed at any instant and started again ends in the same bytes; what is done is not done again, and what must be is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models_for_tests import save_base, tiny_mistral
from processes import Done, Running, galvan

STAGES = ("prepare", "train", "check", "score", "generate")
RECIPE = """
name: small
data: {source: letters.csv, document_tokens: 64, split: {by: random, validation: 0.1, test: 0.3}}
model: {base: tiny, dtype: float32, device: cpu}
training: {epochs: 2, batch_size: 4, learning_rate: 1e-2, checkpoint_seconds: 0, evaluations: 3, probe_documents: 4, lora: {rank: 2, dropout: 0.1}}
evaluation: {tokens_per_pass: 512}
"""


def make_inputs(folder: Path) -> Path:
    """A folder with a recipe, forty short letters and a tiny base whose first guess is nearly uniform."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    weather = ("the wind rose", "rain fell", "it was still", "snow lay", "a mist came", "the sun shone", "hail beat")
    letters = [f"Letter {n * 37 % 101}: on day {n} {weather[n % 7]}. I waited {n * n % 13} hours." for n in range(40)]
    (folder / "letters.csv").write_text("text\n" + "".join(f'"{letter}"\n' for letter in letters))
    save_base(folder / "tiny", tiny_mistral(initializer_range=0.02))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs") / "w")


@pytest.fixture
def place(inputs: Path, tmp_path: Path) -> Path:
    """A folder of its own with the same inputs under the same names."""
    place = tmp_path / "w"
    place.mkdir()
    for path in inputs.iterdir():
        if path.name != "runs":
            (place / path.name).symlink_to(path)
    return place


def result(place: Path) -> dict[str, bytes]:
    """What a run came to: the verdict, the scores, the analysis, the adapter, the documents. Seconds stand in training.jsonl
    and on the model card, so not those."""
    run = place / "runs" / "small"
    kept = [
        "verdict.json",
        "comparisons.json",
        "scores.parquet",
        "samples.jsonl",
        "generation.json",
        "analysis.md",
        "training.json",
        "curves.jsonl",
        "integrity.json",
        "audit.json",
        "recipe.yaml",
    ]
    paths = [*(run / name for name in kept), *sorted((run / "adapter").glob("adapter_*")), *sorted((run / "data").iterdir())]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def undisturbed(inputs: Path) -> dict[str, bytes]:
    """The reference, from a plain `python -m galvan` with a hash seed of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-m", "galvan", "run", "recipe.yaml"], cwd=inputs, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1, 6), done.stderr
    return result(inputs)


def reused(done: Done) -> list[str]:
    return [stage for stage in STAGES if f"Reusing {stage}: done before with the same inputs." in done.err]


def again(place: Path, *more: str) -> Done:
    done = galvan("run", "recipe.yaml", *more, cwd=place)
    assert done.code in (0, 1, 6) and "Traceback" not in done.err, done.err
    return done


def killed(place: Path, ready: Callable[[Path], bool], later_seconds: float = 0.0, number: int = signal.SIGKILL) -> Done:
    run = place / "runs" / "small"
    return Running("run", "recipe.yaml", cwd=place).when(lambda: ready(run), number, later_seconds)


def has(name: str) -> Callable[[Path], bool]:
    return lambda run: (run / name).exists()


MOMENTS = {
    "prepare": has("recipe.yaml"),
    "the first step of training": has("stages/prepare.json"),
    "a later step of training": lambda run: (
        (run / "work/training.jsonl").exists() and (run / "work/training.jsonl").read_bytes().count(b"\n") >= 5
    ),
    "saving the adapter": has("adapter"),
    "check": has("stages/train.json"),
    "score": has("stages/check.json"),
    "generating": has("stages/score.json"),
    "judging": has("stages/generate.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_during_a_stage_and_started_again_ends_in_the_same_bytes(
    moment: str, place: Path, undisturbed: dict[str, bytes]
) -> None:
    killed(place, MOMENTS[moment])
    again(place)
    assert result(place) == undisturbed


def test_a_run_killed_again_and_again_at_random_instants_ends_in_the_same_bytes(place: Path, undisturbed: dict[str, bytes]) -> None:
    rng = random.Random(20)
    for _ in range(6):
        killed(place, lambda run: True, rng.uniform(0.05, 1.5))
    again(place)
    assert result(place) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_campaign_of_kills_ends_in_the_same_bytes(seed: int, place: Path, undisturbed: dict[str, bytes]) -> None:
    rng = random.Random(seed)
    for _ in range(rng.randrange(1, 6)):
        killed(
            place,
            rng.choice(list(MOMENTS.values())),
            rng.uniform(0, 0.3),
            rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
        )
    again(place)
    assert result(place) == undisturbed


def test_an_interrupted_run_says_so_in_one_line_and_goes_on_from_its_checkpoint(place: Path, undisturbed: dict[str, bytes]) -> None:
    stopped = killed(place, MOMENTS["a later step of training"], 0.0, signal.SIGINT)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "Interrupted; the same command goes on where it was."
    assert "Traceback" not in stopped.err
    resumed = again(place)
    assert "Training goes on at step " in resumed.err and reused(resumed) == ["prepare"]
    assert result(place) == undisturbed


def test_a_finished_run_is_reused_whole_and_says_so(place: Path, undisturbed: dict[str, bytes]) -> None:
    assert reused(again(place)) == []
    first = {path: path.stat().st_mtime_ns for path in (place / "runs/small/adapter").glob("adapter_*")}
    assert reused(again(place)) == list(STAGES)
    assert result(place) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in (place / "runs/small/adapter").glob("adapter_*")} == first


def test_a_change_redoes_the_stages_that_depend_on_it_and_no_others(place: Path) -> None:
    again(place)
    assert reused(again(place, "--set", "evaluation.margin_nats=0.02")) == list(STAGES)
    assert reused(again(place, "--set", "data.minimum_words=4")) == [
        "train",
        "check",
        "score",
        "generate",
    ]  # the same documents come out of it
    assert reused(again(place, "--set", "training.checkpoint_seconds=60")) == ["train", "check", "score", "generate"]
    assert reused(again(place, "--set", "evaluation.context_tokens=32")) == ["prepare", "train", "check", "generate"]
    assert reused(again(place, "--set", "training.learning_rate=2e-2")) == ["prepare"]
    letters = (place / "letters.csv").read_text().replace("Letter", "Note")
    (place / "letters.csv").unlink()
    (place / "letters.csv").write_text(letters)
    assert reused(again(place)) == []


def test_a_file_that_was_changed_or_lost_is_made_again(place: Path, undisturbed: dict[str, bytes]) -> None:
    again(place)
    run = place / "runs" / "small"
    (run / "scores.parquet").unlink()
    assert reused(again(place)) == ["prepare", "train", "check", "generate"]
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert reused(again(place)) == ["prepare", "check", "score", "generate"]
    (run / "data" / "train.jsonl").write_bytes(b"")
    (run / "stages" / "check.json").write_bytes(b"{")
    assert reused(again(place)) == ["train", "score", "generate"]
    assert result(place) == undisturbed


def test_a_second_process_in_the_same_run_is_refused(place: Path, undisturbed: dict[str, bytes]) -> None:
    first = Running("run", "recipe.yaml", cwd=place)
    while not (place / "runs/small/recipe.yaml").exists():
        assert first.process.is_alive()
    os.kill(first.process.pid or 0, signal.SIGSTOP)
    second = galvan("run", "recipe.yaml", "--quiet", cwd=place)
    os.kill(first.process.pid or 0, signal.SIGCONT)
    assert (second.code, second.out) == (2, "")
    assert second.err == "error[run/busy]: runs/small: another galvan works in this run; wait for it or choose another --out.\n"
    assert first.wait().code in (0, 1, 6)
    assert result(place) == undisturbed
