"""The training loop: what a step's loss is, what order is, what stops it, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal

import numpy as np
import peft.utils.save_and_load
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save
from torch.nn import functional as F

from galvan.data.tokens import IGNORE, TokenRow
from galvan.errors import DataError, ModelError, ResourceError, Terminated
from galvan.likelihood import IGNORE as IGNORED_BY_LOSS
from galvan.models import add_lora
from galvan.recipe import Lora, Training, from_text
from galvan.story import Story
from galvan.training import gradients as step_gradients
from galvan.training import loop
from galvan.training.gradients import batch_gradient, evaluate_rows
from galvan.training.loop import train
from galvan.training.muon import Muon, orthogonalized
from galvan.training.optimizers import build_optimizers, learning_rate_factor
from galvan.training.passes import collate, plan_passes
from models_for_tests import byte_tokenizer, save_base, tiny_gpt2, tiny_llama, tiny_mistral

LENGTHS = (5, 31, 9, 17, 3, 26, 12, 7, 22, 14)


def row(name, length, seed=0):
    ids = np.random.default_rng([seed, length]).integers(0, 256, length)
    return TokenRow(name, ids, np.concatenate([[IGNORE], ids[1:]]))


ROWS = [row(f"d{i}", length) for i, length in enumerate(LENGTHS)]


def recipe(**changes):
    usual = {
        "method": "full", "learning_rate": 1e-3, "batch_size": 2, "accumulation": 2, "epochs": 2.0, "schedule": "linear", "warmup_ratio": 0.1,
        "evaluations": 2,
    }  # fmt: skip
    return Training.model_validate(usual | changes)


def lora(seed=0, **changes):
    settings = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"], **changes}
    return add_lora(tiny_llama(seed), Lora.model_validate(settings), "tiny", None, seed)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(model):
    return save({name: p.detach().clone() for name, p in model.named_parameters()})


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def plain_mean_nll(model, rows):
    """The token-weighted mean, one row at a time, through the logits: nothing of ours."""
    total, n = torch.zeros(()), 0
    for r in rows:
        ids = torch.from_numpy(r.input_ids)[None]
        total = total + F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        n += len(r.input_ids) - 1
    return total / n


# ---- passes and the loss of a step ----


@pytest.mark.parametrize(("rows_per_pass", "tokens_per_pass"), [(1, 2048), (3, 2048), (16, 2048), (16, 40), (16, 1)])
def test_passes_partition_the_batch_and_fit(rows_per_pass, tokens_per_pass):
    passes = plan_passes(ROWS, rows_per_pass, tokens_per_pass)
    assert sorted(r.id for part in passes for r in part) == sorted(r.id for r in ROWS)
    for part in passes:
        width = max(len(r.input_ids) for r in part)
        assert len(part) == 1 or (len(part) <= rows_per_pass and len(part) * width <= tokens_per_pass)


def test_rows_are_padded_on_the_right_and_padding_is_never_a_label():
    ids, labels = collate(
        [TokenRow("a", np.array([9, 8, 7]), np.array([IGNORE, 8, 7])), TokenRow("b", np.array([6]), np.array([IGNORE]))],
        torch.device("cpu"),
    )
    assert ids.tolist() == [[9, 8, 7], [6, 0, 0]]
    assert labels.tolist() == [[IGNORE, 8, 7], [IGNORE, IGNORE, IGNORE]]
    assert IGNORE == IGNORED_BY_LOSS


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(("rows_per_pass", "tokens_per_pass"), [(1, 2048), (3, 2048), (10, 2048), (10, 40)])
def test_loss_and_gradient_are_those_of_one_big_batch_whatever_the_passes(monkeypatch, rows_per_pass, tokens_per_pass, chunked):
    # F01: rows of 2 to 30 targets; a mean of means would weight the short ones up to fifteenfold.
    monkeypatch.setattr(step_gradients, "TOKENS_PER_PASS", tokens_per_pass)
    model = tiny_llama()
    expected = plain_mean_nll(model, ROWS)
    expected.backward()
    reference = gradients(model)
    model.zero_grad()
    loss = batch_gradient(model, ROWS, rows_per_pass, chunked)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert float((gradients(model) - reference).norm() / reference.norm()) < 1e-6


def test_the_mean_of_means_would_be_noticed():
    model = tiny_llama()
    token_weighted, mean_of_means = plain_mean_nll(model, ROWS), sum(plain_mean_nll(model, [r]) for r in ROWS) / len(ROWS)
    assert abs(token_weighted - mean_of_means).item() > 1e-3


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (1, 4), (2, 2)])
def test_a_run_does_not_depend_on_how_its_batches_are_split(tmp_path, batch_size, accumulation):
    train(tiny_llama(), ROWS, recipe(batch_size=4, accumulation=1), 3, tmp_path / "a")
    train(tiny_llama(), ROWS, recipe(batch_size=batch_size, accumulation=accumulation), 3, tmp_path / "b")
    for mine, theirs in zip(rows_of(tmp_path / "a/training.jsonl"), rows_of(tmp_path / "b/training.jsonl"), strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert mine["loss_nats"] == pytest.approx(theirs["loss_nats"], rel=1e-5)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)


def test_the_first_loss_in_the_trace_is_the_token_weighted_mean_worked_by_hand(tmp_path):
    expected = plain_mean_nll(tiny_llama(), ROWS).item()
    train(tiny_llama(), ROWS, recipe(batch_size=10, accumulation=1, epochs=1.0), 0, tmp_path)
    (only,) = rows_of(tmp_path / "training.jsonl")
    assert only["loss_nats"] == pytest.approx(expected, rel=1e-6)
    assert (only["step"], only["tokens"]) == (1, sum(LENGTHS) - len(LENGTHS))


# ---- order and schedule ----


def batches_of(monkeypatch, tmp_path, seed, name, rows=ROWS, **changes):
    """The ids of every step's batch, in their order."""
    seen, batch_gradient = [], loop.batch_gradient

    def noted(model, batch, *how):
        seen.append([r.id for r in batch])
        return batch_gradient(model, batch, *how)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_gradient", noted)
        train(tiny_llama(), rows, recipe(**changes), seed, tmp_path / name)
    return seen


