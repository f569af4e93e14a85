"""METHODS' table of known texts in its orderings, coverage and power, on novels that are not part of the repository (C4.3, C4.4, C4.7)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import norm
from style_worlds import assert_mixtures_score_their_share, power

from galvan.statistics.energy import random_signs
from galvan.style import Style, judge_style
from galvan.style.evidence import Pool
from galvan.style.features import learn
from galvan.style.guards import Guards, shuffle_words, vetoes
from galvan.style.samples import Prepared, Sample, Texts, measure_sample, prepare
from galvan.style.score import fit_direction
from galvan.style.validity import repeated_units

NOVELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "prose"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NOVELS.is_dir(), reason="the novels are not beside this checkout")]
TARGETS = {"dickens-expectations": "dickens-two-cities", "austen-emma": "austen-pride", "wells-worlds": "wells-time"}
ALL = sorted(path.stem for path in NOVELS.glob("*.txt"))
OTHERS = ("wilde-gray", "stevenson-treasure", "alcott-women")


def passages(novel: str, n: int, low: float = 0.0, high: float = 1.0, words: int = 160) -> list[str]:
    """`n` passages, spread evenly over a part of a novel."""
    text = (NOVELS / f"{novel}.txt").read_text(encoding="utf-8").split()
    text = text[int(len(text) * low) : int(len(text) * high)]
    step = max(words, len(text) // n)
    return [" ".join(text[i * step : i * step + words]) for i in range(min(n, len(text) // step))]


def base_texts(target: str, n: int, each: int = 20, without: tuple[str, ...] = OTHERS, words: int = 160) -> list[str]:
    """Passages of authors other than the target's and those in `without`, mixed: what a base that knows novels might write."""
    left_out = {target.split("-")[0], *(name.split("-")[0] for name in without)}
    found = [p for name in ALL if name.split("-")[0] not in left_out for p in passages(name, each, words=words)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:n]]


def sprinkle(text: str, words: list[str], rng: np.random.Generator) -> str:
    """`text` with one word in ten replaced by one of `words`."""
    return " ".join(str(rng.choice(words)) if rng.random() < 0.1 else word for word in text.split())


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
    sprinkled = row(judged([sprinkle(t, " ".join(author).split(), rng) for t in base[100:140]]))
    assert sprinkled[0] <= 0.3 and sprinkled[0] < g and sprinkled[1] > distance
    assert row(shuffled)[0] > 0.6 and "coherence" in shuffled.vetoes and shuffled.closer != "yes"
    assert row(repeated)[0] > 0.6 and row(repeated)[1] > 2 and "repetition" in repeated.vetoes and repeated.closer != "yes"


@pytest.mark.parametrize("target", TARGETS)
def test_author_words_sprinkled_into_base_text_bring_it_no_closer_by_energy(target: str) -> None:
    """METHODS: 1.1 to 1.5 of the base's own distance. It holds of words drawn from the author's vocabulary, each as often as another. Words
    drawn as often as the author uses them are a tenth of the author's style, and leave the (1 - 0.1)^2 of the mixture identity.
    """
    held = passages(target, 80, low=0.6)
    author, base, rng = passages(target, 150, high=0.6), base_texts(target, 140), np.random.default_rng(0)
    running = " ".join(author).split()

    def left(words: list[str]) -> tuple[float, float]:
        sprinkled = [sprinkle(text, words, rng) for text in base[100:140]]
        found = judge_style(author, base[:50], sprinkled, held[::2], base_again=base[50:100])
        assert found.author_score and found.author_score.value is not None and found.gap_closed
        return found.author_score.value, found.gap_closed.tuned_energy / found.gap_closed.base_energy

    score, energy = left(sorted(set(running)))
    assert -0.16 <= score <= 0.21 and 1.0 < energy <= 1.55
    assert left(running)[1] == pytest.approx(0.81, abs=0.1)


class World(NamedTuple):
    """Held-out passages of a novel, and base texts that taught nothing, measured; and the author's and base's texts that taught."""

    held: Sample
    base: Sample
    taught: list[str]
    kept: frozenset[str]


