"""What only a GPU shows: half precision; documents in one call of FlashAttention. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from families import FAMILIES, LENGTHS, adapted, large, rows_for
from galvan import llama, models
from galvan.likelihood import supports_chunks
from galvan.recipe import Model, Training
from galvan.rundir import read_rows
from galvan.training.gradients import TOKENS_PER_GPU_PASS, batch_gradient, evaluate_rows
from galvan.training.loop import train
from galvan.unpadded import supports_unpadded, why_not_own

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
OWN = [name for name in FAMILIES if name != "gpt2"]


def on_gpu(family: str, dtype: torch.dtype = torch.bfloat16):
    return adapted(large(FAMILIES[family]()).to(dtype)).to("cuda")


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 2)])
def test_one_call_for_all_documents_gives_what_each_gives_alone_in_float32(heads, kv_heads, window):
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(sum(LENGTHS), n, 64, device="cuda", dtype=torch.bfloat16, generator=generator).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    )
    upstream = torch.randn(q.shape, device="cuda", generator=generator)
    assert llama._flash_takes(q)
    found = llama.attended(q, k, v, LENGTHS, window, 0.0, 0.2)
    gradients = torch.autograd.grad((found.float() * upstream).sum(), (q, k, v))
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    assert not llama._flash_takes(exact[0])
    expected = llama.attended(*exact, LENGTHS, window, 0.0, 0.2)
    right = torch.autograd.grad((expected * upstream).sum(), exact)
    for name, one, other in zip(("out", "q", "k", "v"), (found, *gradients), (expected, *right), strict=True):
        assert (one.float() - other).norm() <= 1e-2 * other.norm(), name


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_our_forward_pass_is_proved_and_taken_there(family, dtype):
    model = on_gpu(family, dtype)
    assert supports_unpadded(model, supports_chunks(model))
    assert why_not_own(model) is None


@pytest.mark.parametrize("family", OWN)
def test_likelihoods_and_gradients_in_bfloat16_are_near_those_of_the_same_weights_in_float32(family):
    half, exact = on_gpu(family), on_gpu(family, torch.float32)
    exact.load_state_dict(half.state_dict())
    rows, found = rows_for(half), []
    for model in (half, exact):
        assert supports_unpadded(model, True)
        loss = batch_gradient(model, rows, 1, True, unpadded=True)
        gradients = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
        found.append((loss, gradients, [row["nll_nats"] for row in evaluate_rows(model, rows, True, True)]))
    (loss, gradients, nlls), (right, expected, exactly) = found
    assert loss == pytest.approx(right, rel=0.03)
    assert torch.cosine_similarity(gradients, expected, dim=0) > 0.97
    assert sum(nlls) == pytest.approx(sum(exactly), rel=0.03)


def test_a_base_is_loaded_onto_the_gpu_whole_and_in_bfloat16():
    base = models.load_base(models.locate("galvan/spark"), Model())
    assert {(p.device.type, p.dtype) for p in base.parameters()} == {("cuda", torch.bfloat16)}
    assert not hasattr(base, "hf_device_map") and llama.refusal(base.get_decoder()) is None


def test_training_there_takes_larger_passes_and_learns(tmp_path: Path):
    model = on_gpu("mistral")
    settings = Training(batch_size=4, learning_rate=1e-2, epochs=8.0, evaluations=1)
    train(model, rows_for(model), settings, 7, tmp_path)
    trace = list(read_rows(tmp_path / "training.jsonl"))
    assert {row["tokens_per_pass"] for row in trace} == {TOKENS_PER_GPU_PASS}
    assert trace[-1]["loss_nats"] < 0.9 * trace[0]["loss_nats"]
