"""Texts as points: common words, character runs of distorted text, punctuation and other measures, all in one standard scale (METHODS S4.3).

The space is learned from the author's training texts and one part of the base's outputs, never from what is judged in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from galvan.statistics.checks import FloatArray
from galvan.style.measures import MEASURES
from galvan.style.normalise import distorted, tokens

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import CountVectorizer

N_WORDS, N_KEPT, N_RUNS, CLIP, SD_FLOOR = 150, 300, 1500, 4.0, 1e-3
Embedding = Callable[[Sequence[str]], npt.ArrayLike]  # normalised texts [n] to points [n, d]; any dimension


@dataclass(frozen=True, slots=True)
class Space:
    """Where texts are measured: `points` gives clipped z-scores [n, d], `plain` the values that people can read [n, len(phrases)]."""

    words: tuple[str, ...]
    phrases: tuple[str, ...]
    mean: FloatArray
    scale: FloatArray
    kept: frozenset[str]
    runs: CountVectorizer
    embed: Embedding | None = None

    def points(self, texts: Sequence[str]) -> FloatArray:
        """z-scores of normalised texts, clipped at +-4; a measure that a text is too short for lies at the mean."""
        raw = self._raw(texts)
        z = (np.where(np.isnan(raw), self.mean, raw) - self.mean) / self.scale
        return np.asarray(np.clip(z, -CLIP, CLIP), dtype=np.float64)

    def plain(self, texts: Sequence[str]) -> FloatArray:
        """Words per 1,000 and the measures in their own units, [n, len(phrases)]; NaN where a text is too short for one."""
        return np.hstack([1000 * word_rates(texts, self.words), measured(texts)])

    def _raw(self, texts: Sequence[str]) -> FloatArray:
        if self.embed is not None:
            return _embedded(self.embed, texts)
        return np.hstack([word_rates(texts, self.words), self._run_rates(texts), measured(texts)])

    def _run_rates(self, texts: Sequence[str]) -> FloatArray:
        masked = [distorted(text, self.kept) for text in texts]
        counts = self.runs.transform(masked).toarray()
        return np.asarray(np.sqrt(counts / np.maximum(1, [[len(text)] for text in masked])), dtype=np.float64)


def learn(texts: Sequence[str], leave_out: frozenset[str] = frozenset(), embed: Embedding | None = None) -> Space:
    """The space of normalised `texts` [n]; words of `leave_out` are no features of their own."""
    from sklearn.feature_extraction.text import CountVectorizer  # a second of imports, which a run without samples need not pay

    common = [word for word, _ in Counter(word for text in texts for word in tokens(text)).most_common(N_KEPT)]
    words = tuple([word for word in common if word not in leave_out][:N_WORDS])
    kept = frozenset(common)
    runs = CountVectorizer(analyzer="char", ngram_range=(2, 4), max_features=N_RUNS, lowercase=False)
    runs.fit([distorted(text, kept) for text in texts])
    phrases = (*(f"the word \u201c{word}\u201d, per 1,000 words" for word in words), *(measure.phrase for measure in MEASURES))
    blank = Space(words, phrases, np.zeros(1), np.ones(1), kept, runs, embed)
    raw = blank._raw(texts)
    undefined = np.isnan(raw).all(axis=0)
    raw[:, undefined] = 0.0
    sd = np.nanstd(raw, axis=0)
    floor = SD_FLOOR * float(np.median(sd[sd > 0])) if (sd > 0).any() else 1.0
    return Space(words, phrases, np.nanmean(raw, axis=0), np.maximum(sd, floor), kept, runs, embed)


def word_rates(texts: Sequence[str], words: Sequence[str]) -> FloatArray:
    """Relative frequencies of `words` in each text, [n, len(words)]."""
    place = {word: k for k, word in enumerate(words)}
    rates = np.zeros((len(texts), len(words)))
    for i, text in enumerate(texts):
        found = tokens(text)
        for word in found:
            if word in place:
                rates[i, place[word]] += 1 / len(found)
    return rates


def measured(texts: Sequence[str]) -> FloatArray:
    """Every `@measure` of each text, [n, len(MEASURES)]; NaN where it is None."""
    return np.array([[np.nan if (v := measure(text)) is None else v for measure in MEASURES] for text in texts]).reshape(
        len(texts), len(MEASURES)
    )


def _embedded(embed: Embedding, texts: Sequence[str]) -> FloatArray:
    points = np.asarray(embed(list(texts)), dtype=np.float64)
    if points.ndim != 2 or len(points) != len(texts) or not np.isfinite(points).all():
        raise ValueError(f"`embed` must give one finite vector a text, [{len(texts)}, d]; got shape {points.shape} instead.")
    return points