def test_order_is_a_function_of_seed_and_epoch_alone(monkeypatch, tmp_path):
    one = batches_of(monkeypatch, tmp_path, 5, "a")
    again = batches_of(monkeypatch, tmp_path, 5, "b", learning_rate=1e-2, schedule="cosine", batch_size=4, accumulation=1)
    other = batches_of(monkeypatch, tmp_path, 6, "c")
    assert one == again != other
    assert one[:3] != one[3:]  # another order in the second epoch


def test_every_epoch_sees_every_row_once_and_its_last_partial_batch_is_kept(monkeypatch, tmp_path):
    batches = batches_of(monkeypatch, tmp_path, 1, "a")
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]  # ten rows in fours, two epochs
    for epoch in (batches[:3], batches[3:]):
        assert sorted(name for batch in epoch for name in batch) == sorted(r.id for r in ROWS)


def test_a_fraction_of_an_epoch_is_rounded_up_to_whole_steps(monkeypatch, tmp_path):
    assert len(batches_of(monkeypatch, tmp_path, 1, "a", epochs=0.5)) == 2


def test_rows_may_differ_from_epoch_to_epoch_and_an_epoch_that_runs_out_still_ends_the_run(tmp_path):
    asked = []

    def rows(epoch):
        asked.append(epoch)
        return ROWS if epoch == 0 else ROWS[:4]

    trained = train(tiny_llama(), rows, recipe(), 1, tmp_path, validation=ROWS[:1])
    assert asked[0] == 0 and set(asked) == {0, 1} and trained.steps == 6
    assert [r["step"] for r in rows_of(tmp_path / "training.jsonl")] == [1, 2, 3, 4]  # steps 5 and 6 had nothing left to learn
    assert [r["step"] for r in rows_of(tmp_path / "curves.jsonl")] == [0, 3, 6]
    assert train(tiny_llama(), rows, recipe(), 1, tmp_path, validation=ROWS[:1]).resumed_at == 6


