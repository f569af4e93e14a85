"""Preflight: figures worked by hand, each warning and each refusal seen to speak, and the run stopped before a model is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from galvan import models
from galvan.data.tokens import IGNORE, TokenRow
from galvan.errors import DataError, ResourceError
from galvan.models import Choice, Located
from galvan.preflight import Preflight, errors, preflight, size_of, warnings
from galvan.recipe import Recipe, from_text
from galvan.rundir import Document, read_json
from galvan.story import Story
from models_for_tests import save_base, tiny_gpt2, tiny_llama

EOS = 257
CPU, FLOAT = Choice("cpu", "test"), Choice("float32", "test")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Located:
    folder = save_base(tmp_path_factory.mktemp("base"), tiny_llama(0))
    return Located("base", folder)


def row(n: int, end: bool = True, cut: int = 0) -> TokenRow:
    ids = np.array([*range(n - end), *([EOS] if end else [])], dtype=np.int64)
    labels = ids.copy()
    labels[0] = IGNORE
    return TokenRow(f"d{n}", ids, labels, cut)


def flown(base: Located, rows: list[TokenRow], *settings: str) -> tuple[Preflight, Recipe]:
    recipe = from_text("", "test", settings)
    test = [Document(f"t{n}", "text", "s", n) for n in range(1, 41)]
    return preflight(recipe, rows, test, [50] * 40, 100, EOS, base, CPU, FLOAT, lambda device, dtype, width: 1e9), recipe


def test_figures_are_those_worked_by_hand(base: Located) -> None:
    rows = [row(10)] * 30 + [row(20, end=False, cut=5)] * 10
    found, _ = flown(
        base,
        rows,
        "training.epochs=2",
        "training.batch_size=4",
        "training.accumulation=2",
        "training.schedule=constant",
        "training.warmup_ratio=0.2",
        "training.learning_rate=1e-3",
    )
    assert (found.rows, found.tokens, found.supervised_tokens) == (40, 30 * 10 + 10 * 20, 30 * 9 + 10 * 19)
    assert (found.truncated_rows, found.truncated_tokens, found.eos_kept_share) == (10, 50, 0.75)
    # 40 rows in batches of 8: 5 steps an epoch, 10 in all, 2 of them warm-up at half and full rate.
    assert (found.steps_per_epoch, found.steps, found.warmup_steps, found.warmup_share) == (5, 10, 2, 0.2)
    assert found.integrated_learning_rate == pytest.approx(1e-3 * (0.5 + 1 + 8))
    assert [percent is not None and 0 < percent < 20 for percent in found.detectable_percent] == [True] * 3


def test_the_size_is_that_of_the_loaded_model(base: Located, tmp_path: Path) -> None:
    for located, model in ((base, tiny_llama(0)), (Located("gpt2", save_base(tmp_path / "gpt2", tiny_gpt2())), tiny_gpt2())):
        size = size_of(located, Recipe(), "float32")
        assert size is not None and size.parameters == sum(p.numel() for p in model.parameters()) and size.layers == 2
        assert size.weight_bytes == 4 * size.parameters
        adapted = models.add_lora(model, Recipe().training.lora, "x", None, 0)
        assert size.trainable == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_time_grows_with_the_tokens_and_says_how_it_was_estimated(base: Located) -> None:
    short, long = (flown(base, [row(10)] * n, "training.epochs=100")[0].seconds for n in (40, 400))
    assert short.value is not None and long.value is not None and 5 < long.value / short.value <= 10
    assert "matrix product" in short.how and "within a factor of three" in short.how


def sound(base: Located) -> tuple[Preflight, Recipe]:
    return flown(base, [row(10)] * 400)


def test_a_sound_run_is_not_warned(base: Located) -> None:
    found, recipe = sound(base)
    assert warnings(found, recipe) == errors(found) == [] == found.warnings
    found.refuse()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"truncated_tokens": 400}, "preflight/truncated"),
        ({"eos_kept_share": 0.1}, "preflight/ends-lost"),
        ({"steps": 5}, "preflight/few-steps"),
        ({"warmup_share": 0.5}, "preflight/long-warmup"),
        ({"integrated_learning_rate": 1e-4}, "preflight/little-learning"),
        ({"memory_available_bytes": 500_000_000}, "preflight/memory"),
    ],
)
def test_each_warning_speaks_of_its_fault(base: Located, changes: dict[str, float], code: str) -> None:
    found, recipe = sound(base)
    assert [one.code for one in warnings(dataclasses.replace(found, **changes), recipe)] == [code]


def test_nothing_to_learn_and_no_memory_are_refused(base: Located) -> None:
    found, _ = sound(base)
    with pytest.raises(DataError, match="None of the 400 training rows has a token to learn"):
        dataclasses.replace(found, errors=errors(dataclasses.replace(found, supervised_tokens=0))).refuse()
    with pytest.raises(ResourceError, match="take a smaller model"):
        dataclasses.replace(found, errors=errors(dataclasses.replace(found, memory_available_bytes=1_000_000))).refuse()


def begun(tmp_path: Path, base: Located, texts: list[str], *settings: str) -> Story:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = from_text(
        "",
        "test",
        [f"model.base={base.path}", f"data.source={tmp_path / 'a.jsonl'}", "data.split.by=random", "training.epochs=1", *settings],
    )
    return Story.begin(asked, tmp_path / "run", None, True)


TEXTS = [
    f"The {n} lamps of the harbour were lit at {n % 12 + 1}; nobody came, and letter {n} stayed unread by number {n * n}."
    for n in range(40)
]


def test_a_leaking_split_stops_the_run_before_a_model_is_loaded_and_leaves_its_audit(
    tmp_path: Path, base: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_base", lambda *a, **k: pytest.fail("a model was loaded"))
    story = begun(tmp_path, base, [*TEXTS, *(text.upper() for text in TEXTS)], "data.clean.near_duplicates=null")
    for _ in range(2):  # it is refused again, not reused
        with pytest.raises(DataError) as caught:
            story.prepare()
        assert caught.value.code == "data/leak"
    assert read_json(tmp_path / "run" / "audit.json")["overlaps"][0]["long_duplicates"] > 0
    near = begun(tmp_path, base, [*TEXTS, *(text.upper() for text in TEXTS)])
    near.prepare()  # with the search for near duplicates the copies are left out, and the split is sound
    assert read_json(tmp_path / "run" / "audit.json")["removed"]["near duplicate"]["count"] == 40


def test_preparing_writes_preflight_and_recutting_trains(tmp_path: Path, base: Located) -> None:
    texts = [" ".join(f"Sentence {n} of book {book} is here." for n in range(60)) for book in range(8)]
    story = begun(
        tmp_path,
        base,
        texts,
        "data.recut=true",
        "data.document_tokens=128",
        "training.epochs=2",
        "data.split.by=block",
        "data.split.blocks=2",
        "data.split.leaks=allow",
        "data.clean.near_duplicates=null",
    )
    found = story.prepare()
    written = read_json(tmp_path / "run" / "preflight.json")
    assert written["rows"] == found.rows == len((tmp_path / "run" / "data" / "train.jsonl").read_text().splitlines())
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {"lengths.svg", "splits.svg", "duplicates.svg"}
    story.train()
    assert read_json(tmp_path / "run" / "training.json")["steps"] == found.steps
