"""The story of a style judgement: from sets of texts to one answer with its reasons (METHODS 4). No model, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from galvan.data.language import look
from galvan.rundir import to_json
from galvan.statistics.energy import Closed
from galvan.style import validity
from galvan.style.evidence import Tests, figures, smallest_fraction, tests
from galvan.style.explain import Delta, Moved, delta, side_by_side, what_moved
from galvan.style.features import Embedding, Space, learn
from galvan.style.guards import BaseLikelihood, Guard, Guards, length, vetoes
from galvan.style.normalise import Typography, typography
from galvan.style.others import LANGUAGE, equal_passages, other_voices
from galvan.style.samples import FEWEST_WORDS, Prepared, Sample, Texts, common_length, measure_sample, prepare
from galvan.style.score import AuthorScore, fit_direction
from galvan.style.validity import Check

Closer = Literal["yes", "no", "not shown", "not measurable"]
FEWEST, ENOUGH, MOST_AUTHOR, FEWEST_OF_VOICE = 25, 50, 400, 10
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True, slots=True)
class Counts:
    """Texts of one set: given, left out as too short, measured, and the units (prompts or documents) they make."""

    given: int
    too_short: int
    measured: int
    units: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt shown side by side: its rank, the tuned text's author score (raw, for order only), and which texts of the sets given."""

    rank: str
    prompt: object
    score: float
    base: int | None
    tuned: int


@dataclass(frozen=True, slots=True)
class Style:
    """Does it write like the author? Figures that are None have their reason in `reason` or in their own record."""

    closer: Closer
    reason: str
    vetoes: tuple[str, ...]
    author_score: AuthorScore | None
    gap_closed: Closed | None
    tests: Tests | None
    smallest_fraction_seen: float | None
    validity: tuple[Check, ...]
    guards: tuple[Guard, ...]
    moved: tuple[Moved, ...]
    delta: Delta | None
    pairs: tuple[Pair, ...]
    counts: Mapping[str, Counts]
    common_words: int
    typography: Mapping[str, Typography]
    cautions: tuple[str, ...]

    def to_json(self) -> str:
        """One JSON document."""
        return to_json(self)


def judge_style(
    author: Texts | Sequence[str],
    base: Texts | Sequence[str],
    tuned: Texts | Sequence[str],
    held_out: Texts | Sequence[str] | None = None,
    *,
    base_again: Texts | Sequence[str] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    likelihood: BaseLikelihood | None = None,
    excess_copying: bool | None = None,
    leave_out: frozenset[str] = frozenset(),
    embed: Embedding | None = None,
    seed: int = 0,
) -> Style:
    """Do the tuned outputs lie closer to the author than the base's, on held-out text, and are they sound?

    `author` are training texts, `held_out` texts of the same author that no model was trained on (without them, three tenths of
    `author` are set aside, in blocks). `base` and `tuned` are outputs on the same prompts (by `Texts.prompts`, else by order);
    `base_again` are further base outputs, which teach the score what the base writes like - without them every second prompt of the
    base does that, and only the others are judged. `others` are other authors by name, to be told from this one. `leave_out` are
    words that are no features, such as `PRONOUNS` and `CONTRACTIONS`. `embed` puts a style embedding in place of the features, behind the same checks.

    At least 25 usable texts of every set, 50 words each; else the answer is "not measurable", with the reason.
    """
    sets = _sets(author, base, tuned, held_out, base_again)
    ready = {name: prepare(texts) for name, texts in sets.items()}
    words = common_length(list(ready.values()))
    ready = {name: some.cut(words) for name, some in ready.items()}
    cautions = (
        []
        if held_out is not None
        else ["No held-out text was given: three tenths of the author's were set aside, which the model may know."]
    )
    frame = Frame({name: typography(texts.texts) for name, texts in sets.items()}, ready, words, cautions)
    reason = _cannot(sets["author"]) or _too_little(ready)
    if reason is not None:
        return frame.answer("not measurable", reason)
    rng = np.random.default_rng(seed)
    teaching, judged = _split_base(ready)
    ready["author"] = _thinned(ready["author"])
    space = learn([*ready["author"].texts, *teaching.texts], leave_out, embed)
    direction = fit_direction(space.points(ready["author"].texts), space.points(teaching.texts))
    u, q, h = (measure_sample(some, space, direction) for some in (ready["tuned"], judged, ready["held_out"]))
    guards = Guards(ready["author"].texts, teaching.texts, h, space.kept)
    voices = _voices(sets, others, guards, words)
    frame.cautions += [
        f"{name} has fewer than {FEWEST_OF_VOICE} texts of {FEWEST_WORDS} words, so it was not asked whether it can be told from the author."
        for name in others or ()
        if name not in voices
    ]
    panel = _panel(h, q, guards, space, direction, voices, rng)
    found = [*guards.look(u, likelihood, excess_copying), length(ready["tuned"], ready["held_out"])]
    frame.checks, frame.guards = panel, found
    frame.pairs = _pairs(u, q, ready)
    frame.moved = what_moved(space, h, q, u)
    if failed := [check for check in panel if check.ok is False]:
        return frame.answer("not measurable", f"The measure fails on these texts: {'; '.join(check.says for check in failed)}.")
    frame.score, frame.closed = figures(u, q, h, rng)
    frame.tests = tests(u, q, h, rng)
    frame.fraction = smallest_fraction(q, h, frame.tests.n_pairs, rng)
    frame.delta = delta(space, h, q, u)
    return frame.answer(*_decide(frame.tests, vetoes(found), frame.fraction))


