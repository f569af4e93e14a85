"""By module: gradient, step, entries changed, and how far from the start, against the matrices written out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_loop import ROWS, lora, recipe
from torch import nn

from galvan.errors import ModelError
from galvan.models import add_lora
from galvan.recipe import Lora
from galvan.training.live_checks import Expected, base_losses
from galvan.training.loop import train
from galvan.training.movement import Modules, copies, movement
from models_for_tests import tiny_llama


def last_modules(folder: Path) -> dict[str, dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert ["modules" in row for row in rows] == [True, True, True, False, False, True]  # three first steps, and the evaluated ones
    return dict(rows[-1]["modules"])


@pytest.mark.parametrize("start", ["default", "olora"])
def test_delta_ratio_is_the_norm_of_what_was_added_over_that_of_the_weight(start: str, tmp_path: Path) -> None:
    model = add_lora(tiny_llama(), Lora.model_validate({"rank": 4, "alpha": 8.0, "start": start}), "tiny", None, 0)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    before = {name: m.get_delta_weight("default").detach().clone() for name, m in layers.items()}
    train(model, ROWS, recipe(method="lora", evaluations=1, learning_rate=1e-2), 0, tmp_path)
    found = last_modules(tmp_path)
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        expected = (layer.get_delta_weight("default") - before[name]).norm() / weight.norm()
        assert found[name]["delta_ratio"] == pytest.approx(float(expected), rel=1e-4)
        assert found[name]["gradient_norm"] > 0 and 0 < found[name]["update_ratio"] < 0.5 and found[name]["changed_share"] > 0.9


def test_figures_of_a_layer_trained_whole_are_those_worked_by_hand() -> None:
    layer = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer[0].bias.zero_()
    parameters = dict(layer.named_parameters())
    modules, before = Modules(layer, parameters), copies(parameters)
    layer[0].weight.grad, layer[0].bias.grad = torch.tensor([[0.0, 3.0]]), torch.tensor([4.0])
    with torch.no_grad():
        layer[0].weight[0, 0] += 0.5
    # gradient |(0, 3, 4)| = 5; the step is 0.5 of weights |(3, 4, 0)| = 5; one of three entries changed
    figures = modules.figures(parameters, before, movement(parameters, before))
    assert figures == {
        "0": {"gradient_norm": 5.0, "update_ratio": pytest.approx(0.1), "changed_share": pytest.approx(1 / 3), "delta_ratio": None}
    }


def test_a_frozen_layer_moves_nothing_and_is_seen(tmp_path: Path) -> None:
    model = lora()
    dead = next(name for name, m in model.named_modules() if hasattr(m, "lora_A"))
    model.get_submodule(dead).lora_B["default"].weight.register_hook(torch.zeros_like)
    model.get_submodule(dead).lora_A["default"].weight.register_hook(torch.zeros_like)
    train(model, ROWS, recipe(method="lora", evaluations=1), 0, tmp_path)
    found = last_modules(tmp_path)
    assert found[dead]["delta_ratio"] == found[dead]["gradient_norm"] == 0
    assert all(one["delta_ratio"] > 0 for name, one in found.items() if name != dead)


def test_an_adapter_that_does_not_begin_at_the_base_is_refused_before_the_first_step(tmp_path: Path) -> None:
    base_nll = base_losses(tiny_llama(), ROWS[2:4])
    asked = recipe(method="lora")
    train(lora(), ROWS, asked, 0, tmp_path / "sound", probe=ROWS[2:4], expected=Expected(base_nll))
    moved = lora()
    with torch.no_grad():
        next(p for name, p in moved.named_parameters() if ".lora_B." in name).add_(0.3)
    with pytest.raises(ModelError, match="an adapter must begin at the base") as caught:
        train(moved, ROWS, asked, 0, tmp_path / "moved", probe=ROWS[2:4], expected=Expected(base_nll))
    assert caught.value.code == "training/step-0"
