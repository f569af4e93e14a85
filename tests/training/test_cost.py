"""What a training costs is counted and measured on its own steps; a deep model is told from two shallow ones."""

from __future__ import annotations

import gc
from itertools import count
from pathlib import Path

import pytest
import torch
from test_loop import ROWS

from galvan.likelihood import supports_chunks
from galvan.models import Choice, Located, add_lora
from galvan.recipe import Lora, Model, Recipe, Training
from galvan.training import cost
from galvan.unpadded import supports_unpadded
from models_for_tests import save_base, tiny_gpt2, tiny_llama

CPU, EXACT = Choice("cpu", ""), Choice("float32", "")


def measured(folder: Path, settings: Training, blocks: int = 6) -> cost.Cost:
    if not (folder / "config.json").exists():
        save_base(folder, tiny_llama(num_hidden_layers=blocks))
    ticks = count()
    asked = Recipe(model=Model(base=str(folder), device="cpu"), training=settings)
    return cost.measure(Located("tiny", folder), asked, ROWS, 50, CPU, EXACT, clock=lambda: float(next(ticks)))


@pytest.mark.parametrize("changes", [{}, {"method": "full"}, {"gradient_checkpointing": True}, {"lora": Lora(rank=16)}], ids=str)
def test_a_deep_model_is_told_from_shallow_ones_as_it_is_found_whole(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Training.model_validate({"batch_size": 4, "epochs": 2.0, **changes})
    whole = measured(tmp_path / "base", settings)
    monkeypatch.setattr(cost, "WHOLE_BYTES", 0)
    told = measured(tmp_path / "base", settings)
    assert "on a model of 6 blocks" in whole.how and "1 and 3 of 6 blocks" in told.how
    for name, size in whole.parts_bytes.items():
        if name != "libraries":  # measured, and the machine's
            assert told.parts_bytes[name] == pytest.approx(size, rel=0.02), name


def test_weights_gradients_and_state_are_counted_exactly(tmp_path: Path) -> None:
    model = add_lora(tiny_llama(num_hidden_layers=6), Lora(), "tiny", None, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parts = measured(tmp_path / "base", Training(batch_size=4)).parts_bytes
    assert parts["weights"] == 4 * sum(p.numel() for p in model.parameters())
    assert (parts["gradients"], parts["optimizer"]) == (4 * trained, 8 * trained)
    assert (
        measured(tmp_path / "base", Training(batch_size=4, gradient_checkpointing=True)).parts_bytes["activations"]
        < parts["activations"] / 2
    )


def test_time_grows_with_epochs_and_evaluations_as_the_clock_says(tmp_path: Path) -> None:
    """Every call of this clock is one second later: a timed step takes one, and so does a timed evaluation."""
    one, two = (measured(tmp_path / "base", Training(batch_size=10, epochs=n, evaluations=1)) for n in (1.0, 2.0))
    assert one.step_seconds == pytest.approx(1.0) and two.seconds - one.seconds == pytest.approx(1.0)


def test_checks_before_the_first_step_and_checkpoints_take_their_time_too(tmp_path: Path) -> None:
    """By that clock the checks take a second, each of ten steps one, an evaluated token its share of one, and a checkpoint goes by its bytes."""
    settings = {"batch_size": len(ROWS), "epochs": 10.0, "evaluations": 1}
    last, each = (measured(tmp_path / "base", Training.model_validate({**settings, "checkpoint_seconds": s})) for s in (3600, 0))
    trained = last.parts_bytes["gradients"] // 4
    scored = 2 * 50 / sum(len(row.input_ids) for row in sorted(ROWS, key=lambda row: len(row.input_ids))[: cost.EVALUATED])
    before = 1 + 10 * last.step_seconds + scored
    assert last.seconds == pytest.approx(before + 12 * trained / cost.WRITTEN_BYTES, abs=1e-9)
    assert each.seconds - last.seconds == pytest.approx((before // last.step_seconds) * 12 * trained / cost.WRITTEN_BYTES, abs=1e-9)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_kept_bytes_hold_what_a_layer_must_keep_and_no_weights(build) -> None:  # type: ignore[no-untyped-def]
    model = build().train()
    chunked = supports_chunks(model)
    unpadded = supports_unpadded(model, chunked)
    short, long = (cost.kept_bytes(model, rows, chunked, unpadded) for rows in (ROWS[:1], ROWS[:4]))
    n = [sum(len(row.input_ids) for row in rows) for rows in (ROWS[:1], ROWS[:4])]
    least = 4 * 32 * 6 * 2  # bytes a token: six vectors of 32 in each of two blocks
    assert short >= least * n[0] and long - short >= least * (n[1] - n[0])
    assert torch.is_grad_enabled() and all(p.grad is None for p in model.parameters())


def test_counting_what_a_pass_keeps_keeps_nothing_itself() -> None:
    """A hook that gives back the tensor it was given holds its graph in a ring, which no collector finds."""
    model = tiny_llama().train()
    chunked = supports_chunks(model)
    before = in_graphs()
    cost.kept_bytes(model, ROWS[:4], chunked, supports_unpadded(model, chunked))
    assert in_graphs() == before


def in_graphs() -> int:
    gc.collect()
    return sum(type(some) is torch.Tensor and some.grad_fn is not None for some in gc.get_objects())
