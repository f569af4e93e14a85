"""Early stop: a run that gets worse ends, one that only wobbles does not, and the weights kept are those of the best evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from test_loop import ROWS, KilledAfter, KilledError, lora, recipe, row, weights

from galvan.errors import RecipeError
from galvan.training import stopping
from galvan.training.loop import train

LEARNED = [row(f"t{i}", length) for i, length in enumerate((18, 21, 25, 30))]
OTHERS = [row(f"v{i}", 40, seed=i) for i in range(64)]


def curves(levels: list[float], rng: np.random.Generator, n: int = 24, noise: float = 0.05) -> list[dict[str, object]]:
    """Evaluations at steps 0, 10, ... of documents of 100 tokens that differ much; each evaluation adds its level and a little noise."""
    own = rng.normal(3.0, 0.5, n)
    return [
        {"step": 10 * k, "set": "validation", "document": f"v{i}", "n_tokens": 100, "nll_nats": 100 * (own[i] + level + rng.normal(0, noise))}
        for k, level in enumerate(levels)
        for i in range(n)
    ]  # fmt: skip


def ended_at(levels: list[float], seed: int) -> int | None:
    rng = np.random.default_rng(seed)
    rows = curves(levels, rng)
    for k in range(1, len(levels)):
        found = stopping.standing([r for r in rows if int(str(r["step"])) <= 10 * k], seed)
        if found is not None and found.too_long:
            return 10 * k
    return None


def test_a_rise_is_noticed_and_the_best_evaluation_is_named() -> None:
    rows = curves([0.0, -0.3, -0.4, -0.3, -0.2], np.random.default_rng(1))
    found = stopping.standing(rows, 1)
    assert found is not None and found.best == 20 and found.too_long is not None
    assert (
        found.too_long.startswith("Validation loss was 0.1923 nats a token lower")
        and "at step 20 than now, at step 40" in found.too_long
    )


def test_of_runs_that_stay_level_few_are_ended_and_of_those_that_rise_nearly_all() -> None:
    level, rising = [0.0, -0.3, -0.4, -0.4, -0.4, -0.4, -0.4], [0.0, -0.3, -0.4, -0.35, -0.3, -0.25, -0.2]
    assert sum(ended_at(level, seed) is not None for seed in range(60)) <= 6
    assert sum(ended_at(rising, seed) is not None for seed in range(20)) >= 18


def test_the_start_is_never_the_best_and_too_few_documents_are_never_sure() -> None:
    rows = curves([0.0, 0.4, 0.5], np.random.default_rng(2))
    found = stopping.standing(rows, 0)
    assert found is not None and found.best == 10 and found.too_long is not None
    few = stopping.standing(curves([0.0, 0.4, 0.5], np.random.default_rng(2), n=4), 0)
    assert few is not None and few.too_long is None and not stopping.enough(4) and stopping.enough(5)
    assert stopping.standing([r for r in rows if r["step"] == 0], 0) is None and stopping.standing([], 0) is None


def overfit(folder: Path, **more: object) -> tuple[object, object]:
    """Random rows learned by heart: other random rows, of the same length, only become worse after a while."""
    model = lora(rank=8, targets="all-linear")
    asked = recipe(method="lora", learning_rate=5e-2, epochs=30.0, evaluations=10, schedule="constant", early_stop=True)
    return model, train(model, LEARNED, asked, 7, folder, validation=OTHERS, **more)  # type: ignore[arg-type]


def test_a_run_ends_early_keeps_the_best_weights_and_goes_on_from_a_kill_to_the_same_end(tmp_path: Path) -> None:
    progress = KilledAfter(-1)
    model, trained = overfit(tmp_path / "whole", progress=progress)
    assert trained.stopped_early and trained.kept_step < trained.steps < 30  # type: ignore[attr-defined]
    assert f"The weights of step {trained.kept_step} of {trained.steps} are kept." in progress.said[-1]  # type: ignore[attr-defined]
    (best,) = (tmp_path / "whole").glob("best-*.safetensors")
    saved = load_file(best)
    assert all((saved[f"weight.{name}"] == p).all() for name, p in model.named_parameters() if p.requires_grad)  # type: ignore[attr-defined]
    rows = [json.loads(line) for line in (tmp_path / "whole/curves.jsonl").read_text().splitlines()]
    level = {
        step: sum(r["nll_nats"] for r in rows if r["step"] == step and r["set"] == "validation")
        for step in {r["step"] for r in rows}
    }
    assert min((nats, step) for step, nats in level.items() if step)[1] == trained.kept_step  # type: ignore[attr-defined]

    with pytest.raises(KilledError):
        overfit(tmp_path / "killed", progress=KilledAfter(trained.steps - 1))  # type: ignore[attr-defined]
    again, resumed = overfit(tmp_path / "killed")
    assert (resumed.kept_step, resumed.steps) == (trained.kept_step, trained.steps)  # type: ignore[attr-defined]
    assert weights(again) == weights(model)


def test_early_stop_without_validation_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"raise data\.split\.validation"):
        train(lora(), ROWS, recipe(method="lora", early_stop=True), 7, tmp_path)
