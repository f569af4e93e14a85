"""May the measure be trusted on these very texts? Known answers first, before any figure is shown (METHODS S4.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from galvan.statistics.energy import energy, two_sample_p
from galvan.style.evidence import ALPHA, figures
from galvan.style.guards import Guards, shuffle_words, vetoes
from galvan.style.samples import Sample

FEWEST_AUC, MOST_OF_BASE, REPEATED = 0.75, 0.35, 3


@dataclass(frozen=True, slots=True)
class Check:
    """One known answer: `ok` None where it could not be asked."""

    name: Literal["author against author", "other voices", "shuffled words", "repeated texts", "base against author"]
    ok: bool | None
    says: str


def halves(held_out: Sample, base: Sample, rng: np.random.Generator) -> Check:
    """One half of the held-out texts, judged as if a model had written it, must come out as the author."""
    units = range(len(held_out.prompts))
    one, other = held_out.take(units[::2]), held_out.take(units[1::2])
    score, closed = figures(one, base, other, rng)
    share = closed.tuned_energy / closed.base_energy if closed.base_energy > 0 else float("inf")
    inside = score.ci95 is not None and score.ci95.low <= 1 <= score.ci95.high
    shown = "undefined" if score.value is None else f"{score.value:.2f}"
    interval = "no interval" if score.ci95 is None else f"{score.ci95.low:.2f} to {score.ci95.high:.2f}"
    return Check(
        "author against author", inside and share < MOST_OF_BASE,
        f"half of the held-out texts scores {shown} ({interval}) beside the other half, at {100 * share:.0f} % of the base's distance; "
        f"1 and under {100 * MOST_OF_BASE:.0f} % are asked",
    )  # fmt: skip


def others(voices: Mapping[str, Sample], held_out: Sample, reason: str, rng: np.random.Generator) -> Check:
    """Every other voice must lie farther from the held-out texts than parts of one and the same voice would, 19 times in 20."""
    if not voices:
        return Check("other voices", None, reason)
    n, within = len(held_out.prompts), held_out.distances(held_out)
    found: list[tuple[float, float, str]] = []
    for name, voice in voices.items():
        across, own = held_out.distances(voice), voice.distances(voice)
        p = two_sample_p(np.block([[within, across], [across.T, own]]), n, rng)
        found.append((p, -energy(across, within, own), name))
    p, nearness, name = max(found)
    sizes = [len(voice.prompts) for voice in voices.values()]
    return Check(
        "other voices", p <= ALPHA,
        f"of {len(found)} other voices of {min(sizes)} to {max(sizes)} texts the one hardest to tell from the author, {name}, lies {-nearness:.2f} away; "
        f"parts of one voice would lie so far apart with chance {p:.3f}, and {ALPHA} at most is asked",
    )  # fmt: skip


def base_against_author(held_out: Sample, base: Sample) -> Check:
    """The score must tell held-out texts from base outputs, or there is no distance to close."""
    from sklearn.metrics import roc_auc_score

    labels = np.r_[np.ones(len(held_out.prompts)), np.zeros(len(base.prompts))]
    area = float(roc_auc_score(labels, np.r_[held_out.unit_scores, base.unit_scores]))
    short = ": the base already writes like this author on these features, or they cannot tell" if area < FEWEST_AUC else ""
    return Check(
        "base against author", area >= FEWEST_AUC,
        f"held-out texts and base outputs are told apart with AUC {area:.2f} ({FEWEST_AUC} is asked){short}",
    )  # fmt: skip


def spoiled(held_out: Sample, shuffled: Sample, repeated: Sample, guards: Guards) -> list[Check]:
    """The author's own words shuffled, and three of the author's texts over and over, must be vetoed."""
    found: list[Check] = []
    for name, sample in (("shuffled words", shuffled), ("repeated texts", repeated)):
        named = vetoes(guards.look(sample))
        says = f"vetoed for {' and '.join(named)}" if named else "no guard noticed"
        found.append(
            Check(
                "shuffled words" if name == "shuffled words" else "repeated texts", bool(named), f"held-out texts, {name}: {says}"
            )
        )
    return found


def shuffled_texts(held_out: Sample, rng: np.random.Generator) -> list[str]:
    return [shuffle_words(text, rng) for text in held_out.texts]


def repeated_units(held_out: Sample) -> Sample:
    """Three held-out texts, as often as there are held-out texts."""
    n = len(held_out.prompts)
    chosen = [0, n // 3, 2 * n // 3][:REPEATED]
    return held_out.take([chosen[k % len(chosen)] for k in range(n)])