class Frame:
    """What is known so far, so that an answer can be given at any step."""

    def __init__(self, type_: Mapping[str, Typography], ready: Mapping[str, Prepared], words: int, cautions: list[str]) -> None:
        self.type, self.words, self.cautions = type_, words, cautions
        self.counts = {
            name: Counts(len(some.lengths), some.short, len(some.texts), len(set(some.prompts))) for name, some in ready.items()
        }
        self.checks: Sequence[Check] = ()
        self.guards: Sequence[Guard] = ()
        self.moved: Sequence[Moved] = ()
        self.pairs: Sequence[Pair] = ()
        self.score: AuthorScore | None = None
        self.closed: Closed | None = None
        self.tests: Tests | None = None
        self.fraction: float | None = None
        self.delta: Delta | None = None

    def answer(self, closer: Closer, reason: str) -> Style:
        few = [
            f"{name.replace('_', '-')} {n.units}"
            for name, n in self.counts.items()
            if name in ("base", "tuned") and n.units < ENOUGH
        ]
        cautions = [
            *self.cautions,
            *([f"Fewer than {ENOUGH} prompts ({', '.join(few)}): only large changes can be seen."] if few else []),
        ]
        cautions += [f"Not checked: {check.says}." for check in self.checks if check.ok is None]
        return Style(
            closer, reason, tuple(vetoes(self.guards)), self.score, self.closed, self.tests, self.fraction, tuple(self.checks),
            tuple(self.guards), tuple(self.moved), self.delta, tuple(self.pairs), self.counts, self.words, self.type, tuple(cautions),
        )  # fmt: skip


