"""What is held in which dtype: said in one sentence, true of the live model, and needed: in bfloat16 alone small steps would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_loop import ROWS, recipe, rows_of

from galvan.models import add_lora
from galvan.recipe import Lora
from galvan.training import precision
from galvan.training.loop import train
from models_for_tests import tiny_llama


@pytest.mark.parametrize(
    ("changes", "quantization", "dtype", "sentence"),
    [
        ({"method": "lora"}, "none", "float32", "Held: base weights, frozen, in float32; the adapter and its gradients in float32, optimizer state in float32."),
        ({"method": "lora"}, "none", "bfloat16", "Held: base weights, frozen, in bfloat16; the adapter and its gradients in float32, optimizer state in float32, for in bfloat16 most of their steps would be rounded away."),
        ({"method": "lora", "optimizer": "paged_adamw8bit"}, "nf4", "bfloat16", "Held: base weights, frozen, in 4 bits (nf4, its scales quantised once more), computed with in bfloat16; the adapter and its gradients in float32, optimizer state in 8 bits, in pages that may leave the GPU, for in bfloat16 most of their steps would be rounded away."),
        ({}, "none", "bfloat16", "Held: all weights and gradients in float32, optimizer state in float32, products in bfloat16: in bfloat16 most steps would be rounded away; saved in bfloat16."),
    ],
)  # fmt: skip
def test_one_sentence_says_what_is_held_and_why(changes: dict[str, str], quantization: str, dtype: str, sentence: str) -> None:
    assert precision.of(recipe(**changes), quantization, dtype).sentence == sentence


def test_an_adapter_on_a_bfloat16_base_is_held_in_float32() -> None:
    model = add_lora(tiny_llama().to(torch.bfloat16), Lora(), "tiny", None, 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_full_training_computes_in_bfloat16_and_steps_in_float32(tmp_path: Path) -> None:
    model, plain = tiny_llama(), tiny_llama()
    asked = recipe(learning_rate=1e-4)
    train(model, ROWS, asked, 7, tmp_path / "bf16", compute=torch.bfloat16)
    train(plain, ROWS, asked, 7, tmp_path / "fp32")
    found, exact = (rows_of(tmp_path / name / "training.jsonl") for name in ("bf16", "fp32"))
    assert [r["loss_nats"] for r in found] == pytest.approx([r["loss_nats"] for r in exact], rel=2e-2)
    assert [r["loss_nats"] for r in found] != [r["loss_nats"] for r in exact]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    moved = [share for r in found[:3] for _, _, share in r["parameters"].values()]
    assert min(moved[len(moved) // 3 :]) > 0.1  # in bfloat16 a step of 1e-4 leaves most weights of 0.2 where they were
