"""KL, entropy and agreement against references; the same model twice; a zero adapter; rows judged; passages known by heart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch.nn import functional as F

from galvan.data.neutral import unrelated
from galvan.errors import ComparisonRefused
from galvan.forgetting import band, judge_retention
from galvan.measure.extraction import extract
from galvan.measure.passes import LARGEST_LOGITS, batches
from galvan.measure.retention import divergences, retention, write_retention
from galvan.measure.scoring import score
from galvan.rundir import Document, write_rows
from models_for_tests import TEXTS, byte_tokenizer, move, tiny_gpt2, tiny_llama, wrap

DOCUMENTS = [
    Document(f"d{i}", (text + " ") * (1 + i % 3), "plain", i, "dialogue" if i % 2 else "instructions")
    for i, text in enumerate(TEXTS * 4)
]


def compared(base: Any, tuned: Any, kind: str = "neutral") -> list[Any]:
    return retention(base, tuned, byte_tokenizer(), DOCUMENTS, kind, 200)


def test_divergences_are_those_of_torch_and_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randn(300, 50, generator=generator) * 3 for _ in range(2))
    targets = torch.randint(0, 50, (300,), generator=generator)
    found = divergences(base, tuned, targets)
    log_p, log_q = torch.log_softmax(base.double(), -1), torch.log_softmax(tuned.double(), -1)
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    expected = [
        F.kl_div(log_q, log_p, log_target=True, reduction="sum").item(), entropy(q, p, axis=1).sum(), entropy(p, axis=1).sum(),
        entropy(q, axis=1).sum(), (p.argmax(1) == q.argmax(1)).sum(), F.nll_loss(log_p, targets, reduction="sum").item(),
        F.nll_loss(log_q, targets, reduction="sum").item(),
    ]  # fmt: skip
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert entropy(p, q, axis=1).sum() == pytest.approx(found[0].item(), rel=1e-5)


def test_three_symbols_worked_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL(p||q) = ln 2 / 2 - ln 2 / 4 = ln 2 / 4, the same the other way; H = 3/2 ln 2.
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    expected = np.array([0.25, 0.25, 1.5, 1.5, 0, 1, 2]) * math.log(2)
    assert divergences(p, q, torch.tensor([0])).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_symbol_that_both_models_forbid_adds_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert divergences(logits, logits, torch.tensor([0]))[:2].tolist() == [0.0, 0.0]


def test_the_same_model_twice_has_no_divergence_and_another_one_has() -> None:
    for row in compared(tiny_llama(), tiny_llama()):
        assert abs(row.kl_nats) / row.n_tokens <= 1e-6 and row.agreements == row.n_tokens
    assert all(row.kl_nats / row.n_tokens > 0.01 for row in compared(tiny_llama(), tiny_llama(seed=1)))


def test_a_fresh_adapter_equals_the_base_on_every_row_and_a_moved_one_on_none() -> None:
    for row in compared(tiny_llama(), wrap(tiny_llama())):
        assert row.kl_nats == row.reverse_kl_nats == 0.0
        assert (row.base_nll_nats, row.base_entropy_nats, row.agreements) == (
            row.tuned_nll_nats,
            row.tuned_entropy_nats,
            row.n_tokens,
        )
    assert all(row.kl_nats > 1e-4 for row in compared(tiny_llama(), move(wrap(tiny_llama()), size=0.3)))


def test_likelihoods_are_those_of_scoring_whatever_was_batched_together() -> None:
    model = tiny_llama()
    scores = {row.document: row for row in score(model, byte_tokenizer(), DOCUMENTS, "base", "test", 256)}
    for row in compared(model, tiny_llama(seed=1)):
        assert row.n_tokens == scores[row.document].n_tokens or row.n_tokens == 199  # a longer document is cut to its first tokens
        if row.n_tokens < 199:
            assert row.base_nll_nats == pytest.approx(scores[row.document].nll_nats, rel=1e-5)


def test_batches_hold_every_row_once_and_no_matrix_is_too_large() -> None:
    lengths = [7, 500, 3, 500, 60]
    parts = list(batches(lengths, 50_000))
    assert sorted(i for part in parts for i in part) == [0, 1, 2, 3, 4]
    assert all(len(part) * max(lengths[i] for i in part) * 50_000 <= LARGEST_LOGITS or len(part) == 1 for part in parts)


def test_modes_are_restored() -> None:
    base, tuned = tiny_llama(), tiny_llama(seed=1).train()
    compared(base, tuned)
    assert (base.training, tuned.training) == (False, True)


def test_models_of_unlike_vocabularies_are_refused() -> None:
    with pytest.raises(ComparisonRefused, match="300 and 310"):
        compared(tiny_llama(), tiny_llama(vocab_size=310))


def test_greedy_extraction_is_what_generation_gives_and_the_probability_is_that_of_the_suffix() -> None:
    model, tokenizer = tiny_gpt2(), byte_tokenizer(bos=False)
    prompt = torch.tensor([tokenizer("The storm passed over the lake in ")["input_ids"][:25]])
    with torch.no_grad():
        written = model.generate(prompt, max_new_tokens=25, do_sample=False, pad_token_id=258, eos_token_id=None)[0]
        log_p = torch.log_softmax(model(written[None]).logits[0, :-1].double(), -1)
    known = {"input_ids": written.tolist()}
    spoilt = {"input_ids": [*written.tolist()[:-1], (int(written[-1]) + 1) % 200]}
    from galvan.payload import Tokens

    documents = [
        Document(f"t{n}", "", "s", n, None, Tokens(one["input_ids"], [-100] * 25 + one["input_ids"][25:]))
        for n, one in enumerate((known, spoilt))
    ]
    said, other = extract(model, tokenizer, documents, "tuned", "train")
    assert (said.greedy_match, other.greedy_match, said.prefix_tokens, said.suffix_tokens) == (True, False, 25, 25)
    assert said.suffix_logprob_nats == pytest.approx(float(log_p[24:].gather(1, written[25:, None]).sum()), abs=1e-4)


def test_extraction_gives_fifty_tokens_of_a_long_document_and_passes_over_one_too_short() -> None:
    texts = {"long": "x" * 119, "middle": "x" * 60, "short": "x" * 48}  # BOS is one token more
    rows = extract(tiny_llama(), byte_tokenizer(), [Document(n, t, "s", 0) for n, t in texts.items()], "base", "test")
    assert [(row.document, row.prefix_tokens, row.suffix_tokens) for row in rows] == [("long", 50, 50), ("middle", 25, 25)]


def written(folder: Path, rises: list[float]) -> Path:
    """A retention.parquet whose documents of 200 tokens lose so many nats a token."""
    (model,) = {type(row) for row in compared(tiny_llama(), tiny_llama())[:1]}
    rows = [
        model(f"n{i}", kind, "dialogue", "plain", i, 200, 200 * 0.03, 200 * 0.04, 400.0, 390.0, 180, 600.0, 600.0 + 200 * rise)
        for kind in ("neutral", "author")
        for i, rise in enumerate(rises)
    ]
    write_retention(folder / "retention.parquet", rows)
    return folder


@pytest.mark.parametrize(
    ("mean", "spread", "answer"),
    [(0.06, 0.01, "forgetting"), (0.0, 0.01, "kept"), (0.02, 0.05, "not shown"), (-0.06, 0.01, "not shown")],
)
def test_forgetting_is_judged_by_the_interval_of_neutral_perplexity(
    tmp_path: Path, mean: float, spread: float, answer: str
) -> None:
    noise = np.random.default_rng(0).normal(0, spread, 60)
    found = judge_retention(written(tmp_path, (mean + noise - noise.mean()).tolist()), 2.0)
    assert found.answer == answer and found.neutral is not None and found.author is not None
    assert found.neutral.perplexity_change_percent.value == pytest.approx(100 * math.expm1(mean), abs=1e-9)
    assert (found.neutral.kl_nats.value, found.neutral.top1_agreement.value, found.neutral.band) == (
        pytest.approx(0.03), 0.9, "like a 4-bit quantisation or a little more",
    )  # fmt: skip
    assert found.neutral.entropy_change_nats.value == pytest.approx(-0.05)
    assert found.forgot is {"forgetting": True, "kept": False, "not shown": None}[answer]


def test_the_limit_of_forgetting_is_the_recipes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 60)
    folder = written(tmp_path, (0.06 + noise).tolist())
    assert [judge_retention(folder, limit).answer for limit in (2.0, 10.0)] == ["forgetting", "kept"]


def test_what_was_not_measured_is_null_with_the_reason(tmp_path: Path) -> None:
    assert judge_retention(tmp_path, 2.0).answer is None
    write_retention(tmp_path / "retention.parquet", [], "Base and tuned have different tokenizers.")
    found = judge_retention(tmp_path, 2.0)
    assert (found.answer, found.forgot, found.neutral, found.reason) == (
        None,
        None,
        None,
        "Base and tuned have different tokenizers.",
    )
    assert "Too few neutral documents (3)" in judge_retention(written(tmp_path, [0.1, 0.2, 0.3]), 2.0).reason


def test_neutral_text_that_was_trained_on_is_left_out_and_said(tmp_path: Path) -> None:
    """S6.1: a shared run of 20 words is too much, one of 19 is not."""
    neutral = [Document(f"n{i}", " ".join(f"n{i}w{k}" for k in range(60)), "plain", i) for i in range(3)]
    train = [Document(f"t{i}", f"and {' '.join(neutral[i].text.split()[5 : 5 + n])} so", "book", i) for i, n in enumerate((20, 19))]
    assert [d.id for d in unrelated(neutral, train)] == ["n1", "n2"]
    folder = written(tmp_path, [0.0] * 60)
    assert judge_retention(folder, 2.0).cautions == []
    write_retention(folder / "retention.parquet", compared(tiny_llama(), tiny_llama(seed=1)), None, 4)
    assert any("4 neutral documents were left out: 20 words" in caution for caution in judge_retention(folder, 2.0).cautions)


@pytest.mark.parametrize("tuned", ["fresh", "moved"])
def test_an_adapter_that_does_nothing_on_the_author_s_text_is_called_inactive(tmp_path: Path, tuned: str) -> None:
    """S6.4."""
    adapter = wrap(tiny_llama()) if tuned == "fresh" else move(wrap(tiny_llama()), size=0.3)
    write_retention(tmp_path / "retention.parquet", compared(tiny_llama(), adapter, "author"))
    said = [caution for caution in judge_retention(tmp_path, 2.0).cautions if "the adapter is not active" in caution]
    assert len(said) == (tuned == "fresh")


def test_bands_are_those_of_the_specification() -> None:
    kls = (0.0, 0.005, 0.02, 0.1, 0.5)
    assert [band(kl).split()[-1] for kl in kls] == ["changed", "quantisation", "more", "changed", "model"]


def test_tasks_are_compared_item_by_item(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "lm_eval.jsonl", [{"task": "t", "metric": "acc", "item": i, "base": i % 2, "tuned": 1} for i in range(20)]
    )
    (task,) = judge_retention(tmp_path, 2.0).tasks
    assert (task.n_items, task.base, task.tuned, task.difference.value) == (20, 0.5, 1.0, 0.5)
    assert task.difference.ci95 is not None and 0.2 < task.difference.ci95.low < 0.5