@cache
def world(target: str) -> World:
    """As in METHODS: 170 words each, 78,000 words to learn from."""

    def ready(texts: list[str]) -> Prepared:
        return prepare(Texts(texts)).cut(170)

    base = base_texts(target, 460, each=40, without=(), words=180)
    teaching, taught = ready(base[:230]), ready(passages(target, 456, high=0.6, words=180))
    space = learn([*taught.texts, *teaching.texts])
    direction = fit_direction(space.points(taught.texts), space.points(teaching.texts))
    held = ready(passages(target, 150, low=0.6, words=180))
    measured = (measure_sample(some, space, direction) for some in (held, ready(base[230:])))
    return World(*measured, [*taught.texts, *teaching.texts], space.kept)


@cache
def seen(target: str, fraction: float, worlds: int = 600) -> np.ndarray:
    """How often a share of author text is called closer, in percent: score, energy distance, both; at 25, 50 and 100 prompts, [3, 3]."""
    held, base, *_ = world(target)
    pool, rng = Pool(base, held), np.random.default_rng(1)
    return np.array([power(pool, fraction, n, random_signs(n, rng, 399), rng, worlds) for n in (25, 50, 100)])


@pytest.mark.parametrize("target", ALL)
def test_the_author_score_of_mixtures_is_right_on_average_and_its_interval_covers(target: str) -> None:
    """C4.3."""
    held, base, *_ = world(target)
    assert_mixtures_score_their_share(held.unit_scores, base.unit_scores)


def test_a_quarter_of_author_text_is_seen_as_often_as_in_methods() -> None:
    """C4.4. A row of METHODS is a mean over its target novels, and so is this one, over all that are at hand: within 10 points.

    One novel may lie outside, for power rests on how far its base is from its author: AUCs of held-out against base run from 0.96 to 1.00
    here (0.90 to 0.99 in METHODS), which alone moves "both" at 50 prompts from 57 to 90 %. The next test holds that connection fast.
    """
    methods = np.array([[60, 52, 42], [89, 81, 78], [99, 94, 94]])
    found = np.mean([seen(target, 0.25) for target in ALL], axis=0)
    assert (abs(found - methods) <= 10).all(), found.round(1)


def test_what_one_novel_s_power_is_follows_from_how_far_its_base_is_from_its_author() -> None:
    """The score's test by the normal law: a mean rise r of n pairs with variance v is called where it exceeds z sqrt((v + r^2) / n)."""
    z = norm.ppf(0.95)
    for target in ALL:
        h, q = (some.unit_scores for some in world(target)[:2])
        rise = 0.25 * (h.mean() - q.mean())
        variance = 0.25 * ((h - q.mean()) ** 2).mean() + 1.75 * q.var() - rise**2
        for n, row in zip((25, 50, 100), seen(target, 0.25), strict=True):
            expected = 100 * norm.cdf((rise * np.sqrt(n) - z * np.sqrt(variance + rise**2)) / np.sqrt(variance))
            assert row[0] == pytest.approx(expected, abs=6), (target, n)


@pytest.mark.parametrize("target", ALL)
def test_the_base_s_own_text_is_called_closer_in_one_case_of_twenty(target: str) -> None:
    """C4.4: each test's size between 2.5 and 7.5 %; both together call it less often than either."""
    null = seen(target, 0.0, 2000)
    assert ((null[:, :2] >= 2.5) & (null[:, :2] <= 7.5)).all() and (null[:, 2] <= null[:, :2].min(1)).all(), null


@pytest.mark.parametrize("target", ALL)
def test_shuffled_and_repeated_text_of_every_novel_is_vetoed_and_its_held_out_text_is_not(target: str) -> None:
    """C4.7, S4.6. The other half of the held-out text is the healthy case."""
    held, _, taught, kept = world(target)
    units = range(len(held.prompts))
    own, other = held.take(units[::2]), held.take(units[1::2])
    guards = Guards(taught, [], own, kept)
    rng = np.random.default_rng(0)
    shuffled = replace(other, texts=[shuffle_words(text, rng) for text in other.texts])
    assert vetoes(guards.look(other)) == []
    assert "coherence" in vetoes(guards.look(shuffled))
    assert "repetition" in vetoes(guards.look(repeated_units(other)))
