"""The base's log-likelihood of the same documents: galvan, and lm-eval's rolling log-likelihood one document at a time.

lm-eval is faster with a batch of one than with more on a CPU. Its own BOS is switched off: it would score one token a document more.
"""

from __future__ import annotations

import contextlib
import io
import time
from types import SimpleNamespace
from typing import Any

from benchmarks.timing import Row, take_turns, throughput
from benchmarks.workload import MAX_TOKENS, Workload
from galvan.measure.scoring import score

AGREEMENT = 1e-4  # relative, of the sum over all documents


def measure(work: Workload) -> list[Row]:
    documents = work.documents[: work.size.scored]
    model = work.model()
    judge = _lm_eval(work)
    requests = [SimpleNamespace(args=(document.text,)) for document in documents]
    total_nats: dict[str, float] = {}
    scored: list[int] = []

    def galvan() -> float:
        started = time.perf_counter()
        rows = score(model, work.tokenizer, documents, "base", "test", MAX_TOKENS)
        seconds = time.perf_counter() - started
        total_nats["galvan"] = sum(row.nll_nats for row in rows)
        scored[:] = [row.n_tokens for row in rows]
        return seconds

    def lm_eval() -> float:
        started = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            values = judge.loglikelihood_rolling(requests, disable_tqdm=True)
        seconds = time.perf_counter() - started
        total_nats["lm-eval"] = -sum(values)
        return seconds

    seconds = take_turns({"galvan": galvan, "lm-eval HFLM, batch 1": lm_eval}, work.size.rounds)
    if abs(total_nats["galvan"] / total_nats["lm-eval"] - 1) > AGREEMENT:
        raise SystemExit(f"The scorers did not do the same work: the sums are {total_nats}.")
    return throughput(f"Scoring, {work.scale}", sum(scored), seconds)


def _lm_eval(work: Workload) -> Any:
    import logging

    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(
        pretrained=work.model(),
        tokenizer=work.tokenizer,
        backend="causal",
        max_length=MAX_TOKENS - 1,
        batch_size=1,
        add_bos_token=False,
    )
