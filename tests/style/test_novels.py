"""METHODS' table of known texts in its orderings, coverage and power, on novels that are not part of the repository (C4.3, C4.4, C4.7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galvan.statistics.energy import energy_contributions, random_signs, swap_test
from galvan.style import Style, judge_style
from galvan.style.evidence import Pool
from galvan.style.features import learn
from galvan.style.guards import shuffle_words
from galvan.style.samples import Sample, Texts, measure_sample, prepare
from galvan.style.score import author_score, fit_direction

NOVELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "prose"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NOVELS.is_dir(), reason="the novels are not beside this checkout")]
TARGETS = {"dickens-expectations": "dickens-two-cities", "austen-emma": "austen-pride", "wells-worlds": "wells-time"}
OTHERS = ("wilde-gray", "stevenson-treasure", "alcott-women")


def passages(novel: str, n: int, low: float = 0.0, high: float = 1.0, words: int = 160) -> list[str]:
    """`n` passages, spread evenly over a part of a novel."""
    text = (NOVELS / f"{novel}.txt").read_text(encoding="utf-8").split()
    text = text[int(len(text) * low) : int(len(text) * high)]
    step = max(words, len(text) // n)
    return [" ".join(text[i * step : i * step + words]) for i in range(min(n, len(text) // step))]


def base_texts(target: str, n: int) -> list[str]:
    """Passages of authors other than the target's and those in OTHERS, mixed: what a base that knows novels might write."""
    left_out = {target.split("-")[0], *(name.split("-")[0] for name in OTHERS)}
    found = [p for path in sorted(NOVELS.glob("*.txt")) if path.stem.split("-")[0] not in left_out for p in passages(path.stem, 20)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:n]]


@pytest.mark.parametrize("target", TARGETS)
def test_the_orderings_of_the_table_of_known_texts_hold(target: str) -> None:
    held = passages(target, 80, low=0.6)
    author, held_out, further = passages(target, 150, high=0.6), held[::2], held[1::2]
    base = base_texts(target, 140)
    rng = np.random.default_rng(0)

    def judged(tuned: list[str]) -> Style:
        return judge_style(author, base[:50], tuned, held_out, base_again=base[50:100])

    def row(style: Style) -> tuple[float, float]:
        assert style.author_score and style.author_score.value is not None and style.gap_closed, style.reason
        return style.author_score.value, style.gap_closed.tuned_energy / style.gap_closed.base_energy

    same, other_book, again = judged(further), judged(passages(TARGETS[target], 40)), judged(base[100:140])
    shuffled, repeated = judged([shuffle_words(t, rng) for t in further]), judged([further[i % 3] for i in range(40)])
    g, distance = row(same)
    assert 0.85 <= g <= 1.15 and distance < 0.21 and same.closer == "yes" and not same.vetoes
    assert row(again)[0] == pytest.approx(0, abs=0.25) and again.closer == "not shown"
    assert row(other_book)[0] < g and row(other_book)[1] > distance
    for name in OTHERS:
        other = row(judged(passages(name, 40)))
        assert other[0] <= 0.64 and other[1] >= 0.52, name
        assert other[0] < g and other[1] > distance
    assert row(shuffled)[0] > 0.6 and "coherence" in shuffled.vetoes and shuffled.closer != "yes"
    assert row(repeated)[0] > 0.6 and row(repeated)[1] > 2 and "repetition" in repeated.vetoes and repeated.closer != "yes"


def samples(target: str, base: list[str]) -> tuple[Sample, Sample]:
    """Held-out texts and base outputs that taught nothing, measured."""
    author, half = passages(target, 150, high=0.6), len(base) // 2
    teaching, judged = (prepare(Texts(some)).cut(150) for some in (base[:half], base[half:]))
    taught = prepare(Texts(author)).cut(150)
    space = learn([*taught.texts, *teaching.texts])
    direction = fit_direction(space.points(taught.texts), space.points(teaching.texts))
    return measure_sample(prepare(Texts(passages(target, 150, low=0.6))).cut(150), space, direction), measure_sample(
        judged, space, direction
    )


