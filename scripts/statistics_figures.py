"""Print every figure that docs/statistics.md quotes, and write them there.

    python scripts/statistics_figures.py            # print them
    python scripts/statistics_figures.py --write    # put them between the markers of docs/statistics.md
    python scripts/statistics_figures.py --check    # exit 1 if the page says something else

All simulations are seeded, so that the page only changes when the statistics do.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats

from galvan.compare import compare
from galvan.rundir import Document
from galvan.statistics import (
    documents_needed,
    equivalence_power,
    holm,
    judge,
    mde_percent,
    paired_gain,
    ratio,
    shown_count,
    sign_flip_max_t,
)

if TYPE_CHECKING:
    from galvan.measure.scoring import Score

    Rows = list[Score]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
FIGURES: dict[str, Callable[[], str]] = {}
TRUE_GAIN = 0.02

EXAMPLE = """\
import numpy as np
from galvan import paired_gain

rng = np.random.default_rng(4)
tokens = rng.integers(180, 280, 25)                      # 25 snippets of about 230 tokens
base = rng.normal(2.07, 0.25, 25) * tokens               # nats, summed over each snippet
tuned = base - rng.normal(0.012, 0.05, 25) * tokens      # truly 0.012 nats a token better

gain = paired_gain(base, tuned, tokens)
print(gain)
print(gain.sensitivity)
print("To see a change of 0.01 nats:", gain.documents_needed_for_margin)
"""


def figure(function: Callable[[], str]) -> Callable[[], str]:
    FIGURES[function.__name__] = function
    return function


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@figure
def example() -> str:
    """The example and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(EXAMPLE, "example", "exec"), {})
    return f"```python\n{EXAMPLE}```\n\n```text\n{printed.getvalue()}```"


@figure
def detectable() -> str:
    """The smallest change of perplexity that is seen with 80 % chance."""
    numbers = (10, 25, 50, 100, 200, 500)
    rows = [[f"{sd:g}", *(f"{mde_percent(sd / n**0.5, n - 1.0):.2g} %" for n in numbers)] for sd in (0.02, 0.05, 0.10)]
    return table(["spread of gains, nats a token", *(f"{n} documents" for n in numbers)], rows)


@figure
def enough() -> str:
    """Documents for an 80 % and a 90 % chance, and the chance of proving equivalence."""
    rows = []
    for sd in (0.02, 0.05, 0.10):
        cells = [
            f"{shown_count(documents_needed(sd, 1, target, 0.80, lambda n: n - 1.0))} / "
            f"{shown_count(documents_needed(sd, 1, target, 0.90, lambda n: n - 1.0))}"
            for target in (0.01, 0.02, 0.05)
        ]
        chances = [f"{100 * equivalence_power(sd / n**0.5, n - 1.0, 0.01):.0f} %" for n in (25, 100, 500)]
        rows.append([f"{sd:g}", *cells, " / ".join(chances)])
    return table(
        ["spread", "to see 1 %", "to see 2 %", "to see 5 %", "chance of `equivalent` at 25 / 100 / 500, if nothing changed"], rows
    )


