"""The ways to train: each moves the model, is saved as an adapter that plain PEFT loads onto the untouched base, and starts at the base."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from peft import PeftModel

from galvan import models
from galvan.data.tokens import TokenRow
from galvan.errors import ModelError
from galvan.likelihood import sum_nll, supports_chunks, token_nll
from galvan.recipe import Lora, Training
from galvan.rundir import read_rows
from galvan.training.loop import train
from galvan.training.optimizers import build_optimizers
from galvan.training.passes import collate
from models_for_tests import tiny_llama

ROWS = [TokenRow(str(i), ids, ids) for i, ids in enumerate(np.random.default_rng(3).integers(0, 90, (6, 12)))]
METHODS = {
    "rslora": Lora(rslora=True),
    "dora": Lora(dora=True),
    "pissa": Lora(start="pissa"),
    "pissa with rslora": Lora(start="pissa", rslora=True),
    "olora": Lora(start="olora"),
    "one block": Lora(layers=[1]),
    "embeddings and head": Lora(save_modules=["embed_tokens", "lm_head"]),
    "lora+": Lora(b_rate_ratio=16),
}


def settings(lora=None, **changes):
    asked = {"batch_size": 3, "accumulation": 1, "epochs": 3.0, "warmup_ratio": 0.0, "evaluations": 1, "learning_rate": 1e-2}
    return Training(lora=lora or Lora(), **{**asked, **changes})


def mean_nll(model):
    ids, labels = collate(ROWS, torch.device("cpu"))
    with torch.no_grad():
        return float(sum_nll(model.eval(), ids, labels, supports_chunks(model))) / (6 * 11)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_starts_at_the_base_learns_and_loads_in_plain_peft(name, tmp_path):
    lora = METHODS[name]
    base = mean_nll(tiny_llama())
    model = models.add_lora(tiny_llama(), lora, "tiny", None, 1)
    assert mean_nll(model) == pytest.approx(base, rel=1e-5)
    start = tmp_path / "start" if lora.start != "default" else None
    if start is not None:
        models.save(model, start)
    train(model, ROWS, settings(lora), 1, tmp_path)
    learned = mean_nll(model)
    assert learned < base - 0.05
    models.save(model, tmp_path / "adapter", start=start)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    assert mean_nll(again) == pytest.approx(learned, rel=1e-5)
    written = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert {"alpha": written["lora_alpha"], "rank": written["r"], "use_rslora": written["use_rslora"]} == pytest.approx(
        lora.as_saved()
    )


def test_only_the_named_block_is_adapted():
    model = models.add_lora(tiny_llama(), Lora(layers=[1]), "tiny", None, 1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".layers.1." in name for name in trained)


def test_lora_plus_gives_b_its_own_rate():
    model = models.add_lora(tiny_llama(), Lora(), "tiny", None, 1)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    (optimizer,) = build_optimizers(model, parameters, settings(Lora(b_rate_ratio=16)))
    factors = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert {factors[id(p)] for name, p in parameters.items() if ".lora_B." in name} == {16.0}
    assert {factors[id(p)] for name, p in parameters.items() if ".lora_A." in name} == {1.0}


def test_a_block_that_does_not_exist_is_refused_in_one_sentence():
    with pytest.raises(ModelError, match="does not fit") as caught:
        models.add_lora(tiny_llama(), Lora(layers=[9], targets=["q_proj"]), "tiny", None, 1)
    assert caught.value.code == "training/lora"


def test_a_start_out_of_the_weights_cannot_be_dora():
    with pytest.raises(ValueError, match="plain LoRA"):
        Lora(start="pissa", dora=True)


def test_gradient_checkpointing_changes_memory_and_nothing_else(tmp_path):
    traces = []
    for on in (False, True):
        model = models.add_lora(tiny_llama(), Lora(dropout=0.1), "tiny", None, 1)
        train(model, ROWS, settings(Lora(dropout=0.1), gradient_checkpointing=on), 1, tmp_path / str(on))
        traces.append([(row["loss_nats"], row["gradient_norm"]) for row in read_rows(tmp_path / str(on) / "training.jsonl")])
    assert traces[0] == traces[1]


def test_full_training_with_checkpointing_reaches_every_layer(tmp_path):
    model, before = tiny_llama(), tiny_llama().state_dict()
    train(model, ROWS, settings(method="full", gradient_checkpointing=True), 1, tmp_path)
    same = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
    assert same == []


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw8bit"])
def test_eight_bit_optimizers_learn_nearly_as_adamw_does(optimizer, tmp_path):
    pytest.importorskip("bitsandbytes", reason="galvan[qlora] is not installed")
    learned = {}
    for name in ("adamw", optimizer):
        model = tiny_llama(intermediate_size=256)  # bitsandbytes keeps smaller matrices in 32 bits
        train(model, ROWS, settings(method="full", optimizer=name), 1, tmp_path / name)
        learned[name] = mean_nll(model)
    assert learned[optimizer] == pytest.approx(learned["adamw"], rel=0.05) and learned[optimizer] != learned["adamw"]


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw8bit"])
def test_without_bitsandbytes_an_eight_bit_optimizer_is_refused_with_the_way_to_get_it(optimizer, monkeypatch, tmp_path):
    model = models.add_lora(tiny_llama(), Lora(), "tiny", None, 1)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"galvan\[qlora\]") as caught:
        train(model, ROWS, settings(optimizer=optimizer), 1, tmp_path)
    assert caught.value.code == "training/no-bitsandbytes"


def test_likelihoods_of_a_dora_adapter_are_finite_and_its_own():
    model = models.add_lora(tiny_llama(), Lora(dora=True), "tiny", None, 1)
    assert torch.isfinite(token_nll(model, torch.tensor([[1, 2, 3]]), supports_chunks(model))).all()
