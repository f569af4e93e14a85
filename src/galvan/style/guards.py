"""What word counts cannot see, each able to veto with a name: word order, repetition, length, copying, characters (METHODS S4.6).

The author's own words in random order score as the author, and so do three of the author's texts over and over.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import fisher_exact

from galvan.data.language import look
from galvan.data.overlap import Corpus, documents_sharing, matches
from galvan.statistics.checks import FloatArray
from galvan.statistics.energy import apart
from galvan.style.normalise import distorted, tokens
from galvan.style.samples import FEWEST_WORDS, Prepared, Sample

Name = Literal["coherence", "repetition", "length", "copying", "character set"]
NGRAM, SHARED_RUN, COPIED_RUN = 4, 8, 10
MORE, SURE = 0.10, 0.01  # a share is too high where it lies so much above the author's own, with a chance below this
STRANGE_CHARACTERS, NEAR_EACH_OTHER = 0.01, 0.5


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard's finding: `ok` False vetoes, None was not asked. `says` gives the figures."""

    name: Name
    ok: bool | None
    says: str


@dataclass(frozen=True, slots=True)
class BaseLikelihood:
    """Nats per token that the untouched base gives to each tuned output, held-out text, and held-out text with its words shuffled."""

    tuned: Sequence[float]
    held_out: Sequence[float]
    shuffled: Sequence[float] = ()


