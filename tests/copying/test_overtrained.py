"""An adapter trained for fifty epochs on twenty documents says them by heart and is caught at it; a fresh one equals the base (C5.5)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from galvan import models
from galvan.copying.memorising import extraction
from galvan.copying.originality import BASE, HUMAN, TUNED, Originality, Text, judge_sets
from galvan.data.read import read
from galvan.data.tokens import encode_texts
from galvan.measure.extraction import extract
from galvan.measure.retention import retention
from galvan.recipe import Lora, Model
from galvan.rundir import Document

WORDS, PROMPT_TOKENS, BATCH = 50, 12, 4


def passages() -> tuple[list[Document], list[Document]]:
    texts = [" ".join(row.text.split()[:WORDS]) for row in read("galvan/letters")]
    documents = [Document(f"letter-{n}", text, "letters", n) for n, text in enumerate(texts)]
    return documents[:20], documents[20:50]


def adapted(base: Any) -> Any:
    return models.add_lora(base, Lora(rank=32, alpha=64, dropout=0.0), "galvan/spark", None, 0)


def train(model: Any, tokenizer: Any, documents: list[Document], epochs: int) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, epochs)
    bos = torch.tensor([tokenizer.bos_token_id])
    rows = [torch.cat([bos, torch.from_numpy(ids)]) for ids in encode_texts(tokenizer, [d.text for d in documents])]
    for _ in range(epochs):
        for begin in range(0, len(rows), BATCH):
            batch = torch.nn.utils.rnn.pad_sequence(rows[begin : begin + BATCH], batch_first=True)
            labels = torch.nn.utils.rnn.pad_sequence(rows[begin : begin + BATCH], batch_first=True, padding_value=-100)
            model(input_ids=batch, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        decay.step()
    model.eval()


def write(model: Any, tokenizer: Any, prompts: list[Document]) -> list[Text]:
    """A continuation of the first tokens of each prompt at temperature 1, all in one batch."""
    ids = [[tokenizer.bos_token_id, *part[:PROMPT_TOKENS]] for part in encode_texts(tokenizer, [d.text for d in prompts])]
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(input_ids=torch.tensor(ids), do_sample=True, top_k=0, max_new_tokens=70, pad_token_id=0)
    return [Text(d.id, tokenizer.decode(row[PROMPT_TOKENS + 1 :])) for d, row in zip(prompts, out, strict=True)]


def judged(tuned: list[Text], base: list[Text], train: list[Document], held_out: list[Document]) -> Originality:
    return judge_sets(
        [Text(d.id, d.text) for d in train], {TUNED: tuned, BASE: base, HUMAN: [Text(d.id, d.text) for d in held_out]}
    )


@pytest.mark.slow
def test_fifty_epochs_on_twenty_documents_are_flagged_and_a_fresh_adapter_is_not() -> None:
    located = models.locate("galvan/spark")
    tokenizer, settings = models.load_tokenizer(located), Model(base="galvan/spark", device="cpu", dtype="float32")
    documents, held_out = passages()
    base, tuned = models.load_base(located, settings), adapted(models.load_base(located, settings))

    plain = write(base, tokenizer, held_out)
    assert write(tuned, tokenizer, held_out) == plain
    for row in retention(base, tuned, tokenizer, held_out, "author", 512):
        assert row.kl_nats == row.reverse_kl_nats == 0 and row.base_nll_nats == row.tuned_nll_nats
    fresh = [extract(model, tokenizer, documents, "x", "train") for model in (base, tuned)]
    assert fresh[0] == fresh[1]

    train(tuned, tokenizer, documents, 50)
    found = judged(write(tuned, tokenizer, held_out), plain, documents, held_out)
    assert found.excess.answer == "excess copying" and found.flagged, found.excess
    assert judged(plain, plain, documents, held_out).excess.answer == "not shown"
    rows = [*extract(tuned, tokenizer, documents, "tuned", "train"), *extract(tuned, tokenizer, held_out, "tuned", "test")]
    by_heart, floor = extraction([asdict(row) for row in rows], np.random.default_rng(0))
    assert by_heart.greedy_ci95.low > floor.greedy_ci95.high, (by_heart, floor)