def test_learning_rate_factor_is_as_worked_by_hand():
    def factors(total, **changes):
        return [learning_rate_factor(step, total, recipe(**changes)) for step in range(total)]

    # 10 steps, 2 of warm-up: 1/2, 2/2; then eighths of the way down, the last step with one eighth left
    assert factors(10, schedule="linear", warmup_ratio=0.2) == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    cosine = factors(10, schedule="cosine", warmup_ratio=0.2)
    assert cosine[:3] == pytest.approx([0.5, 1, 1])
    assert cosine[6] == pytest.approx(0.5)  # half-way
    assert cosine[9] == pytest.approx(0.5 * (1 - math.cos(math.pi / 8))) and cosine[9] > 0
    assert factors(3, schedule="constant", warmup_ratio=0.0) == [1, 1, 1]
    assert factors(4, schedule="cosine", warmup_ratio=1.0) == [0.25, 0.5, 0.75, 1]
    assert factors(1, schedule="cosine", warmup_ratio=0.05) == [1]


# ---- evaluation along the way ----


def test_the_evaluation_at_step_0_of_a_lora_is_the_nll_of_the_base(tmp_path):
    base = tiny_llama()
    expected = {r.id: plain_mean_nll(base, [r]).item() * r.n_supervised for r in ROWS[:3]}
    train(lora(dropout=0.5), ROWS, recipe(method="lora"), 0, tmp_path, validation=ROWS[:2], probe=ROWS[2:3])
    curves = rows_of(tmp_path / "curves.jsonl")
    assert [(r["step"], r["set"], r["document"]) for r in curves] == [
        (step, name, document)
        for step in (0, 3, 6)
        for name, document in (("validation", "d0"), ("validation", "d1"), ("probe", "d2"))
    ]
    for r in curves[:3]:
        assert r["nll_nats"] == pytest.approx(expected[r["document"]], rel=1e-6)
    assert curves[3]["nll_nats"] != curves[0]["nll_nats"]


def test_evaluation_keeps_dropout_out_and_puts_the_mode_back():
    model = lora(dropout=0.5).train()
    first, second = evaluate_rows(model, ROWS, True), evaluate_rows(model, ROWS, True)
    assert first == second and model.training
    assert [r["n_tokens"] for r in first] == [length - 1 for length in LENGTHS]


