"""How long matching statistics take and how much memory: 200 generated texts of 170 words against 78,000 and 10 million training words.

Training text is made of sentences drawn from the bundled letters, words changed at random, so that runs recur as in real prose. Limits
hold for processor time, so that a busy machine does not fail them; the clock's time is printed beside it.

python benchmarks/originality.py [LARGEST]
"""

from __future__ import annotations

import random
import resource
import sys
import time

from galvan.copying.originality import originality
from galvan.copying.spans import matching_statistics
from galvan.data.read import read
from galvan.text import words

LIMITS = {78_000: 0.5, 10_000_000: 60.0}  # seconds
LIMIT_MIB = 4096.0
COMMAND_SECONDS = 10.0  # all of `galvan originality` for 300 texts
DOCUMENT, TEXT = 230, 170


def prose(rng: random.Random, known: list[str], n: int) -> list[str]:
    """`n` words in runs of 3 to 30 that stand in the letters, each run followed by a word of its own or a frequent one."""
    said: list[str] = []
    while len(said) < n:
        begin = rng.randrange(len(known) - 30)
        said += known[begin : begin + rng.randint(3, 30)]
        said.append(f"name{rng.randrange(200_000)}" if rng.random() < 0.5 else rng.choice(known))
    return said[:n]


def documents(said: list[str], length: int) -> list[list[str]]:
    return [said[begin : begin + length] for begin in range(0, len(said), length)]


def main(largest: int) -> int:
    rng = random.Random(0)
    known = [word for row in read("galvan/letters") for word in words(row.text)]
    texts = documents(prose(rng, known, 200 * TEXT), TEXT)
    slow = False
    for n, limit in LIMITS.items():
        if n > largest:
            continue
        train = documents(prose(rng, known, n), DOCUMENT)
        start, started = time.perf_counter(), time.process_time()
        found = matching_statistics(train, texts)
        seconds, waited = time.process_time() - started, time.perf_counter() - start
        slow |= seconds > limit
        longest = max(int(one.lengths.max()) for one in found)
        print(f"{n:>12,} words, {len(texts)} texts: {seconds:7.2f} s of processor, {waited:7.2f} s by the clock; longest {longest}")
        if n == min(LIMITS):
            written = [" ".join(text) for text in documents(prose(rng, known, 300 * TEXT), TEXT)]
            start, started = time.perf_counter(), time.process_time()
            originality([" ".join(document) for document in train], written, written[:60])
            seconds, waited = time.process_time() - started, time.perf_counter() - start
            slow |= seconds > COMMAND_SECONDS
            print(f"{'originality':>12}, 300 texts and the floor: {seconds:7.2f} s of processor, {waited:7.2f} s by the clock")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {peak:,.0f} MiB")
    return int(slow or peak > LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000))
