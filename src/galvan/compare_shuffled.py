"""The control that needs no second model: the same words in another order must be far less likely, or word order does not reach the scores.

A language model knows English by the order of its words: the bundled base spends 24 to 33 % more nats on shuffled letters. But a
model with random weights, or one trained for five steps, prefers no order, and galvan also trains from nothing; so "not far worse" alone
refuses nobody. Two things no working scorer can produce, and these fail:

- *blind*: shuffled and real text score the same, on half of the documents or more, to within a fifth of a noise floor on average over
  tokens. The shuffled text keeps its tokens, so this is what a scorer gives that sorts or bags them; a model moves by more, trained or not.
- *inconsistent*: one arm sees the order (shuffled text at least 5 % less likely, beyond chance), and the other shows no sign of it (a rise
  below 2.5 % and below a fifth of the other's, which may be chance), though it finds the real text at least as likely. Knowing the text that well takes word order, so the
  two were not scored alike. Between the two bounds lie healthy arms: one over-trained minds shuffled words more than its base (5.1 and
  3.3 % were seen) and knows the text less well.

Where neither arm is far worse, nothing is shown and the control says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from galvan.statistics.checks import FloatArray, IntArray
from galvan.statistics.ratio import ratio

if TYPE_CHECKING:
    from galvan.compare import Arm

BLIND = 0.2  # noise floors: those are for the worst token, and a mean over tokens moves far less
UNMOVED = 0.025  # of the same; a rise below it is hardly one
FAR_WORSE = 0.05  # of the real text's negative log-likelihood; a fifth of what the bundled model shows


@dataclass(frozen=True, slots=True)
class ShuffledArm:
    """One arm on shuffled documents beside the same documents as they are. `rise` is the share by which negative log-likelihood per byte grows."""

    n_documents: int
    real_nats_per_byte: float
    rise: float
    far_worse: bool
    blind: bool
    unmoved: bool


def beside_real(real: Arm, shuffled: Arm, floor_nats: float) -> ShuffledArm:
    """Compare an arm's likelihoods of shuffled documents with those of the real ones; KeyError if the arm lacks one."""
    real = real.take(shuffled.documents)
    before, after = real.nll_nats / real.n_bytes, shuffled.nll_nats / shuffled.n_bytes
    moved = np.abs(shuffled.nll_nats / shuffled.n_tokens - real.nll_nats / real.n_tokens)
    blind = bool(np.median(moved) <= BLIND * floor_nats)
    rise = float(((after - before) * real.n_bytes).sum() / real.nll_nats.sum())
    far, unmoved = _seen(before, after, real.n_bytes)
    return ShuffledArm(len(real.documents), float(real.nll_nats.sum() / real.n_bytes.sum()), rise, far, blind, unmoved)


def _seen(before: FloatArray, after: FloatArray, n_bytes: IntArray) -> tuple[bool, bool]:
    """The rise is at least FAR_WORSE, and the 95 % interval over documents says that there is one (of one document, the rise alone); and:
    it is below UNMOVED."""
    estimate = ratio((after - before) * n_bytes, before * n_bytes)
    ci95 = estimate.interval()
    return estimate.value >= FAR_WORSE and (ci95 is None or ci95.low > 0), estimate.value < UNMOVED


def judge_shuffled(base: ShuffledArm, tuned: ShuffledArm) -> tuple[Literal["ok", "failed"] | None, str]:
    """Status and its sentence; None where neither arm prefers the real order."""
    named = (("base", base), ("tuned", tuned))
    figures = f"words shuffled: base {100 * base.rise:+.1f} %, tuned {100 * tuned.rise:+.1f} % of negative log-likelihood, {base.n_documents} documents"
    for name, arm in named:
        if arm.blind:
            return (
                "failed",
                f"The {name} arm scores text and the same words in another order alike, so word order does not reach the scores ({figures}).",
            )
    for (name, arm), (other, seeing) in (named, named[::-1]):
        if seeing.far_worse and arm.unmoved and arm.rise < seeing.rise / 5 and arm.real_nats_per_byte <= seeing.real_nats_per_byte:
            return (
                "failed",
                f"The {name} arm finds the text at least as likely as the {other} arm, but hardly minds its words shuffled: they were not scored alike ({figures}).",
            )
    if base.far_worse and tuned.far_worse:
        return "ok", f"Both arms find the text far less likely with its words shuffled ({figures})."
    lacking = " and ".join(name for name, arm in named if not arm.far_worse)
    return (
        None,
        f"Not shown: {lacking} hardly minds shuffled words, as an untrained or ruined model does, or a misaligned scorer ({figures}).",
    )
