"""How long judging takes and how much memory: 100,000 documents in every unit.

Limits hold for processor time, so that a busy machine does not fail them; the clock's time is printed beside it.

python benchmarks/statistics.py [DOCUMENTS]
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from galvan.statistics import identical, judge_candidates, paired_bits, paired_gain, recipe_gain

LIMIT_SECONDS = 10.0
LIMIT_MIB = 2048.0


def main(n: int) -> int:
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 400, n)
    base = rng.normal(2.1, 0.3, n) * tokens
    tuned = base - rng.normal(0.02, 0.05, n) * tokens
    arms = {str(k): tuned + rng.normal(0, 0.01, n) * tokens for k in range(5)}
    per_token = [rng.random(230) for _ in range(n)]
    sources = [f"book {i // 100}" for i in range(n)]
    jobs: dict[str, Callable[[], object]] = {
        "paired_gain, documents": lambda: paired_gain(base, tuned, tokens),
        "paired_gain, one source (blocks)": lambda: paired_gain(base, tuned, tokens, sources=["book"] * n),
        "paired_gain, sources of 100": lambda: paired_gain(base, tuned, tokens, sources=sources),
        "paired_gain, clusters of 3": lambda: paired_gain(base, tuned, tokens, [i // 3 for i in range(n)]),
        "paired_bits": lambda: paired_bits(base, tuned, 4 * tokens),
        "identical, 230 tokens each": lambda: identical(per_token, per_token, 0.0),
        "recipe_gain, 5 seeds": lambda: recipe_gain(base, list(arms.values()), tokens),
        "judge_candidates, 5 arms, sources of 100": lambda: judge_candidates(base, arms, tokens, rng, sources=sources),
        "judge_candidates, 5 arms, documents": lambda: judge_candidates(base, arms, tokens, rng),
    }
    slow = False
    print(f"{n:,} documents")
    for name, job in jobs.items():
        start, started = time.perf_counter(), time.process_time()
        job()
        seconds, waited = time.process_time() - started, time.perf_counter() - start
        slow |= seconds > LIMIT_SECONDS
        print(f"{name:45} {seconds:7.2f} s of processor, {waited:7.2f} s by the clock")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory of the process':45} {peak:7.0f} MiB")
    return int(slow or peak > LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
