"""Several trainings on one base: loaded once, tokenised once, and each adapter the same bytes as alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_loop import story

from galvan import models
from galvan.recipe import Lora, from_text
from galvan.story import Story
from galvan.training.shared import Shared
from models_for_tests import tiny_llama


def trained(tmp_path: Path, shared: Shared | None, name: str, seed: int, *more: str) -> Path:
    """The folder of one training."""
    settings = [
        f"model.base={tmp_path / 'base'}",
        f"data.source={tmp_path / 'texts.jsonl'}",
        "training.epochs=1.0",
        f"training.seed={seed}",
    ]
    told = Story.begin(from_text("", "test", [*settings, *more]), tmp_path / f"{name}-{seed}", None, True, shared=shared)
    told.prepare()
    told.train()
    return told.folder


def adapters(tmp_path: Path, shared: Shared | None, name: str, *more: str) -> list[bytes]:
    """Two seeds, one after the other."""
    return [(trained(tmp_path, shared, name, seed, *more) / "adapter/adapter_model.safetensors").read_bytes() for seed in (1, 2)]


def test_two_seeds_load_one_base_and_come_to_the_same_bytes_as_alone(tmp_path: Path) -> None:
    story(tmp_path)
    alone = adapters(tmp_path, None, "alone", "training.gradient_checkpointing=true")
    shared = Shared()
    assert adapters(tmp_path, shared, "together", "training.gradient_checkpointing=true") == alone and alone[0] != alone[1]
    assert shared.loads == 1


@pytest.mark.parametrize("leaves", ["training.lora.bias=all", "training.lora.start=olora", "training.method=full"])
def test_where_training_leaves_something_behind_the_base_is_loaded_again(leaves: str, tmp_path: Path) -> None:
    story(tmp_path)
    shared = Shared()
    for seed in (1, 2):
        trained(tmp_path, shared, "again", seed, leaves)
    assert shared.loads == 2


def test_a_base_given_back_serves_its_own_key_once_and_no_other(tmp_path: Path) -> None:
    def given_back(shared: Shared) -> None:
        wrapped = models.add_lora(tiny_llama(), Lora(), "tiny", None, 0)
        models.save(wrapped, tmp_path / "adapter")
        shared.give_back({"dtype": "float32"}, wrapped, models.Located("adapter", tmp_path / "adapter"))

    shared = Shared()
    given_back(shared)
    base = shared.base({"dtype": "float32"}, lambda: None)
    assert shared.loads == 0 and base is not None
    assert all(
        torch.equal(mine, fresh) for mine, fresh in zip(base.state_dict().values(), tiny_llama().state_dict().values(), strict=True)
    )
    assert shared.base({"dtype": "float32"}, lambda: "loaded") == "loaded"
    given_back(shared)
    assert shared.base({"dtype": "bfloat16"}, lambda: "another") == "another" and shared.loads == 2


def test_ids_are_made_once_for_the_same_texts() -> None:
    shared, made = Shared(), []
    for text in ("a", "a", "b"):
        assert shared.rows({"text": text}, lambda text=text: made.append(text) or text) == text  # type: ignore[misc]
    assert made == ["a", "b"]
