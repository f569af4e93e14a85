"""The figures that exclude faults of the training loss: right on a sound loop, far off on each fault, and nothing is left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from galvan.data.tokens import IGNORE, TokenRow, training_rows
from galvan.rundir import Document
from galvan.training import loop
from galvan.training.loss_checks import loss_checks
from models_for_tests import TEXTS, byte_tokenizer, move, tiny_llama, wrap

ROWS = training_rows(byte_tokenizer(), [Document(f"d{i}", text, "s", i) for i, text in enumerate((*TEXTS, "Yes."))], None, True)


def test_a_sound_loss_is_the_definition_in_one_pass_and_in_several_and_the_model_stays_as_it_was() -> None:
    model = move(wrap(tiny_llama(0), lora_dropout=0.5)).train()
    before = [(n, p.detach().clone()) for n, p in model.named_parameters()]
    random = torch.get_rng_state().tolist()
    found = loss_checks(model, ROWS, packing=True)
    assert found is not None and max(found.loss_error, found.passes_error, found.padding_error) < 1e-4
    assert found.contamination == 0.0 and found.seams_learned == 0
    assert all(p.grad is None for p in model.parameters()) and model.training and torch.get_rng_state().tolist() == random
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in before)


@pytest.mark.cause("F01", "fault")
def test_passes_divided_one_by_one_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(model: Any, batch: list[TokenRow], rows_per_pass: int, *rest: Any, **named: Any) -> float:
        if rows_per_pass >= len(batch):
            return original(model, batch, rows_per_pass, *rest, **named)
        return float(np.mean([original(model, [row], 1, *rest, **named) for row in batch]))

    original = loop.batch_gradient
    monkeypatch.setattr(loop, "batch_gradient", one_by_one)
    found = loss_checks(tiny_llama(0), ROWS, packing=False)
    assert found is not None and found.passes_error > 0.001 > found.loss_error and found.contamination is None


@pytest.mark.cause("F03", "fault")
def test_first_positions_counted_as_targets_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.batch_gradient

    def over(model: Any, batch: list[TokenRow], *rest: Any, **named: Any) -> float:
        n = sum(row.n_supervised for row in batch)
        return original(model, batch, *rest, **named) * n / (n + len(batch))

    monkeypatch.setattr(loop, "batch_gradient", over)
    found = loss_checks(tiny_llama(0), ROWS, packing=False)
    assert found is not None and found.loss_error > 0.02 and found.passes_error > 0.02


def test_rows_without_a_target_are_not_measured() -> None:
    masked = [dataclasses.replace(row, labels=np.full_like(row.labels, IGNORE)) for row in ROWS]
    assert loss_checks(tiny_llama(0), masked, packing=False) is None