# ---- what stops it ----


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_leaves_no_checkpoint(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[3] = math.inf
    with pytest.raises(ModelError, match=r"At step 1 of 6 the loss is (nan|inf); lower training.learning_rate") as caught:
        train(model, ROWS, recipe(), 0, tmp_path)
    assert caught.value.code == "training/non-finite"
    assert [r["step"] for r in rows_of(tmp_path / "training.jsonl")] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["training.jsonl"]


def test_a_run_that_diverges_is_stopped_at_the_first_loss_that_is_not_finite(tmp_path):
    with pytest.raises(ModelError, match=r"At step 2 of 6 the"):
        train(tiny_llama(), ROWS, recipe(learning_rate=1e38, schedule="constant", warmup_ratio=0.0), 0, tmp_path)
    trace = rows_of(tmp_path / "training.jsonl")
    assert len(trace) == 2 and None in (trace[1]["loss_nats"], trace[1]["gradient_norm"])


def test_weights_that_break_in_the_last_step_are_noticed_by_its_evaluation(tmp_path):
    with pytest.raises(ModelError, match=r"After step 1 of 1 the NLL of validation document d0 is (nan|inf)"):
        train(
            tiny_llama(),
            ROWS,
            recipe(learning_rate=1e38, batch_size=10, epochs=0.5, warmup_ratio=0.0),
            0,
            tmp_path,
            validation=ROWS[:1],
        )
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_with_nothing_to_train_is_refused_before_any_step(tmp_path):
    with pytest.raises(ModelError, match="No parameter of the model requires a gradient"):
        train(tiny_llama().requires_grad_(False), ROWS, recipe(), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_without_a_token_to_learn_are_refused_before_any_step(tmp_path):
    with pytest.raises(DataError, match="None of the 2 training rows has a token to learn"):
        train(tiny_llama(), [row("a", 1), row("b", 1)], recipe(), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- resuming ----


class KilledError(Exception):
    pass


class KilledAfter:
    """A progress that dies when step `k` reports: after the step, before its checkpoint."""

    def __init__(self, k):
        self.k, self.steps, self.said = k, 0, []

    def start(self, label, total, unit):
        self.steps = 0

    def advance(self, amount, note=""):
        self.steps += amount
        if self.steps == self.k:
            raise KilledError

    def say(self, sentence):
        self.said.append(sentence)


KINDS = {
    "lora, dropout, adamw": (lambda: lora(dropout=0.3), {"method": "lora", "weight_decay": 0.1}),
    "full, adamw": (lambda: tiny_llama(), {}),
    "full, muon": (lambda: tiny_mistral(), {"optimizer": "muon", "learning_rate": 1e-2}),
    "full, adamw with 8-bit state": (lambda: tiny_llama(intermediate_size=256), {"optimizer": "adamw8bit"}),
    "full, muon, tied, the model's own dropout": (lambda: tiny_gpt2(), {"optimizer": "muon"}),
}


def without_seconds(path):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in rows_of(path)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_a_run_killed_in_any_step_and_run_again_ends_in_the_same_bytes(tmp_path, kind, k):
    build, changes = KINDS[kind]
    if "8-bit" in kind:
        pytest.importorskip("bitsandbytes", reason="galvan[qlora] is not installed")
    settings = recipe(checkpoint_seconds=0.0, **changes)
    undisturbed = build()
    train(undisturbed, ROWS, settings, 7, tmp_path / "whole", ROWS[:2], ROWS[2:4])
    with pytest.raises(KilledError):
        train(build(), ROWS, settings, 7, tmp_path / "killed", ROWS[:2], ROWS[2:4], progress=KilledAfter(k))
    torch.manual_seed(999)  # another process would not have this one's random state
    resumed, progress = build(), KilledAfter(-1)
    trained = train(resumed, ROWS, settings, 7, tmp_path / "killed", ROWS[:2], ROWS[2:4], progress=progress)
    assert trained.resumed_at == k - 1 and trained.steps == 6
    said = [sentence for sentence in progress.said if not sentence.startswith("Passes go through transformers' own")]
    assert said == ([f"Training goes on at step {k - 1} of 6, from the checkpoint."] if k > 1 else [])
    assert weights(resumed) == weights(undisturbed)
    for name in ("training.jsonl", "curves.jsonl"):
        assert without_seconds(tmp_path / "killed" / name) == without_seconds(tmp_path / "whole" / name)


@pytest.mark.slow
@pytest.mark.parametrize("k", sorted(np.random.default_rng(20).choice(np.arange(2, 150), 20, replace=False).tolist()))
def test_a_run_killed_at_any_of_twenty_random_steps_ends_in_the_same_bytes(tmp_path, k):
    settings = recipe(method="lora", checkpoint_seconds=0.0, epochs=50.0, evaluations=10)
    undisturbed, resumed = lora(dropout=0.3), lora(dropout=0.3)
    train(undisturbed, ROWS, settings, 7, tmp_path / "whole", ROWS[:2])
    with pytest.raises(KilledError):
        train(lora(dropout=0.3), ROWS, settings, 7, tmp_path / "killed", ROWS[:2], progress=KilledAfter(k))
    torch.manual_seed(k)
    assert train(resumed, ROWS, settings, 7, tmp_path / "killed", ROWS[:2]).resumed_at == k - 1
    assert weights(resumed) == weights(undisturbed)
    for name in ("training.jsonl", "curves.jsonl"):
        assert without_seconds(tmp_path / "killed" / name) == without_seconds(tmp_path / "whole" / name)


def test_a_run_killed_twice_ends_in_the_same_bytes(tmp_path):
    settings, whole, last = recipe(checkpoint_seconds=0.0), tiny_llama(), tiny_llama()
    train(whole, ROWS, settings, 7, tmp_path / "whole")
    for k in (3, 5):
        with pytest.raises(KilledError):
            train(tiny_llama(), ROWS, settings, 7, tmp_path / "killed", progress=KilledAfter(k))
    assert train(last, ROWS, settings, 7, tmp_path / "killed").resumed_at == 4
    assert weights(last) == weights(whole)


def test_a_finished_run_is_restored_without_a_step(tmp_path):
    first, second = tiny_llama(), tiny_llama()
    done = train(first, ROWS, recipe(), 7, tmp_path)
    again = train(second, ROWS, recipe(), 7, tmp_path)
    assert (again.resumed_at, again.tokens) == (6, done.tokens)
    assert weights(second) == weights(first)


@pytest.mark.parametrize(
    "other", [{"identity": "b"}, {"seed": 8}, {"settings": recipe(learning_rate=2e-3)}, {"settings": recipe(epochs=3.0)}],
    ids=["identity", "seed", "learning rate", "epochs"],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_not_taken(tmp_path, other):
    arguments = {"settings": recipe(), "seed": 7, "identity": "a"}
    train(tiny_llama(), ROWS, folder=tmp_path, **arguments)
    there, clean = tiny_llama(), tiny_llama()
    assert train(there, ROWS, folder=tmp_path, **(arguments | other)).resumed_at == 0
    train(clean, ROWS, folder=tmp_path / "clean", **(arguments | other))
    assert weights(there) == weights(clean)


def test_another_run_s_checkpoint_is_named_as_such(tmp_path):
    train(tiny_llama(), ROWS, recipe(), 7, tmp_path)
    progress = KilledAfter(-1)
    train(tiny_llama(), ROWS, recipe(), 8, tmp_path, progress=progress)
    assert "The checkpoint of step 6 belongs to another recipe, text, base or version of a package and is not taken [checkpoint/other-run]." in progress.said  # fmt: skip


@pytest.mark.parametrize("name", ["training.jsonl", "curves.jsonl"])
def test_a_checkpoint_whose_trace_was_lost_or_changed_is_not_taken(tmp_path, name):
    whole, again = tiny_llama(), tiny_llama()
    train(whole, ROWS, recipe(), 7, tmp_path, ROWS[:2], ROWS[2:4])
    path = tmp_path / name
    for content in (path.read_bytes().replace(b"7", b"8", 1), None):
        path.unlink() if content is None else path.write_bytes(content)
        assert train(again, ROWS, recipe(), 7, tmp_path, ROWS[:2], ROWS[2:4]).resumed_at == 0
        assert weights(again) == weights(whole)
        again = tiny_llama()


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 64], ids=["half", "empty", "garbage"]
)
def test_a_damaged_checkpoint_is_not_taken(tmp_path, damage):
    whole, again = tiny_llama(), tiny_llama()
    train(whole, ROWS, recipe(), 7, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    assert train(again, ROWS, recipe(), 7, tmp_path).resumed_at == 0
    assert weights(again) == weights(whole)


def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_taken_and_said(tmp_path):
    whole, again, progress = tiny_llama(), tiny_llama(), KilledAfter(-1)
    train(whole, ROWS, recipe(checkpoint_seconds=0.0, checkpoints=3), 7, tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert kept == [f"step-{step:08d}.safetensors" for step in (4, 5, 6)]
    damaged = bytearray((tmp_path / kept[-1]).read_bytes())
    damaged[-1] ^= 1  # still a whole safetensors file: only the checksum sees it
    (tmp_path / kept[-1]).write_bytes(damaged)
    (tmp_path / kept[1]).unlink()
    assert train(again, ROWS, recipe(checkpoint_seconds=0.0, checkpoints=3), 7, tmp_path, progress=progress).resumed_at == 4
    assert weights(again) == weights(whole)
    assert progress.said == [
        "The checkpoint of step 6 is damaged (its checksum does not hold) and is not taken [checkpoint/damaged].",
        "The checkpoint of step 5 is damaged (its checksum does not hold) and is not taken [checkpoint/damaged].",
        "Training goes on at step 4 of 6, from the checkpoint.",
    ]


# ---- Muon ----


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (48, 40)])
def test_muon_pushes_every_singular_value_towards_one_and_keeps_the_singular_vectors(shape):
    generator = torch.Generator().manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
    spectrum = torch.linspace(1, 0.02, min(shape))
    turned = u.T @ orthogonalized((u * spectrum) @ vt) @ vt.T
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-4)
    assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.3


def test_a_muon_update_has_the_size_of_an_adamw_update():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(24, 96))
    weight.grad = torch.randn(24, 96)
    Muon([weight], lr=0.01).step()
    assert 0.14 < weight.detach().square().mean().sqrt().item() / 0.01 < 0.26  # 0.2, the usual root mean square of AdamW's


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_muon_takes_the_inner_matrices_and_adamw_embeddings_positions_head_and_vectors(build):
    model = build()
    parameters = dict(model.named_parameters())
    adamw, muon = build_optimizers(model, parameters, recipe(optimizer="muon"))
    taken = {id(p) for p in muon.param_groups[0]["params"]}
    names = {name for name, p in parameters.items() if id(p) in taken}
    assert names == {name for name in parameters if ("layers." in name or ".h." in name) and parameters[name].ndim == 2}
    assert len(names) + len(adamw.param_groups[0]["params"]) == len(parameters)


