"""50 prompts x 150 tokens from base and adapter: galvan's batches, and transformers' generate one prompt at a time and in one padded batch.

Greedy, so that the words can be held against each other; EOS is switched off, so that all write the same number of tokens.

python -m benchmarks.generate [ROUNDS]     # only this, galvan and one by one in turn; exit 1 below three times as fast
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: nothing here needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from benchmarks.timing import Row, Run, take_turns, throughput
from benchmarks.workload import FULL, QUICK, Workload
from galvan.measure.arms import randomize
from galvan.measure.decode import Job, Sampling, decode
from galvan.measure.generation import merged_copy
from galvan.measure.prompts import prompts
from galvan.recipe import Generation

NEW_TOKENS, CONTEXT, TOKENS_PER_PASS = 150, 1024, 16384
AGREEMENT = 0.98  # share of equal tokens: where two words are nearly as likely rounding decides, and the texts part for good


OURS, SEQUENTIAL, PADDED = "galvan, merged adapter", "transformers generate, one by one", "transformers generate, one padded batch"
ENOUGH = 3.0  # times as fast as one by one


@dataclass
class Contest:
    """The contestants by name, and what each wrote last."""

    runs: dict[str, Run]
    tokens: int
    texts: dict[str, list[list[int]]] = field(default_factory=dict)

    def agreement(self, name: str) -> float:
        """Share of tokens that are galvan's."""
        pairs = [x == y for a, b in zip(self.texts[OURS], self.texts[name], strict=True) for x, y in zip(a, b, strict=True)]
        return sum(pairs) / len(pairs)


def contest(work: Workload) -> Contest:
    wanted = Generation(documents=work.size.prompts)
    asked = [p.ids(work.tokenizer) for p in prompts({"test": work.documents}, wanted, work.tokenizer)]
    base, tuned = work.model(), work.lora_model()
    randomize(tuned, 0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if ".lora_B." in name:
                weight.mul_(0.1)  # as large as a trained one's, so that the texts stay texts
    found = Contest({}, 2 * NEW_TOKENS * len(asked))

    def galvan() -> float:
        started = time.perf_counter()
        merged, _ = merged_copy(tuned, asked[:2])  # counted: a run does it
        jobs = [Job(ids, Sampling("greedy", 0.0, 1.0, NEW_TOKENS)) for ids in asked]
        written = [decode(m, jobs, set(), CONTEXT, len(work.tokenizer), TOKENS_PER_PASS) for m in (base, merged or tuned)]
        seconds = time.perf_counter() - started
        found.texts[OURS] = [one.ids for some in written for one in some]
        return seconds

    def one_by_one() -> float:
        started = time.perf_counter()
        found.texts[SEQUENTIAL] = [_theirs(m, torch.tensor([ids]))[0] for m in (base, tuned) for ids in asked]
        return time.perf_counter() - started

    def padded() -> float:
        width = max(map(len, asked))
        ids = torch.tensor([[work.tokenizer.pad_token_id] * (width - len(p)) + p for p in asked])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in asked])
        started = time.perf_counter()
        found.texts[PADDED] = [text for m in (base, tuned) for text in _theirs(m, ids, attention_mask=mask)]
        return time.perf_counter() - started

    found.runs.update({OURS: galvan, SEQUENTIAL: one_by_one, PADDED: padded})
    return found


def measure(work: Workload) -> list[Row]:
    """Against transformers' best setting alone: one by one takes minutes, and has `main`."""
    some = contest(work)
    seconds = take_turns({name: some.runs[name] for name in (OURS, PADDED)}, work.size.rounds)
    if (equal := some.agreement(PADDED)) < AGREEMENT:
        raise SystemExit(f"galvan and {PADDED} wrote different texts: {equal:.1%} of the tokens are equal.")
    return throughput("Writing", some.tokens, seconds)


def main(rounds: int) -> int:
    """galvan against one by one, A B A B, after a short contest that warms both up."""
    for run in contest(Workload.load(QUICK["S"])).runs.values():
        run()
    some = contest(Workload.load(FULL["S"]))
    seconds: dict[str, list[float]] = {OURS: [], SEQUENTIAL: []}
    for number in range(1, rounds + 1):
        for name, taken in seconds.items():
            taken.append(some.runs[name]())
            print(
                f"round {number}, {name}: {taken[-1]:.1f} s for {some.tokens:,} tokens, {some.tokens / taken[-1]:,.0f} tokens/s",
                flush=True,
            )
    ratio, equal = throughput("Writing", some.tokens, seconds)[1].ratio or 0.0, some.agreement(SEQUENTIAL)
    print(
        f"{FULL['S'].prompts} prompts x {NEW_TOKENS} tokens x 2 arms: {ratio:.1f} times as fast as one by one; {equal:.1%} of the tokens are equal"
    )
    return int(ratio < ENOUGH or equal < AGREEMENT)


def _theirs(model: Any, ids: torch.Tensor, **more: Any) -> list[list[int]]:
    mask = more.get("attention_mask", torch.ones_like(ids))
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=2
    )  # fmt: skip
    return [row[ids.shape[1] :].tolist() for row in out]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