def worlds(rng: np.random.Generator, runs: int, n: int, unequal: bool, phi: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences and tokens [runs, n]: gains that spread by 0.04 between documents, 0.5 between tokens, neighbours alike by `phi`."""
    tokens = (
        np.maximum(20, np.round(230 * np.exp(0.8 * rng.standard_normal((runs, n)) - 0.32)))
        if unequal
        else np.full((runs, n), 230.0)
    )
    effect = (rng.gamma(2, 1, (runs, n)) - 2) / 2**0.5 if unequal else rng.standard_normal((runs, n))
    for i in range(1, n if phi else 0):
        effect[:, i] = phi * effect[:, i - 1] + (1 - phi**2) ** 0.5 * effect[:, i]
    noise = 0.0 if phi else 0.5 * np.sqrt(tokens) * rng.standard_normal((runs, n))
    return tokens * (TRUE_GAIN + 0.04 * effect) + noise, tokens


def covered(differences: np.ndarray, tokens: np.ndarray, **options: object) -> str:
    intervals = [paired_gain(2 * t, 2 * t - d, t, **options).ci95 for d, t in zip(differences, tokens, strict=True)]
    return f"{100 * np.mean([i is None or i.low <= TRUE_GAIN <= i.high for i in intervals]):.1f} %"


@figure
def coverage() -> str:
    """How often intervals that call themselves 95 % hold the truth, 2,000 runs each."""
    rng, rows = np.random.default_rng(1), []
    for name, n, unequal, phi in (
        ("10 documents, alike", 10, False, 0.0),
        ("25 documents, alike", 25, False, 0.0),
        ("25 documents, very unequal and skewed", 25, True, 0.0),
        ("100 documents, very unequal and skewed", 100, True, 0.0),
        ("25 neighbours in one book, correlation 0.4", 25, False, 0.4),
        ("100 neighbours in one book, correlation 0.4", 100, False, 0.4),
    ):
        differences, tokens = worlds(rng, 2000, n, unequal, phi)
        total = tokens.sum(axis=1)
        token_sd = (0.5**2 + 0.04**2) ** 0.5
        naive = np.abs(differences.sum(axis=1) / total - TRUE_GAIN) <= 1.96 * token_sd / np.sqrt(total)
        tokenwise = "-" if phi else f"{100 * naive.mean():.1f} %"
        blocks = covered(differences, tokens, sources=["book"] * n) if phi else "-"
        rows.append([name, tokenwise, covered(differences, tokens), blocks])
    return table(["world", "tokens as observations", "documents", "blocks of neighbours"], rows)


@figure
def verdicts() -> str:
    """How often each verdict falls, 5,000 runs each, spread 0.05 nats."""
    rng, rows = np.random.default_rng(2), []
    for n in (25, 100, 500):
        for gain in (0.0, 0.02):
            found = []
            for gains in rng.normal(gain, 0.05, (5000, n)):
                estimate = ratio(gains * 230, np.full(n, 230.0))
                found.append(judge(estimate.interval(0.95), estimate.interval(0.90), 0.01, n, estimate.n_effective).verdict)
            shares = [f"{100 * found.count(v) / len(found):.1f} %" for v in ("improved", "worse", "equivalent", "inconclusive")]
            rows.append([str(n), f"{gain:g}", *shares])
    return table(["documents", "true gain", "improved", "worse", "equivalent", "inconclusive"], rows)


@figure
def null() -> str:
    """1,000 comparisons in which nothing was gained."""
    rng = np.random.default_rng(3)
    counts = dict.fromkeys(("improved", "worse"), 0)
    for k in range(1000):
        tokens = rng.integers(60, 400, 48)
        base = rng.normal(2.1, 0.3, 48) * tokens
        noise = rng.normal(0, 0.03, 48) if k % 2 else rng.choice([-1, 1], 48) * rng.gamma(2, 0.03, 48)
        verdict = paired_gain(base, base - noise * tokens, tokens, sources=["book"] * 48).verdict
        if verdict in counts:
            counts[verdict] += 1
    ends = [scipy.stats.binomtest(count, 1000).proportion_ci(0.95, "exact") for count in counts.values()]
    parts = [
        f"*{verdict}* {count} times ({100 * end.low:.1f} to {100 * end.high:.1f} %)"
        for (verdict, count), end in zip(counts.items(), ends, strict=True)
    ]
    return f"Of 1,000 comparisons in which nothing was gained, galvan called {parts[0]} and {parts[1]}."


def same_model_with_noise(rng: np.random.Generator, documents: list[Document]) -> Rows:
    """One model measured twice by a machine that computes badly: noise on every token, and a little on every document."""
    return _two_arms(rng, documents, lambda base: (base, base + rng.normal(0, 0.05, base.size) + rng.normal(0, 0.01)))


def permuted_arms(rng: np.random.Generator, documents: list[Document]) -> Rows:
    """A model that truly is better, but whose arm and the base's were swapped by the toss of a coin, document by document."""

    def swapped(base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tuned = base - rng.normal(0.1, 0.05) - rng.normal(0, 0.3, base.size)
        return (tuned, base) if rng.integers(2) else (base, tuned)

    return _two_arms(rng, documents, swapped)


def _two_arms(rng: np.random.Generator, documents: list[Document], arms: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> Rows:
    rows = []
    for document in documents:
        both = arms(rng.gamma(4, 0.9, int(rng.integers(60, 400))))
        rows += [row(arm, document, nll) for arm, nll in zip(("base", "tuned"), both, strict=True)]
    return rows


def row(arm: str, document: Document, nll: np.ndarray) -> Score:
    from galvan.measure.scoring import Score

    tokens = nll.astype(np.float32)
    total = float(tokens.astype(np.float64).sum())
    return Score(arm, document.id, document.source, document.position, "test", len(tokens), 4 * len(tokens), total, tokens.tolist())


def random_adapters(n: int, n_documents: int = 16) -> Iterator[Rows]:
    """The bundled base beside `n` adapters of random numbers, on short pieces of the bundled letters."""
    from galvan import models, recipe
    from galvan.data.read import read
    from galvan.measure.arms import randomize
    from galvan.measure.scoring import score

    texts = [r.text[:240] for r in read("galvan/letters", "text") if len(r.text) > 240][::20][:n_documents]
    documents = [Document(str(i), text, "letters", i) for i, text in enumerate(texts)]
    where = models.locate("galvan/spark")
    model, tokenizer = models.load_base(where, recipe.Model(device="cpu", dtype="float32")), models.load_tokenizer(where)
    base = score(model, tokenizer, documents, "base", "test", 512)
    adapted = models.add_lora(model, recipe.Lora(rank=2), where.name, None, 0).eval()
    for seed in range(n):
        randomize(adapted, seed)
        yield base + score(adapted, tokenizer, documents, "tuned", "test", 512)


def improved_among(rows: Iterable[Rows]) -> list[str]:
    """The verdict on each, by the path that a run takes: scores.parquet, read back and compared."""
    from galvan.measure.scoring import write_scores

    with tempfile.TemporaryDirectory() as folder:
        path, verdicts = Path(folder) / "scores.parquet", []
        for some in rows:
            write_scores(path, some)
            found = compare(path, 0.01)
            verdicts.append("refused" if found.test is None else found.test.verdict)
    return verdicts


def null_rows(rng: np.random.Generator, n: int, make: Callable[[np.random.Generator, list[Document]], Rows]) -> Iterator[Rows]:
    """`n` comparisons on 24 to 60 documents of one source or of twelve."""
    for k in range(n):
        yield make(rng, [Document(str(i), "", f"source {i % (1 + 11 * (k % 2))}", i) for i in range(int(rng.integers(24, 61)))])


@figure
def public() -> str:
    """1,000 null comparisons through the public path."""
    rng = np.random.default_rng(6)
    kinds = {
        "one model scored twice, with noise": improved_among(null_rows(rng, 400, same_model_with_noise)),
        "arms swapped by a coin": improved_among(null_rows(rng, 400, permuted_arms)),
        "adapters of random numbers on the bundled base": improved_among(random_adapters(200)),
    }
    rows = []
    for name, found in [*kinds.items(), ("all", [v for some in kinds.values() for v in some])]:
        count = found.count("improved")
        ends = scipy.stats.binomtest(count, len(found)).proportion_ci(0.95, "exact")
        rows.append(
            [
                name,
                f"{len(found):,}",
                str(count),
                f"{100 * count / len(found):.1f} % ({100 * ends.low:.1f} to {100 * ends.high:.1f} %)",
            ]
        )
    return table(["comparisons in which nothing was gained", "number", "called *improved*", "share (95 % interval)"], rows)


@figure
def family() -> str:
    """False alarms among five equal candidates, 2,000 families."""
    rng = np.random.default_rng(4)
    tokens, errors = np.full(25, 230.0), np.zeros(3)
    for _ in range(2000):
        gains = 0.05 * (0.7**0.5 * rng.standard_normal(25) + 0.3**0.5 * rng.standard_normal((5, 25)))
        p = [ratio(row * tokens, tokens).p_value() or 0.0 for row in gains]
        errors += min(p) <= 0.05, holm(p).min() <= 0.05, sign_flip_max_t(gains * tokens, tokens, rng, 399).p_adjusted.min() <= 0.05
    single, by_holm, max_t = 100 * errors / 2000
    return (
        f"Among five candidates that gain nothing, one looks significant in {single:.1f} % of the cases if each is tested alone, "
        f"in {by_holm:.1f} % with Holm, in {max_t:.1f} % with max-T."
    )


INSTANT = ("example", "detectable", "enough")


def fill(page: str, names: tuple[str, ...]) -> str:
    """`page` with the named figures between their markers; KeyError if a marker names a figure that there is not."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- figure {name} -->\n{FIGURES[name]()}\n<!-- end -->" if name in names else match.group()

    return re.sub(r"<!-- figure (\w+) -->\n.*?<!-- end -->", put, page, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    if not arguments:
        for name, make in FIGURES.items():
            print(f"## {name}: {make.__doc__}\n\n{make()}\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page, tuple(FIGURES))
    if "--write" in arguments:
        PAGE.write_text(filled, encoding="utf-8")
        return 0
    print("docs/statistics.md is current." if filled == page else "docs/statistics.md differs; run this with --write.")
    return int(filled != page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