# ---- beside others ----


def test_a_trained_lora_saved_loads_in_plain_peft_with_equal_logits(tmp_path):
    model = lora(dropout=0.1)
    train(model, ROWS, recipe(method="lora", learning_rate=1e-2), 0, tmp_path / "work")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.from_numpy(ROWS[1].input_ids)[None]
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
        assert not torch.allclose(loaded(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits, atol=1e-2)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_losses_of_a_run_are_those_of_trl_on_the_same_rows_in_the_same_order(tmp_path, method):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    # The loop's order of five epochs is written out as one epoch of TRL, which takes its rows as they come. Eight rows in fours:
    # a partial batch in the middle would shift TRL's. No decay in the full run: TRL leaves norms out of it.
    rows = ROWS[:8]
    build, decay = (tiny_llama, 0.0) if method == "full" else (lora, 0.1)
    settings = recipe(method=method, epochs=5.0, learning_rate=5e-3, schedule="constant", warmup_ratio=0.0, weight_decay=decay)
    train(build(), rows, settings, 11, tmp_path / "ours")
    order = [i for epoch in range(5) for i in np.random.default_rng([11, epoch]).permutation(len(rows))]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=1, gradient_accumulation_steps=4, num_train_epochs=1, learning_rate=5e-3,
        lr_scheduler_type="constant", weight_decay=decay, max_grad_norm=1.0, logging_steps=1, train_sampling_strategy="sequential", use_cpu=True,
        bf16=False, gradient_checkpointing=False, max_length=None, report_to=[], save_strategy="no", disable_tqdm=True, seed=11,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"input_ids": rows[i].input_ids.tolist()} for i in order])
    trainer = trl.SFTTrainer(model=build(), args=arguments, train_dataset=data, processing_class=byte_tokenizer())
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    ours = rows_of(tmp_path / "ours/training.jsonl")
    assert len(ours) == len(theirs) == 10
    assert [o["loss_nats"] for o in ours] == pytest.approx([t["loss"] for t in theirs], abs=1e-5)
    assert [o["gradient_norm"] for o in ours] == pytest.approx([t["grad_norm"] for t in theirs], rel=1e-4)