def _sets(author: Texts | Sequence[str], base: Texts | Sequence[str], tuned: Texts | Sequence[str], held_out: Texts | Sequence[str] | None, base_again: Texts | Sequence[str] | None) -> dict[str, Texts]:  # fmt: skip
    def one(given: Texts | Sequence[str]) -> Texts:
        return given if isinstance(given, Texts) else Texts(list(given))

    texts = one(author)
    sets = {"author": texts, "held_out": texts if held_out is None else one(held_out), "base": one(base), "tuned": one(tuned)}
    if held_out is None:
        tenth = [10 * i // max(1, len(texts.texts)) % 10 for i in range(len(texts.texts))]
        for name, inside in (("author", False), ("held_out", True)):
            chosen = [i for i, t in enumerate(tenth) if (t in (2, 5, 8)) == inside]
            sets[name] = Texts(
                [texts.texts[i] for i in chosen], None, [texts.sources[i] for i in chosen] if texts.sources else None
            )
    if base_again is not None:
        sets["base_again"] = one(base_again)
    return sets


def _too_little(ready: Mapping[str, Prepared]) -> str | None:
    few = [f"{n} of {name.replace('_', '-')}" for name, some in ready.items() if (n := len(set(some.prompts))) < FEWEST]
    shared = set(ready["base"].prompts) & set(ready["tuned"].prompts)
    if few:
        return f"Too few texts of {FEWEST_WORDS} words or more: {', '.join(few)}; {FEWEST} of each are needed, {ENOUGH} are better."
    if len(shared) < FEWEST:
        return f"Base and tuned answer only {len(shared)} prompts in common at sufficient length; {FEWEST} are needed."
    return None


def _cannot(author: Texts) -> str | None:
    """Scripts without spaces between words cannot be counted in words here."""
    scripts: dict[str, int] = {}
    for text in author.texts:
        for name, n in look(text).scripts.items():
            scripts[name] = scripts.get(name, 0) + n
    most = max(scripts, key=lambda name: scripts[name], default="LATIN")
    return (
        f"The author's script ({most.lower()}) has no spaces between words, and these measures count words."
        if most in _UNSPACED
        else None
    )


def _split_base(ready: Mapping[str, Prepared]) -> tuple[Prepared, Prepared]:
    """The base outputs that teach, and those that are judged: never the same."""
    base = ready["base"]
    if "base_again" in ready:
        return ready["base_again"], base
    half = set(list(dict.fromkeys(base.prompts))[::2])
    teaching = [i for i, prompt in enumerate(base.prompts) if prompt in half]
    return base.at(teaching), base.at([i for i, prompt in enumerate(base.prompts) if prompt not in half])


def _thinned(author: Prepared) -> Prepared:
    """At most 400 texts, evenly spread: more teach the score nothing and cost time."""
    n = len(author.texts)
    return author if n <= MOST_AUTHOR else author.at([i * n // MOST_AUTHOR for i in range(MOST_AUTHOR)])


def _voices(
    sets: Mapping[str, Texts], others: Mapping[str, Sequence[str]] | None, guards: Guards, words: int
) -> dict[str, Prepared]:
    """Other authors in the author's language, cut to the common length; those with too few usable texts do not count."""
    known = other_voices([*sets["author"].texts, *sets["held_out"].texts]) if guards.language == LANGUAGE else {}
    bundled = {name: equal_passages(texts, words) for name, texts in known.items()}
    ready = {name: prepare(Texts(texts)).cut(words) for name, texts in {**bundled, **(others or {})}.items()}
    return {name: some for name, some in ready.items() if len(some.texts) >= FEWEST_OF_VOICE}


def _panel(h: Sample, q: Sample, guards: Guards, space: Space, direction: np.ndarray, voices: Mapping[str, Prepared], rng: np.random.Generator) -> list[Check]:  # fmt: skip
    scrambled = Prepared(validity.shuffled_texts(h, rng), list(range(len(h.texts))), [], [])
    known = {name: measure_sample(some, space, direction) for name, some in voices.items()}
    why = f"no other author's texts in this language were given, and the bundled ones are {LANGUAGE}"
    return [
        validity.halves(h, q, rng),
        validity.others(known, h, why, rng),
        *validity.spoiled(h, measure_sample(scrambled, space, direction), validity.repeated_units(h), guards),
        validity.base_against_author(h, q),
    ]


def _pairs(u: Sample, q: Sample, ready: Mapping[str, Prepared]) -> list[Pair]:
    """Median, best and worst tuned text among the prompts that the base answered too; each with its first base text."""
    tuned, base = ready["tuned"], ready["base"]
    first = dict(reversed(list(zip(base.prompts, base.places, strict=True))))
    shown = [i for i, prompt in enumerate(tuned.prompts) if prompt in first]
    ranks = side_by_side([float(u.scores[i]) for i in shown])
    return [
        Pair(rank, tuned.prompts[shown[k]], float(u.scores[shown[k]]), first[tuned.prompts[shown[k]]], tuned.places[shown[k]])
        for rank, k in ranks.items()
    ]


def _decide(found: Tests, vetoed: Sequence[str], fraction: float | None) -> tuple[Closer, str]:
    p = f"one-sided p {found.score.p_larger:.4f} for the author score and {found.energy.p_larger:.4f} for the energy distance, {found.n_pairs} prompts"
    if found.closer and not vetoed:
        return "yes", f"Both tests place it closer to the author than the base ({p}), and no guard vetoes."
    if found.closer:
        return "not shown", f"The counts move toward the author ({p}), but the texts are vetoed for {' and '.join(vetoed)}."
    if found.further:
        return (
            "no",
            f"Both tests place it farther from the author than the base (p {found.score.p_smaller:.4f} and {found.energy.p_smaller:.4f}).",
        )
    power = (
        "not even the author's own texts would have been seen" if fraction is None
        else f"a mixture with {100 * fraction:.0f} % of the author's own texts would have been seen 4 times in 5"
    )  # fmt: skip
    return "not shown", f"The two tests do not both place it closer ({p}); with these texts {power}."
