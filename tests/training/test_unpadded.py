"""Documents end to end without padding: the same likelihoods and gradients as one at a time, or the path is not taken."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from families import FAMILIES, LENGTHS, SMALL, adapted, large, rows_for
from galvan import llama, unpadded
from galvan.likelihood import supports_chunks, token_nll
from galvan.progress import Silent
from galvan.training import loop
from galvan.training.gradients import batch_gradient, evaluate_rows
from galvan.training.packing import collate_packs
from galvan.training.passes import plan_unpadded
from galvan.unpadded import NAME, documents_apart, fallback, supports_unpadded, why_not_own
from models_for_tests import tiny_llama, tiny_mistral, wrap


def gradients(model, rows, unpadded):
    model.zero_grad()
    loss = batch_gradient(model, rows, 1, supports_chunks(model), unpadded=unpadded)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_and_adapter_gradients_equal_those_of_one_row_at_a_time(family):
    model = adapted(large(FAMILIES[family]()))
    rows = rows_for(model)
    assert supports_unpadded(model, supports_chunks(model))
    assert why_not_own(model) == ("its architecture is gpt2" if family == "gpt2" else None)
    loss, expected = gradients(model, rows, unpadded=False)
    flat_loss, found = gradients(model, rows, unpadded=True)
    assert flat_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys() and len(found) >= 4
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    chunked = supports_chunks(model)
    for one, other in zip(evaluate_rows(model, rows, chunked), evaluate_rows(model, rows, chunked, True), strict=True):
        assert one["document"] == other["document"]
        assert one["nll_nats"] == pytest.approx(other["nll_nats"], rel=1e-5)


def test_changing_one_document_moves_no_likelihood_of_another():
    model = large(tiny_mistral(sliding_window=5))
    rows = rows_for(model)
    one = collate_packs([rows], torch.device("cpu"))
    changed = one.input_ids.clone()
    start, length = sum(LENGTHS[:1]), LENGTHS[1]
    changed[0, start : start + length] = (changed[0, start : start + length] + 1) % model.config.vocab_size
    with documents_apart(model, LENGTHS):
        before, after = (token_nll(model, ids, True, one.position_ids)[0] for ids in (one.input_ids, changed))
    moved = (before != after).nonzero().flatten().tolist()
    assert moved and all(start - 1 <= at < start + length for at in moved)


def test_the_attention_is_the_models_own_again_afterwards_even_after_an_error():
    model = large(tiny_llama())
    before = model.config._attn_implementation
    with pytest.raises(KeyError), documents_apart(model, [3]):
        assert model.config._attn_implementation == NAME
        raise KeyError
    assert model.config._attn_implementation == before


def test_an_architecture_with_its_own_arithmetic_in_attention_falls_back():
    soft_capped = large(
        Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, attn_logit_softcapping=2.0, final_logit_softcapping=None))
    )
    assert not supports_unpadded(soft_capped, supports_chunks(soft_capped))


def test_a_wrong_rope_base_falls_back_to_transformers(monkeypatch):
    model = adapted(large(tiny_llama()))
    assert supports_unpadded(model, True) and why_not_own(model) is None
    right = llama._angles

    def wrong(decoder, x, position_ids):
        kept = decoder.rotary_emb.inv_freq
        decoder.rotary_emb.inv_freq = kept**1.01
        try:
            return right(decoder, x, position_ids)
        finally:
            decoder.rotary_emb.inv_freq = kept

    monkeypatch.setattr(llama, "_angles", wrong)
    rows = rows_for(model)
    expected = gradients(model, rows, unpadded=False)
    assert supports_unpadded(model, True) and why_not_own(model) == "its numbers differ from transformers'"
    assert "without padding: its numbers differ" in str(fallback(model, True))
    found = gradients(model, rows, unpadded=True)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)


def test_where_neither_way_gives_the_right_numbers_rows_are_padded(monkeypatch):
    model = large(tiny_llama())
    right = llama.attended

    def blind(q, k, v, lengths, *rest):
        return right(q, k, v, [sum(lengths)], *rest)  # all documents see each other

    monkeypatch.setattr(llama, "attended", blind)
    assert not supports_unpadded(model, True)


class Heard(Silent):
    """Progress that keeps what was said."""

    def __init__(self):
        self.sentences = []

    def say(self, sentence):
        self.sentences.append(sentence)


def test_training_on_padded_rows_gives_the_same_losses_where_the_path_is_not_taken(monkeypatch, tmp_path):
    from galvan.recipe import Training
    from galvan.rundir import read_rows

    settings = Training(batch_size=3, accumulation=1, epochs=2.0, warmup_ratio=0.0, evaluations=1)
    losses, said = {}, {}
    for name, answer in (("flat", None), ("padded", False)):
        if answer is not None:
            monkeypatch.setattr(loop, "supports_unpadded", lambda *a, answer=answer, **k: answer)
        model = wrap(large(tiny_llama()))
        heard = Heard()
        loop.train(model, rows_for(model), settings, 1, tmp_path / name, progress=heard)
        said[name] = [sentence for sentence in heard.sentences if sentence.startswith("Passes go through")]
        losses[name] = [row["loss_nats"] for row in read_rows(tmp_path / name / "training.jsonl")]
    assert losses["flat"] == pytest.approx(losses["padded"], rel=1e-5)
    assert said["flat"] == [] and len(said["padded"]) == 1 and "on padded rows" in said["padded"][0]


def test_passes_keep_the_order_and_the_limit():
    rows = rows_for(tiny_llama(), [5, 5, 30, 1, 1, 9])
    passes = plan_unpadded(rows, 10)
    assert [[len(r.input_ids) for r in one] for one in passes] == [[5, 5], [30], [1, 1], [9]]
    assert [r.id for one in passes for r in one] == [r.id for r in rows]


def deep_in_half_precision():
    return adapted(large(tiny_mistral(num_hidden_layers=24, sliding_window=5)).to(torch.bfloat16))


def test_a_deep_model_in_half_precision_is_proved_layer_by_layer_where_rounding_adds_up():
    model = deep_in_half_precision()
    before = list(model.get_base_model().model.layers), model.config.num_hidden_layers
    assert not unpadded._equal(model, True, True, unpadded._own_way, unpadded.IN_HALF_PRECISION)
    assert supports_unpadded(model, True) and why_not_own(model) is None
    assert before == (list(model.get_base_model().model.layers), model.config.num_hidden_layers)


def test_one_layer_that_goes_wrong_among_many_is_found_in_half_precision(monkeypatch):
    model, right = deep_in_half_precision(), llama._window
    last = model.get_base_model().model.layers[-1].self_attn
    monkeypatch.setattr(llama, "_window", lambda module: 9 if module is last else right(module))
    assert supports_unpadded(model, True)  # through transformers' own layers
    assert why_not_own(model) == "its numbers differ from transformers'"
