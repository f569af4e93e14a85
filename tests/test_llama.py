"""The Llama family's forward pass written out: transformers' texts, finite differences, dropout's share, and TRL's losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import FAMILIES, adapted, large, rows_for
from galvan import llama, models
from galvan.data.tokens import TokenRow
from galvan.measure.decode import Job, Sampling, _writes_own_way, decode
from galvan.recipe import Model, Training
from galvan.rundir import read_rows
from galvan.training.cost import kept_bytes
from galvan.training.gradients import batch_gradient
from galvan.training.loop import train
from galvan.unpadded import supports_unpadded, why_not_own
from models_for_tests import tiny_gpt2, tiny_llama


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_greedy_texts_of_a_batch_are_those_of_transformers_alone(family):
    model = adapted(large(FAMILIES[family]()))
    assert _writes_own_way(model)
    prompts = [row.input_ids.tolist() for row in rows_for(model, [3, 9, 6])]
    said = decode(model, [Job(ids, Sampling("greedy", 0.0, 1.0, 12)) for ids in prompts], set(), 100, model.config.vocab_size, 1000)
    for ids, one in zip(prompts, said, strict=True):
        row = torch.tensor([ids])
        expected = model.generate(
            input_ids=row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=12, min_new_tokens=12, pad_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        assert one.ids == expected[0, len(ids) :].tolist()


def test_another_architecture_and_wrong_numbers_write_through_transformers(monkeypatch):
    assert not _writes_own_way(large(tiny_gpt2()))
    model = large(tiny_llama())
    right = llama._angles
    monkeypatch.setattr(llama, "_angles", lambda decoder, x, positions: right(decoder, x, positions + (positions > 2)))
    assert not _writes_own_way(model)


def test_finite_differences_agree_with_the_adapters_gradients():
    """Central differences of the loss along the gradient and a random direction together, factor by factor."""
    model = adapted(large(tiny_llama()))
    rows = rows_for(model, [9, 5, 12])
    assert supports_unpadded(model, True) and why_not_own(model) is None
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batch_gradient(model, rows, 1, True, unpadded=True)
    gradients = {name: p.grad.clone() for name, p in factors.items()}
    rng, step = torch.Generator().manual_seed(0), 1e-2
    for name, p in factors.items():
        gradient, noise, kept = gradients[name], torch.randn(p.shape, generator=rng), p.detach().clone()
        direction = gradient / gradient.norm() + noise / noise.norm()
        losses = []
        for sign in (1, -1):
            p.data.copy_(kept + sign * step * direction)
            losses.append(batch_gradient(model, rows, 1, True, unpadded=True))
        p.data.copy_(kept)
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=2e-2), name


def test_where_documents_begin_is_kept_for_training_too():
    llama._seams.cache_clear()
    with torch.inference_mode():
        kept = llama._seams((3, 2), torch.device("cpu"))
    assert kept.tolist() == [0, 3, 5] and kept.dtype == torch.int32
    assert llama._seams((3, 2), torch.device("cpu")) is kept and not kept.is_inference()


def test_a_gate_of_silu_gives_the_same_bits_forward_and_back_and_keeps_less():
    model = adapted(large(tiny_llama()))
    gate, up = (torch.randn(9, 5, generator=torch.Generator().manual_seed(n), requires_grad=True) for n in (1, 2))
    plain = torch.nn.functional.silu(gate) * up
    ours = llama._Gated.apply(gate, up)
    assert torch.equal(ours, plain)
    for found, expected in zip(*(torch.autograd.grad(y.sin().sum(), (gate, up)) for y in (ours, plain)), strict=True):
        assert torch.equal(found, expected)
    rows = rows_for(model)
    assert supports_unpadded(model, True)
    kept = kept_bytes(model, rows, True, True)
    for layer in model.get_base_model().model.layers:
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn)  # the same, but not known as such
    tokens, config = sum(len(row.input_ids) for row in rows), model.config
    assert kept_bytes(model, rows, True, True) - kept == 4 * tokens * config.intermediate_size * config.num_hidden_layers


def test_dropout_drops_its_share_leaves_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    dropout = torch.nn.Dropout(0.05)
    x = torch.ones(1000, 401)
    kept, factor = llama._dropped(dropout, x)
    share = float((kept == 0).float().mean())
    assert share == pytest.approx(0.05, abs=0.002)  # nine standard errors
    assert float(kept.mean()) * factor == pytest.approx(1.0, abs=0.002)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(kept, llama._dropped(dropout, x)[0])
    assert llama._dropped(dropout.eval(), x) == (x, 1.0)
    assert llama._dropped(torch.nn.Identity(), x) == (x, 1.0)


def in_four_bits(model, folder):
    pytest.importorskip("bitsandbytes", reason="galvan[qlora] is not installed")
    model.save_pretrained(folder)
    return models.load_base(models.Located("tiny", folder), Model(quantization="nf4", device="cpu", dtype="bfloat16"))


@pytest.mark.parametrize("make", [lambda model, folder: model.to(torch.bfloat16), in_four_bits])
def test_factors_in_float32_over_a_base_in_half_precision_give_and_learn_what_peft_has_them_give_and_learn(make, tmp_path):
    model = adapted(make(large(tiny_llama(hidden_size=64, intermediate_size=64)), tmp_path))
    layer = next(m for m in model.modules() if hasattr(m, "lora_A") and len(m.lora_A))
    _, b = factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    b.data.mul_(20)  # an update as large as the base's product
    x = torch.randn(50, layer.in_features, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    assert {p.dtype for p in factors} == {torch.float32} and llama._is_plain_lora(layer, x)
    ours, theirs = llama._project(layer, x), layer(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (theirs - layer.base_layer(x)).norm() > 0.5 * theirs.norm()
    assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
    for found, expected in zip(*(torch.autograd.grad(y.float().square().sum(), factors) for y in (ours, theirs)), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() <= 2e-2 * expected.norm()


@pytest.mark.slow
def test_thirty_losses_are_those_of_trl_on_the_same_rows_order_and_settings(tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    steps, size, length = 30, 4, 24
    ids = np.random.default_rng(5).integers(3, 250, (steps * size, length))
    settings = Training(
        epochs=1.0, batch_size=size, learning_rate=1e-3, schedule="constant", warmup_ratio=0.0, evaluations=1, max_gradient_norm=1.0
    )
    ours = adapted(large(tiny_llama())).train()
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    train(ours, [TokenRow(str(i), row, row) for i, row in enumerate(ids)], settings, 7, tmp_path / "ours")
    theirs = adapted(large(tiny_llama()))
    theirs.load_state_dict(start, strict=False)
    order = np.random.default_rng([7, 0]).permutation(len(ids))  # that of our first epoch
    options = trl.SFTConfig(
        output_dir=str(tmp_path / "theirs"), per_device_train_batch_size=size, num_train_epochs=1, learning_rate=1e-3, lr_scheduler_type="constant",
        weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential", max_length=None, use_cpu=True, bf16=False,
        gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"input_ids": ids[i].tolist()} for i in order])
    trainer = trl.SFTTrainer(model=theirs, args=options, train_dataset=data, processing_class=_tokenizer())
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = [row["loss_nats"] for row in read_rows(tmp_path / "ours" / "training.jsonl")]
    assert len(found) == steps and found == pytest.approx(expected, abs=1e-5, rel=1e-5)


def _tokenizer():
    from galvan import models

    return models.load_tokenizer(models.locate("galvan/spark"))
