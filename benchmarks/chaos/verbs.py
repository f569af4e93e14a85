"""What is put to the test: commands that write, where each begins, and what of its work may not depend on what befell it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_for_tests import save_adapter, tiny_mistral
from processes import galvan
from test_resume import make_inputs

STAGES = ("prepare", "train", "check", "score", "generate", "retain")
RUN = Path("runs") / "small"
ENDED = (0, 1, 6)  # exit codes of a command that came to its end, whatever its verdict
TINY = (
    "--set",
    "training.epochs=1",
    "--set",
    "generation.documents=4",
    "--set",
    "generation.greedy=1",
    "--set",
    "generation.max_new_tokens=8",
    "--set",
    "evaluation.neutral=neutral.csv",
)


@dataclass(frozen=True)
class Verb:
    """`command` in a folder in which `ready` was called on a copy of the finished run; `kept` are the results that count, as paths, and
    `told` what else of it counts, by name."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[Path], None]
    kept: Callable[[Path], list[Path]]
    told: Callable[[Path], dict[str, bytes]] = lambda place: {}

    def results(self, place: Path) -> dict[str, bytes]:
        files = {str(path.relative_to(place)): path.read_bytes() for path in sorted(self.kept(place)) if path.is_file()}
        return files | self.told(place)


def undone_from(stage: str) -> Callable[[Path], None]:
    """Take back that stage and all after it, with what they wrote and what was judged of it."""

    def ready(place: Path) -> None:
        run = place / RUN
        for name in STAGES[STAGES.index(stage) :]:
            marker = run / "stages" / f"{name}.json"
            for written in json.loads(marker.read_text())["outputs"]:
                (run / written).unlink()
            marker.unlink()
        for name in ("verdict.json", "analysis.md", "report.html", "comparisons.json", "findings.json", "integrity.json"):
            (run / name).unlink(missing_ok=True)
        if not any(run.glob("adapter/adapter_*")):
            shutil.rmtree(run / "adapter", ignore_errors=True)

    return ready


def without(*names: str) -> Callable[[Path], None]:
    def ready(place: Path) -> None:
        for name in names:
            shutil.rmtree(place / name)

    return ready


def _of(*patterns: str) -> Callable[[Path], list[Path]]:
    return lambda place: [path for pattern in patterns for path in place.glob(pattern)]


_DATA = ("runs/small/data/*", "runs/small/audit.json", "runs/small/tokens.json", "runs/small/recipe.yaml")
_TRAINED = ("runs/small/adapter/adapter_*", "runs/small/curves.jsonl", "runs/small/training.json")
_JUDGED = tuple(f"runs/small/{name}" for name in ("verdict.json", "comparisons.json", "findings.json", "analysis.md", "style.json", "originality.json", "retention.json"))  # fmt: skip
_MEASURED = tuple(f"runs/small/{name}" for name in ("scores.parquet", "pieces.parquet", "samples.jsonl", "generation.json", "integrity.json", "retention.parquet", "extraction.parquet"))  # fmt: skip

_TRIALS = tuple(
    name.replace("runs/small", "*/trials/*") for name in (*_DATA, *_TRAINED, *_MEASURED, *_JUDGED)
)  # of a sweep, of an improvement


def _untimed(*names: str) -> Callable[[Path], dict[str, bytes]]:
    """What these JSON files say but for the seconds in them."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key != "seconds"}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return lambda place: {
        name: repr([strip(json.loads(line)) for line in _documents(place / name)]).encode()
        for name in names
        if (place / name).is_file()
    }


def _documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _study(place: Path) -> dict[str, bytes]:
    """Of a sweep's journal the trials that count, each as often as it stands there: none lost, none counted twice."""
    import optuna

    path = place / "swept" / "study.journal"
    if not path.is_file():
        return {}
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return {"study.journal": repr(sorted((t.user_attrs["name"], sorted(t.params.items()), t.value) for t in trials)).encode()}


VERBS = {
    verb.name: verb
    for verb in (
        Verb("prepare", ("prepare", "recipe.yaml", *TINY), without("runs"), _of(*_DATA)),
        Verb("train", ("train", "recipe.yaml", *TINY), undone_from("train"), _of(*_DATA, *_TRAINED)),
        Verb("measure", ("run", "recipe.yaml", *TINY), undone_from("check"), _of(*_DATA, *_TRAINED, *_MEASURED, *_JUDGED)),
        Verb("report", ("report", "runs/small"), lambda place: None, _of(*_MEASURED, *_JUDGED)),
        Verb("score", ("score", "tiny", "foreign", "--data", "letters.csv", "--out", "scored"), without("runs"), _of("scored/data/*", "scored/scores.parquet")),
        Verb("evaluate", ("evaluate", "tiny", "foreign", "--data", "letters.csv", "--out", "evaluated", *TINY[2:]), without("runs"), _of("evaluated/*.parquet", "evaluated/verdict.json", "evaluated/samples.jsonl")),
        Verb("publish", ("publish", "runs/small", "--to", "published", "--anyway"), lambda place: None, _of("published/*")),
        Verb("repair", ("check", "tiny", "mended-needed", "--repair", "mended"), without("runs"), _of("mended/*")),
        Verb("run", ("run", "recipe.yaml", *TINY), without("runs"), _of(*_DATA, *_TRAINED, *_MEASURED, *_JUDGED)),
        Verb("sweep", ("sweep", "recipe.yaml", *TINY, "--set", "data.split.validation=0.2", "--grid", "training.lora.rank=1,2", "--out", "swept"), without("runs"), _of("swept/data/*", *_TRIALS), lambda place: _study(place) | _untimed("swept/sweep.json")(place)),
        Verb("improve", ("improve", "runs/weak", "--trials", "1", "--out", "improved"), without("runs/small"), _of("improved/data/*", *_TRIALS), _untimed("improved/improve.json", "improved/improve.jsonl")),
    )
}  # fmt: skip


def make_ground(folder: Path) -> Path:
    """The inputs, adapters from elsewhere, and a finished run."""
    place = make_inputs(folder)
    (place / "neutral.csv").write_text(
        "text\n" + "".join(f"The {n} boxes stand beside the wall of shed {n * n}.\n" for n in range(8))
    )
    save_adapter(place / "foreign", tiny_mistral(initializer_range=0.02))
    shutil.copytree(place / "foreign", place / "mended-needed")
    _prefix_keys(place / "mended-needed" / "adapter_model.safetensors")
    done = galvan("run", "recipe.yaml", *TINY, cwd=place)
    assert done.code in ENDED, done.err
    return place


def add_weak(place: Path) -> None:
    """Beside it another finished run, that learned nothing: something to improve."""
    weak = ("--set", "name=weak", "--set", "training.learning_rate=1e-7", "--set", "evaluation.margin_nats=0.001")
    done = galvan("run", "recipe.yaml", *TINY, *weak, cwd=place)
    assert done.code in ENDED, done.err


def _prefix_keys(path: Path) -> None:
    """The names that a module under torch.compile has, which PEFT does not find (B01)."""
    from safetensors.torch import load_file, save_file

    tensors = {
        name.replace("base_model.model.", "base_model.model._orig_mod.", 1): tensor for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