class WordOrder:
    """How much likelier a text's own word order is than a random one, by a bigram model of grammar words and marks (Witten-Bell).

    Words outside the common ones are one word, so that it is syntax that counts, in any language with spaces.
    """

    def __init__(self, texts: Sequence[str], kept: frozenset[str]) -> None:
        self.kept = kept
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.followers: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        for text in texts:
            found = self._tokens(text)
            self.words.update(found)
            self.pairs.update(itertools.pairwise(found))
        self.before: Counter[str] = Counter()
        for (first, _), n in self.pairs.items():
            self.before[first] += n
            self.followers[first] += 1
        self.total = sum(self.words.values()) + len(self.words) + 1

    def _tokens(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+(?:'[^\W_]+)*|\*|[^\w\s]", distorted(text, self.kept))

    def _nats(self, text: str) -> float:
        found = self._tokens(text)
        total = 0.0
        for first, second in itertools.pairwise(found):
            alone = (self.words[second] + 1) / self.total
            n, kinds = self.before[first], self.followers[first]
            total -= math.log((self.pairs[first, second] + kinds * alone) / (n + kinds) if n else alone)
        return total / max(1, len(found) - 1)

    def gains(self, texts: Sequence[str]) -> FloatArray:
        """Nats a word by which each text beats a shuffle of its own words; about 0 for word salad."""
        rng = np.random.default_rng(0)
        return np.array([np.mean([self._nats(shuffle_words(text, rng)) for _ in range(2)]) - self._nats(text) for text in texts])


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """The words of a text, with the marks that stick to them, in random order."""
    return " ".join(rng.permutation(text.split()).tolist())


class Guards:
    """The author's own figures, against which any set of texts can be held."""

    def __init__(self, author: Sequence[str], base: Sequence[str], held_out: Sample, kept: frozenset[str]) -> None:
        self.held_out = held_out
        self.order = WordOrder([*author, *base], kept)
        self.order_gain = float(self.order.gains(held_out.texts).mean())
        self.spread = apart(held_out.distances(held_out))
        self.repeats = [repeat_rate(text) for text in held_out.texts]
        self.corpus = Corpus([tokens(text) for text in author])
        self.copied = len(documents_sharing(self.corpus, Corpus([tokens(text) for text in held_out.texts]), COPIED_RUN))
        self.characters = frozenset("".join([*author, *held_out.texts]))
        self.script = _scripts(held_out.texts).most_common(1)[0][0]
        self.language = _language(held_out.texts)

    def look(self, tuned: Sample, likelihood: BaseLikelihood | None = None, excess_copying: bool | None = None) -> list[Guard]:
        """Every guard but length. `excess_copying`: what originality found, where it was asked; else runs of ten words are counted."""
        return [
            self.coherence(tuned), base_likelihood(likelihood), *self.repetition(tuned), self.copying(tuned, excess_copying),
            self.character_set(tuned),
        ]  # fmt: skip

    def coherence(self, tuned: Sample) -> Guard:
        gain = float(self.order.gains(tuned.texts).mean())
        return Guard(
            "coherence", gain >= self.order_gain / 2,
            f"its word order beats a random one by {gain:.2f} nats a word, the author's by {self.order_gain:.2f}; half of that is asked",
        )  # fmt: skip

    def repetition(self, tuned: Sample) -> list[Guard]:
        spread = apart(tuned.distances(tuned))
        limit = float(np.percentile(self.repeats, 99)) + 0.05
        looping = sum(repeat_rate(text) > limit for text in tuned.texts)
        n, m = len(tuned.texts), len(self.held_out.texts)
        own = sum(rate > limit for rate in self.repeats)
        shared, theirs = _sharing_a_run(tuned), _sharing_a_run(self.held_out)
        return [
            Guard(
                "repetition", not _more_often(looping, n, own, m),
                f"{looping} of {n} texts repeat more of their own {NGRAM}-word runs than the author does ({own} of {m})",
            ),
            Guard(
                "repetition", not _more_often(shared, n, theirs, m),
                f"{shared} of {n} texts share a run of {SHARED_RUN} words with the text of another prompt, the author's {theirs} of {m}",
            ),
            Guard(
                "repetition", spread >= NEAR_EACH_OTHER * self.spread,
                f"two of its texts lie {spread:.1f} apart on average, two of the author's {self.spread:.1f}",
            ),
        ]  # fmt: skip

    def copying(self, tuned: Sample, excess: bool | None) -> Guard:
        if excess is not None:
            return Guard(
                "copying", not excess, "excess copying of the training text" if excess else "no excess copying of the training text"
            )
        n, m = len(tuned.texts), len(self.held_out.texts)
        copied = len(documents_sharing(self.corpus, Corpus([tokens(text) for text in tuned.texts]), COPIED_RUN))
        return Guard(
            "copying", not _more_often(copied, n, self.copied, m, by=0.0),
            f"{copied} of {n} texts share a run of {COPIED_RUN} words with the author's training text, {self.copied} of {m} held-out ones",
        )  # fmt: skip

    def character_set(self, tuned: Sample) -> Guard:
        def strange(texts: Sequence[str]) -> float:
            letters = "".join(texts)
            return sum(letter not in self.characters for letter in letters) / max(1, len(letters))

        scripts, language = _scripts(tuned.texts), _language(tuned.texts)
        other = 1 - scripts[self.script] / max(1, scripts.total())
        share = strange(tuned.texts)
        spoken = language is None or self.language is None or language == self.language
        tongue = "" if spoken else f", and its little words are {language}, the author's {self.language}"
        return Guard(
            "character set", share <= STRANGE_CHARACTERS and other <= MORE and spoken,
            f"{100 * share:.2f} % of its characters occur nowhere in the author's texts, {100 * other:.1f} % of its letters are of another script{tongue}",
        )  # fmt: skip


def base_likelihood(known: BaseLikelihood | None) -> Guard:
    """METHODS S4.6: by the base's own likelihood the texts are neither stranger than the author's nor as strange as shuffled words."""
    if known is None or not len(known.tuned) or not len(known.held_out):
        return Guard("coherence", None, "the base's likelihood of these texts was not given")
    low, high = map(float, np.percentile(known.held_out, [1, 99]))
    low, high = low - 0.2 * (high - low), high + 0.2 * (high - low)
    mean = float(np.mean(known.tuned))
    limit = min(high, float(np.median(known.shuffled))) if len(known.shuffled) else high
    return Guard(
        "coherence", low <= mean <= limit,
        f"the base gives its texts {mean:.2f} nats a token on average; {low:.2f} to {limit:.2f} would be as the author's",
    )  # fmt: skip


def length(tuned: Prepared, held_out: Prepared) -> Guard:
    """Are the outputs long enough to be judged, as far as the author's texts are?"""
    n, m = len(tuned.lengths), len(held_out.lengths)
    median, own = float(np.median(tuned.lengths)), float(np.median(held_out.lengths))
    too_short = _more_often(tuned.short, n, held_out.short, m, by=0.25) or median < own / 2
    return Guard(
        "length", not too_short,
        f"{tuned.short} of {n} texts have fewer than {FEWEST_WORDS} words (held-out {held_out.short} of {m}); medians {median:.0f} and {own:.0f} words",
    )  # fmt: skip


def vetoes(guards: Sequence[Guard]) -> list[str]:
    """Names of the guards that veto, each once."""
    return list(dict.fromkeys(guard.name for guard in guards if guard.ok is False))


def repeat_rate(text: str) -> float:
    """Share of a text's 4-word runs that stood in it before."""
    words = tokens(text)
    runs = list(zip(*(words[k:] for k in range(NGRAM)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _more_often(k: int, n: int, k0: int, n0: int, by: float = MORE) -> bool:
    """Is k of n above k0 of n0, by more than `by` and more than chance (Fisher, one-sided)?"""
    return k / n - k0 / n0 > by and float(fisher_exact([[k, n - k], [k0, n0 - k0]], "greater").pvalue) < SURE


def _sharing_a_run(sample: Sample) -> int:
    """Texts that share a run of eight words with a text of another unit."""
    corpus = Corpus([tokens(text) for text in sample.texts])
    starts, _ = matches(corpus, corpus, SHARED_RUN)
    hashes = corpus.hashes(starts, SHARED_RUN)
    document = corpus.owner[starts]
    units: dict[int, set[int]] = {}
    for key, unit in zip(hashes.tolist(), sample.unit[document].tolist(), strict=True):
        units.setdefault(key, set()).add(unit)
    return len({text for key, text in zip(hashes.tolist(), document.tolist(), strict=True) if len(units[key]) > 1})


def _scripts(texts: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text in texts:
        found.update(look(text).scripts)
    return found


def _language(texts: Sequence[str]) -> str | None:
    """The language that the little words of a set vote for, if more than half do."""
    votes: Counter[str] = Counter()
    for text in texts:
        votes.update(look(text).votes)
    best = votes.most_common(1)
    return best[0][0] if best and best[0][1] > sum(votes.values()) / 2.5 else None
