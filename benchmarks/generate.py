"""50 prompts x 150 tokens from base and adapter: galvan's batches, and transformers' generate one prompt at a time and in one padded batch.

Greedy, so that the words can be held against each other; EOS is switched off, so that all write the same number of tokens.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.timing import Row, take_turns, throughput
from benchmarks.workload import Workload
from galvan.measure.arms import randomize
from galvan.measure.decode import Job, Sampling, decode
from galvan.measure.generation import merged_copy
from galvan.measure.prompts import prompts
from galvan.recipe import Generation

NEW_TOKENS, CONTEXT, TOKENS_PER_PASS = 150, 1024, 16384
N_PROMPTS, N_QUICK = 50, 4
AGREEMENT = 0.98  # share of equal tokens: where two words are nearly as likely rounding decides, and the texts part for good


def measure(work: Workload) -> list[Row]:
    wanted = Generation(documents=N_PROMPTS if work.size.rounds > 1 else N_QUICK)
    asked = [p.ids(work.tokenizer) for p in prompts({"test": work.documents}, wanted, work.tokenizer)]
    base, tuned = work.model(), work.lora_model()
    randomize(tuned, 0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if ".lora_B." in name:
                weight.mul_(0.1)  # as large as a trained one's, so that the texts stay texts
    texts: dict[str, list[list[int]]] = {}

    def galvan() -> float:
        started = time.perf_counter()
        merged, _ = merged_copy(tuned, asked[:2])  # counted: a run does it
        jobs = [Job(ids, Sampling("greedy", 0.0, 1.0, NEW_TOKENS)) for ids in asked]
        found = [decode(m, jobs, set(), CONTEXT, len(work.tokenizer), TOKENS_PER_PASS) for m in (base, merged or tuned)]
        seconds = time.perf_counter() - started
        texts["galvan"] = [one.ids for some in found for one in some]
        return seconds

    def one_by_one() -> float:
        started = time.perf_counter()
        texts["one by one"] = [_theirs(m, torch.tensor([ids]))[0] for m in (base, tuned) for ids in asked]
        return time.perf_counter() - started

    def padded() -> float:
        width = max(map(len, asked))
        ids = torch.tensor([[work.tokenizer.pad_token_id] * (width - len(p)) + p for p in asked])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in asked])
        started = time.perf_counter()
        texts["padded"] = [text for m in (base, tuned) for text in _theirs(m, ids, attention_mask=mask)]
        return time.perf_counter() - started

    seconds = take_turns(
        {"galvan, merged adapter": galvan, "transformers generate, one by one": one_by_one, "transformers generate, one padded batch": padded},
        max(1, work.size.rounds - 3),  # one by one takes minutes
    )  # fmt: skip
    for name in ("one by one", "padded"):
        pairs = [x == y for a, b in zip(texts["galvan"], texts[name], strict=True) for x, y in zip(a, b, strict=True)]
        if sum(pairs) < AGREEMENT * len(pairs):
            raise SystemExit(
                f"galvan and transformers ({name}) wrote different texts: {sum(pairs) / len(pairs):.1%} of the tokens are equal."
            )
    return throughput("Writing", 2 * NEW_TOKENS * len(asked), seconds)


def _theirs(model: Any, ids: torch.Tensor, **more: Any) -> list[list[int]]:
    mask = more.get("attention_mask", torch.ones_like(ids))
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=2
    )  # fmt: skip
    return [row[ids.shape[1] :].tolist() for row in out]