@pytest.mark.parametrize("target", ["dickens-expectations", "bronte-eyre"])
def test_the_author_score_of_mixtures_is_right_on_average_and_its_interval_covers(target: str) -> None:
    """C4.3: a = 0, 1/4, 1/2, 1, draws from scores of held-out texts and base outputs; mean within 0.05, coverage 90 to 98 %."""
    held, base = samples(target, base_texts(target, 160))
    h, q = held.unit_scores, base.unit_scores
    rng = np.random.default_rng(0)
    for a in (0.0, 0.25, 0.5, 1.0):
        found = [
            author_score(np.where(rng.random(50) < a, rng.choice(h, 50), rng.choice(q, 50)), rng.choice(q, 50), rng.choice(h, 50))
            for _ in range(400)
        ]
        inside = [s.ci95 is not None and s.ci95.low <= a <= s.ci95.high for s in found]
        assert np.mean([s.value for s in found if s.value is not None]) == pytest.approx(a, abs=0.05)
        assert 0.90 <= np.mean(inside) <= 0.98


ROWS = {25: (60, 52, 42), 50: (89, 81, 78), 100: (99, 94, 94)}  # METHODS: score, energy distance, both, in percent


def found_weaker(target: str, figures: str) -> object:
    return pytest.param(target, marks=pytest.mark.xfail(strict=True, reason=f"base and author lie nearer each other: {figures}"))


@pytest.mark.parametrize(
    "target",
    [
        "wells-worlds",  # AUC of held-out against base 0.98: 49, 84 and 98 % for both tests
        found_weaker("dickens-expectations", "AUC 0.94; 24, 49 and 75 % for both tests"),
        found_weaker("bronte-eyre", "AUC 0.95; 31, 56 and 87 % for both tests"),
    ],
)
def test_a_quarter_of_author_text_is_seen_as_often_as_in_methods(target: str) -> None:
    """C4.4, within 10 points of every row. Power rests on how far the base is from the author: with letters for a base it is above."""
    held, base = samples(target, base_texts(target, 160))
    pool, rng = Pool(base, held), np.random.default_rng(1)
    for n, row in ROWS.items():
        quarter = power(pool, 0.25, n, random_signs(n, rng, 399), rng)
        assert (abs(quarter - np.array(row)) <= 10).all(), (n, quarter)


@pytest.mark.parametrize("target", ["dickens-expectations", "bronte-eyre", "wells-worlds"])
def test_the_base_s_own_text_is_called_closer_in_one_case_of_twenty(target: str) -> None:
    """C4.4: each test's size between 2.5 and 7.5 %; both together call it less often than either."""
    held, base = samples(target, base_texts(target, 160))
    pool, rng = Pool(base, held), np.random.default_rng(1)
    for n in ROWS:
        null = power(pool, 0.0, n, random_signs(n, rng, 399), rng)
        assert ((null[:2] >= 2.5) & (null[:2] <= 7.5)).all() and null[2] <= null[:2].min(), (n, null)


def power(pool: Pool, fraction: float, n: int, signs: np.ndarray, rng: np.random.Generator, worlds: int = 600) -> np.ndarray:
    """How often, in percent, the score's test, the energy distance's, and both call it closer."""
    d, called = pool.distances, np.zeros(3)
    for _ in range(worlds):
        q, other, author = (
            rng.integers(0, pool.n_base, n),
            rng.integers(0, pool.n_base, n),
            pool.n_base + rng.integers(0, pool.n_author, n),
        )
        u = np.where(rng.random(n) < fraction, author, other)
        parts = energy_contributions(pool.to_author[q], pool.to_author[u], d[np.ix_(q, q)], d[np.ix_(u, u)], d[np.ix_(q, u)])
        score, distance = (swap_test(x, signs).p_larger <= 0.05 for x in (pool.scores[u] - pool.scores[q], parts))
        called += [score, distance, score and distance]
    return 100 * called / worlds
