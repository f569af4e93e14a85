"""The chunked likelihoods against the plain ones, in value and in gradient, and which models may use them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from galvan import likelihood
from galvan.likelihood import IGNORE, _ChunkedNLL, logits_of, plain_token_nll, sum_nll, supports_chunks, token_nll
from models_for_tests import _SHAPE, tiny_gpt2, tiny_llama, tiny_mistral, wrap

MODELS = {
    "llama": lambda: tiny_llama(),
    "tied llama": lambda: tiny_llama(tie_word_embeddings=True),
    "mistral": lambda: tiny_mistral(),
    "gpt2": lambda: tiny_gpt2(),
}


@pytest.fixture(autouse=True)
def three_rows_a_chunk(monkeypatch):
    """Every test crosses borders of chunks, and ends in a chunk that is not full."""
    monkeypatch.setattr(likelihood, "CHUNK_ROWS", 3)


def some_ids(rows=2, length=9, seed=3):
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", MODELS)
def test_chunked_likelihoods_equal_those_of_plain_logits(name):
    model = MODELS[name]()
    ids = some_ids()
    with torch.no_grad():
        log_probabilities = model(input_ids=ids).logits[:, :-1].double().log_softmax(-1)
        expected = -log_probabilities.gather(2, ids[:, 1:, None])[..., 0]
    for chunked in (True, False):
        assert torch.allclose(token_nll(model, ids, chunked).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_chunked_gradients_of_every_weight_equal_those_of_autograd(name):
    model = MODELS[name]()
    ids, labels = some_ids(), some_ids()
    labels[0, :4] = IGNORE
    labels[1, 7:] = IGNORE
    gradients = []
    for chunked in (True, False):
        model.zero_grad()
        (sum_nll(model, ids, labels, chunked) / 7).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        assert relative(mine, theirs) < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 20])
def test_chunked_gradients_of_hidden_and_weight_equal_those_of_autograd_in_double(rows):
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(rows, 8), torch.randn(20, 8), torch.randint(0, 20, (rows,))
    mine = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    theirs = hidden.double().requires_grad_(), weight.double().requires_grad_()
    value = _ChunkedNLL.apply(*mine, targets)
    expected = F.cross_entropy(theirs[0] @ theirs[1].T, targets, reduction="sum")
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (0.3 * value).backward()
    (0.3 * expected).backward()
    for a, b in zip(mine, theirs, strict=True):
        assert relative(a.grad.double(), b.grad) < 1e-5


def test_no_gradient_is_formed_where_none_is_wanted(monkeypatch):
    model, formed = tiny_llama(), []
    zeros_like = torch.zeros_like
    monkeypatch.setattr(likelihood.torch, "zeros_like", lambda *a, **k: formed.append(a) or zeros_like(*a, **k))
    with torch.no_grad():
        sum_nll(model, some_ids(), some_ids(), chunked=True)
    assert not formed
    sum_nll(model, some_ids(), some_ids(), chunked=True)
    assert len(formed) == 1


def test_a_frozen_head_gets_no_gradient_and_the_adapter_gets_the_right_one():
    model = wrap(tiny_llama())
    gradients = []
    for chunked in (True, False):
        model.zero_grad()
        sum_nll(model, some_ids(), some_ids(), chunked).backward()
        assert model.get_base_model().lm_head.weight.grad is None
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert relative(*gradients) < 1e-5


def test_no_supervised_token_is_a_loss_of_zero():
    model = tiny_llama()
    nothing = torch.full((1, 5), IGNORE)
    for chunked in (True, False):
        loss = sum_nll(model, some_ids(1, 5), nothing, chunked)
        loss.backward()
        assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_head_that_is_trained_alone_gets_the_gradient_of_autograd():
    model, gradients = tiny_llama(), []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name == "lm_head.weight"
    for chunked in (True, False):
        model.zero_grad()
        sum_nll(model, some_ids(), some_ids(), chunked).backward()
        gradients.append(model.lm_head.weight.grad.clone())
    assert gradients[1].any() and relative(*gradients) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_plain_heads_support_chunks(name):
    assert supports_chunks(MODELS[name]())
    assert supports_chunks(MODELS[name]().bfloat16())


def test_a_wrapped_model_supports_chunks_unless_its_head_is_adapted():
    assert supports_chunks(wrap(tiny_llama()))
    assert not supports_chunks(wrap(tiny_llama(), target_modules=["q_proj", "lm_head"]))


@pytest.mark.parametrize("error", [NotImplementedError, AttributeError, TypeError])
def test_a_model_that_cannot_be_called_so_does_not_support_chunks(error, monkeypatch):
    model = tiny_llama()

    def refuses(**kwargs):
        raise error("not like this")

    monkeypatch.setattr(model, "forward", refuses)
    assert not supports_chunks(model)


def test_a_head_with_a_bias_does_not_support_chunks():
    model = tiny_llama()
    model.lm_head = nn.Linear(32, 300, bias=True)
    assert not supports_chunks(model)


@pytest.mark.parametrize("initial", [0.2, 0.02, 1e-4])
def test_a_soft_capped_head_does_not_support_chunks_however_small_its_logits_are_now(initial):
    # cap * tanh(x / cap) is x to five digits for the small logits of an untrained model, and is not x after training
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(**{**_SHAPE, "initializer_range": initial, "head_dim": 8, "final_logit_softcapping": 30.0})
    )
    assert not supports_chunks(model)
    assert torch.equal(token_nll(model.eval(), some_ids(), chunked=False), plain_token_nll(model, some_ids()))


@pytest.mark.parametrize("bound", ["min", "max"])
def test_logits_that_are_cut_off_at_one_end_do_not_support_chunks(bound, monkeypatch):
    """At an end that no logit of an untrained model reaches."""
    model = tiny_llama()
    whole, edge = model.forward, {"min": -50, "max": 50}[bound]

    def cut(**kwargs):
        return SimpleNamespace(logits=whole(**kwargs).logits.clamp(**{bound: edge}))

    monkeypatch.setattr(model, "forward", cut)
    ids = some_ids()
    assert torch.allclose(token_nll(model, ids, True), plain_token_nll(model, ids), atol=1e-4) and not supports_chunks(model)


def test_scaled_logits_do_not_support_chunks():
    torch.manual_seed(0)
    assert not supports_chunks(GraniteForCausalLM(GraniteConfig(**_SHAPE, logits_scaling=8.0)))
    assert not supports_chunks(CohereForCausalLM(CohereConfig(**_SHAPE, logit_scale=0.0625)))


def test_logits_come_by_the_way_that_likelihoods_take():
    torch.manual_seed(0)
    scaled, ids = GraniteForCausalLM(GraniteConfig(**_SHAPE, logits_scaling=8.0)).eval(), some_ids()
    with torch.no_grad():
        given = scaled(input_ids=ids).logits
        assert torch.equal(logits_of(scaled, ids, chunked=False), given)
        assert torch.allclose(logits_of(scaled, ids, chunked=True), 8 * given, rtol=1e-4)


@pytest.mark.parametrize("share", [1.01, 1.1])
def test_a_model_that_changes_what_its_decoder_gives_does_not_support_chunks(share, monkeypatch):
    """The head is the last of it, so that only the likelihoods tell: by hundredths of a nat, or by tenths."""
    model = tiny_llama()
    assert supports_chunks(model)

    def changed(**kwargs):
        return SimpleNamespace(logits=model.lm_head(share * model.model(**kwargs).last_hidden_state))

    monkeypatch.setattr(model, "forward", changed)
    ids = some_ids()
    assert 1e-4 < float((token_nll(model, ids, True) - plain_token_nll(model, ids)).abs().max()) < 0.9
    assert likelihood._head_is_last(model, model.lm_head, ids) and not supports_chunks(model)


def test_the_trial_leaves_mode_hooks_and_random_state_as_they_were():
    model = wrap(tiny_llama(), lora_dropout=0.5)
    model.train()
    model.get_base_model().model.layers[0].eval()  # a mixture must come back too
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    before = model(input_ids=some_ids()).logits
    torch.set_rng_state(random)
    assert supports_chunks(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model(input_ids=some_ids()).logits, before)