def test_a_target_that_matches_nothing_is_answered_with_the_layers_there_are_conv1d_too():
    with pytest.raises(ModelError, match=r"`q_proj` matches no linear layer of tiny; it has c_attn, c_fc, c_proj\.$"):
        add_lora(tiny_gpt2(), Lora(targets=["q_proj"]), "tiny", None, 0)


# ---- the stage around it ----


def story(tmp_path, *settings):
    """The story of a run on a tiny base, its documents prepared."""
    save_base(tmp_path / "base", tiny_llama())
    texts = [f"Letter {i}. The wind rose again in the night, and {i * 7} boats did not come home." for i in range(30)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chosen = [f"model.base={tmp_path / 'base'}", f"data.source={tmp_path / 'texts.jsonl'}", "training.epochs=1.0", *settings]
    told = Story.begin(from_text("", "test", chosen), tmp_path / "run", None, True)
    told.prepare()
    return told


def test_a_run_that_diverges_leaves_nothing_under_a_final_name(tmp_path):
    with pytest.raises(ModelError, match="lower training"):
        story(tmp_path, "training.learning_rate=1e38", "training.warmup_ratio=0.0", "training.batch_size=4").train()
    left = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*")}
    assert not left & {
        "adapter",
        "training.jsonl",
        "curves.jsonl",
        "training.json",
        "stages/train.json",
    }
    assert not list((tmp_path / "run").rglob("step-*"))


def test_saving_an_adapter_asks_nobody_about_its_base(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(peft.utils.save_and_load, "check_file_exists_on_hf_hub", lambda *a, **k: asked.append(a))
    told = story(tmp_path)
    told.base = dataclasses.replace(told.base, name="someone/something-private")
    told.train()
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file() and not asked
    assert (
        json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"]
        == "someone/something-private"
    )


# ---- stopping and memory ----


class TermAfter(KilledAfter):
    """A progress at whose step `k` a SIGTERM arrives."""

    def advance(self, amount, note=""):
        self.steps += amount
        if self.steps == self.k:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_lets_the_step_end_saves_it_and_the_run_goes_on_to_the_same_bytes(tmp_path):
    whole, stopped, resumed = tiny_llama(), tiny_llama(), tiny_llama()
    handler = signal.getsignal(signal.SIGTERM)
    train(whole, ROWS, recipe(), 7, tmp_path / "whole")
    with pytest.raises(Terminated, match="after step 2 of 6") as caught:
        train(stopped, ROWS, recipe(checkpoint_seconds=3600.0), 7, tmp_path / "stopped", progress=TermAfter(2))
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert train(resumed, ROWS, recipe(checkpoint_seconds=3600.0), 7, tmp_path / "stopped").resumed_at == 2
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize(
    ("device", "unpadded", "tokens"), [("cpu", True, 1024), ("cpu", False, 2048), ("cuda", True, 8192), ("cuda", False, 8192)]
)
def test_passes_are_larger_on_a_gpu(device, unpadded, tokens):
    assert step_gradients.usual_tokens_per_pass(torch.device(device), unpadded) == tokens


def memory_for(monkeypatch, tokens):
    """From now on a pass of more than `tokens` positions does not fit."""
    sum_nll = step_gradients.sum_nll

    def limited(model, input_ids, *rest):
        if input_ids.numel() > tokens and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum_nll(model, input_ids, *rest)

    monkeypatch.setattr(step_gradients, "sum_nll", limited)


@pytest.mark.parametrize("unpadded", [True, False])
def test_out_of_memory_makes_passes_smaller_and_changes_no_step(tmp_path, monkeypatch, unpadded):
    monkeypatch.setattr(loop, "supports_unpadded", lambda *a, **k: unpadded)
    asked, said = recipe(batch_size=5, accumulation=1), KilledAfter(-1)
    train(tiny_llama(), ROWS, asked, 7, tmp_path / "roomy")
    memory_for(monkeypatch, 64)
    train(tiny_llama(), ROWS, asked, 7, tmp_path / "tight", progress=said)
    tight, roomy = (rows_of(tmp_path / name / "training.jsonl") for name in ("tight", "roomy"))
    assert [row["loss_nats"] for row in tight] == pytest.approx([row["loss_nats"] for row in roomy], rel=1e-5)
    assert [row["gradient_norm"] for row in tight] == pytest.approx([row["gradient_norm"] for row in roomy], rel=1e-4)
    assert tight[-1]["tokens_per_pass"] <= 64 < roomy[-1]["tokens_per_pass"]
    assert any("passes of" in sentence for sentence in said.said)


def test_a_document_that_does_not_fit_alone_is_refused_with_what_would(tmp_path, monkeypatch):
    memory_for(monkeypatch, max(LENGTHS) - 1)
    with pytest.raises(ResourceError, match=f"document of {max(LENGTHS)} tokens.*gradient_checkpointing") as caught:
        train(tiny_llama(), ROWS, recipe(), 7, tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("memory/step", 5)


def test_an_error_that_is_not_about_memory_is_not_tried_again(tmp_path, monkeypatch):
    def broken(*a):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "batch_gradient", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train(tiny_llama(), ROWS, recipe(), 7, tmp_path)
