"""Packed documents do not see each other, and packing changes no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.data.tokens import IGNORE, TokenRow
from galvan.errors import ModelError
from galvan.likelihood import sum_nll
from galvan.recipe import Training
from galvan.training.gradients import batch_gradient
from galvan.training.live_checks import TARGET_TOLERANCE, TOLERANCE, loss_error, padding_error, require_true_loss, target_error
from galvan.training.loop import train
from galvan.training.packing import (
    Pass,
    collate_packs,
    contamination,
    plan_packed_passes,
    plan_packs,
    require_reset,
    resets_attention,
    seams_learned,
)
from models_for_tests import tiny_gpt2, tiny_llama, tiny_mistral

CPU = torch.device("cpu")
MODELS = {
    "llama": tiny_llama, "mistral": tiny_mistral, "gpt2": tiny_gpt2, "sliding window": lambda: tiny_mistral(sliding_window=4),
    "eager": lambda: tiny_llama(attn_implementation="eager"),
}  # fmt: skip


def row(length, seed=0, masked=1):
    ids = np.random.default_rng([length, seed]).integers(0, 256, length)
    labels = ids.copy()
    labels[:masked] = IGNORE
    return TokenRow(f"{length}-{seed}", ids, labels)


UNEVEN = [row(n, masked=m) for n, m in ((40, 1), (7, 3), (3, 1), (19, 12), (22, 1), (2, 1), (11, 1))]


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), budget=st.integers(16, 200))
@settings(max_examples=100, deadline=None)
def test_packs_hold_every_row_once_and_fit(lengths, budget):
    rows = [row(n, i) for i, n in enumerate(lengths)]
    passes = plan_packed_passes(rows, budget)
    packs = [pack for one in passes for pack in one]
    assert sorted(r.id for pack in packs for r in pack) == sorted(r.id for r in rows)
    assert all(sum(len(r.input_ids) for r in pack) <= max(lengths) for pack in packs)
    assert all(len(one) * max(lengths) <= max(budget, max(lengths)) for one in passes)


def test_a_pack_worked_by_hand():
    ids = [np.arange(10, 13), np.arange(20, 22), np.arange(30, 31)]
    rows = [TokenRow(str(n), i, i.copy()) for n, i in enumerate(ids)]
    assert [[r.id for r in pack] for pack in plan_packs(rows, 5)] == [["0", "1"], ["2"]]
    one = collate_packs([[rows[0], rows[1]], [rows[2]]], CPU)
    assert one.input_ids.tolist() == [[10, 11, 12, 20, 21], [30, 0, 0, 0, 0]]
    assert one.labels.tolist() == [[-100, 11, 12, -100, 21], [-100] * 5]  # the first token of a document is never a target
    assert one.position_ids is not None and one.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize("name", MODELS)
def test_e08_perturbing_one_document_moves_no_logit_of_the_others(name):
    model = MODELS[name]()
    assert contamination(model, 256) == 0.0 and resets_attention(model)
    packed = collate_packs([[row(9), row(6), row(5)]], CPU)
    other = collate_packs([[row(9), row(6, seed=1), row(5)]], CPU)
    with torch.no_grad():
        a, b = (model(input_ids=one.input_ids, position_ids=one.position_ids, use_cache=False).logits[0] for one in (packed, other))
    assert torch.equal(a[:9], b[:9]) and torch.equal(a[15:], b[15:]) and not torch.allclose(a[9:15], b[9:15])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunked", [True, False])
def test_the_gradient_of_packed_uneven_rows_is_that_of_the_plain_batch(name, chunked):
    model = MODELS[name]()
    found = []
    for packed in (False, True):
        model.zero_grad()
        loss = batch_gradient(model, UNEVEN, 1, chunked, packed)
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert float((found[0][1] - found[1][1]).abs().max()) < 1e-6


class Leaky(torch.nn.Module):
    """A model that forgets positions, as an architecture does that keeps a state along the row."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_llama()

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, position_ids=None, **more):
        return self.inner(input_ids=input_ids, **more)


def test_e08_a_model_whose_documents_see_each_other_is_not_packed():
    assert contamination(Leaky(), 256) > 1e-3
    with pytest.raises(ModelError, match="a packed document changes the next one's logits") as caught:
        require_reset(Leaky())
    assert caught.value.code == "E08"


def test_e09_a_label_at_a_seam_is_seen_and_ours_has_none():
    one = collate_packs([[TokenRow("a", r.input_ids, r.input_ids) for r in UNEVEN[1:4]]], CPU)
    assert seams_learned(one) == 0
    assert seams_learned(Pass(one.input_ids, one.input_ids, one.position_ids)) == 3


def test_packed_and_plain_training_end_in_the_same_weights(tmp_path):
    weights = []
    for packing in (False, True):
        model = tiny_llama()
        train(model, UNEVEN, Training(epochs=2, batch_size=4, evaluations=1, packing=packing), 3, tmp_path / str(packing))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert float((weights[0] - weights[1]).abs().max()) < 1e-5


def test_e11_labels_shifted_twice_are_seen_and_our_loss_is_the_definition():
    model = tiny_llama()
    assert loss_error(model, row(30), lambda m, ids, labels: sum_nll(m, ids, labels, True)) < 1e-5

    def twice(m, ids, labels):
        logits = m(input_ids=ids).logits[0, :-2]
        return torch.nn.functional.cross_entropy(logits, labels[0, 2:], reduction="sum")

    assert loss_error(model, row(30), twice) > TOLERANCE
    even = min((row(30, seed) for seed in range(20)), key=lambda r: loss_error(model, r, twice))
    assert loss_error(model, even, twice) < TOLERANCE  # chance makes the sums alike; the targets are not
    assert target_error(model, even, twice) > TARGET_TOLERANCE
    assert target_error(model, even, lambda m, ids, labels: sum_nll(m, ids, labels, True)) < 1e-4
    require_true_loss(model, row(60, masked=40), lambda m, ids, labels: sum_nll(m, ids, labels, True))


def test_e13_a_model_that_looks_at_its_padding_is_refused():
    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_llama()

        def forward(self, **given):
            out = self.inner(**given)
            out.logits = out.logits + out.logits.mean(dim=1, keepdim=True)
            return out

    assert padding_error(tiny_llama(), row(20)) < 1e-5
    assert padding_error(Looking(), row(20)) > TOLERANCE
