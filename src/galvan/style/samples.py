"""Sets of texts as they are measured: one typography, one length, one unit a prompt (METHODS S4.1)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from galvan.statistics.checks import FloatArray, IntArray
from galvan.style.features import Space
from galvan.style.normalise import first_words, normalise, tokens

FEWEST_WORDS, MOST_WORDS = 50, 150


@dataclass(frozen=True, slots=True)
class Texts:
    """A set of texts as it came. Texts of one prompt are one unit; without prompts each text is its own.

    Base and tuned texts of the same prompt are paired. `sources` tell editions apart, for their quotes.
    """

    texts: Sequence[str]
    prompts: Sequence[Hashable] | None = None
    sources: Sequence[str] | None = None

    def units(self) -> Sequence[Hashable]:
        return range(len(self.texts)) if self.prompts is None else self.prompts


@dataclass(frozen=True, slots=True)
class Prepared:
    """Normalised texts that are long enough, their prompts and places in what was given, and how long they all were in words."""

    texts: list[str]
    prompts: list[Hashable]
    places: list[int]
    lengths: list[int]

    @property
    def short(self) -> int:
        return sum(n < FEWEST_WORDS for n in self.lengths)

    def cut(self, words: int) -> Prepared:
        return Prepared([first_words(text, words) for text in self.texts], self.prompts, self.places, self.lengths)

    def at(self, chosen: Sequence[int]) -> Prepared:
        return Prepared(
            [self.texts[i] for i in chosen], [self.prompts[i] for i in chosen], [self.places[i] for i in chosen], self.lengths
        )


def prepare(given: Texts) -> Prepared:
    """One typography; texts under 50 words are left out, and counted."""
    normal, prompts = normalise(given.texts, given.sources), given.units()
    lengths = [len(tokens(text)) for text in normal]
    long = [i for i, n in enumerate(lengths) if n >= FEWEST_WORDS]
    return Prepared([normal[i] for i in long], [prompts[i] for i in long], long, lengths)


def common_length(sets: Sequence[Prepared]) -> int:
    """Words that all texts are cut to: the 10th percentile of those long enough, at most 150."""
    lengths = [n for some in sets for n in some.lengths if n >= FEWEST_WORDS]
    return min(MOST_WORDS, int(np.percentile(lengths, 10))) if lengths else MOST_WORDS


@dataclass(frozen=True, slots=True)
class Sample:
    """Measured texts [n]: points [n, d], scores [n] and the unit of each, numbered from 0 in `prompts`."""

    texts: Sequence[str]
    prompts: Sequence[Hashable]
    unit: IntArray
    points: FloatArray
    scores: FloatArray

    @property
    def unit_scores(self) -> FloatArray:
        """Mean score of each unit, [units]."""
        return np.asarray(self._shares() @ self.scores, dtype=np.float64)

    def distances(self, other: Sample) -> FloatArray:
        """Mean distance between the texts of a unit here and one there, [units, units]."""
        return np.asarray(self._shares() @ cdist(self.points, other.points) @ other._shares().T, dtype=np.float64)

    def take(self, units: Sequence[int]) -> Sample:
        """Only these units, in this order; one that is named twice counts twice."""
        found = [(new, i) for new, old in enumerate(units) for i in np.flatnonzero(self.unit == old)]
        new, i = (np.array(x, dtype=np.int64) for x in zip(*found, strict=True))
        return Sample([self.texts[k] for k in i], [self.prompts[k] for k in units], new, self.points[i], self.scores[i])

    def _shares(self) -> FloatArray:
        rows = (np.arange(len(self.prompts))[:, None] == self.unit).astype(np.float64)
        return np.asarray(rows / rows.sum(1, keepdims=True), dtype=np.float64)


def measure_sample(prepared: Prepared, space: Space, direction: FloatArray) -> Sample:
    """The points and scores of a set."""
    prompts = list(dict.fromkeys(prepared.prompts))
    number = {prompt: k for k, prompt in enumerate(prompts)}
    points = space.points(prepared.texts)
    unit = np.array([number[prompt] for prompt in prepared.prompts], dtype=np.int64)
    return Sample(prepared.texts, prompts, unit, points, points @ direction)
