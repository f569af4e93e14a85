"""Why a run came out as it did: each explanation that people reach for, with the figures for it, against it, and what would settle it.

One function an explanation, in order in `EXPLANATIONS`; sentences are plain text, escaped by whoever prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from galvan.diagnosis.catalogue import Finding
from galvan.report.evidence import Evidence
from galvan.report.prose import control_line, epochs, nats, percent, percent_interval, plural
from galvan.report.remedies import FEW_STEPS, LEARNING_RATES, attention_only, capacity, still_falling
from galvan.statistics.bits_per_byte import BitsGain
from galvan.statistics.paired import Gain
from galvan.statistics.power import shown_count

Status = Literal["Shown", "Supported", "Not settled", "Unlikely", "Excluded"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`because` speaks for it, `against` against it; both may be empty, never left out."""

    title: str
    status: Status
    because: list[str]
    against: list[str]
    settle: str


def explanations(e: Evidence) -> list[Explanation]:
    return [found for ask in EXPLANATIONS if (found := ask(e)) is not None]


def _applied_family(finding: Finding) -> bool:
    return finding.code[0] in "AB" or finding.code == "C02"


def not_applied(e: Evidence) -> Explanation:
    """The origin's first suspicion. Its own check, printing active_adapters, cannot tell: it looks healthy for every dead adapter."""
    because = [
        f"{f.code} ({f.title}): {f.because[0]}" for f in e.findings if _applied_family(f) and f.status == "present" and f.because
    ]
    absent = [f for f in e.findings if _applied_family(f) and f.status == "absent"]
    against = [f"{f.code} is excluded: {f.against[0]}" for f in absent if f.against]
    known = e.comparisons
    if known:
        seen = known.identity
        (against if seen.status == "different" else because).append(seen.reason)
        for name, control in known.controls.items():
            if control.status is not None:
                (against if control.status == "ok" else because).append(control_line(name, control))
    shown = bool([f for f in e.findings if _applied_family(f) and f.status == "present"]) or bool(
        known and known.identity.status == "identical"
    )
    different = known is not None and known.identity.status == "different"
    status: Status = "Shown" if shown else "Excluded" if different and not because else "Not settled"
    settle = (
        "Score the base in a process that never loads the adapter, and check that every "
        "tensor in memory equals the adapter's file: galvan check BASE ADAPTER does both."
    )
    return Explanation("The adapter is not applied, or one model was measured twice", status, because, against, settle)


def too_little_training(e: Evidence) -> Explanation | None:
    if e.training is None:
        return Explanation(
            "Training was insufficient",
            "Not settled",
            [],
            [],
            "Not known here: this adapter was trained elsewhere and left no log; look at its loss curve.",
        )
    settings, curve = e.recipe.training, e.curve
    steps, probe = int(e.training.get("steps") or 0), e.comparisons.probe if e.comparisons else None
    low, _, high = LEARNING_RATES[settings.method]
    because: list[str] = []
    against: list[str] = []
    where = because if steps < FEW_STEPS else against
    where.append(
        f"{plural(steps, 'step')} were made in {epochs(settings.epochs)} of {plural(int(e.training.get('rows') or 0), 'document')}"
    )
    if settings.learning_rate < low:
        because.append(
            f"The learning rate of {settings.learning_rate:g} lies below {low:g} to {high:g}, where {settings.method} training usually works"
        )
    if attention_only(e):
        because.append("Only attention layers were adapted, which learns less than adapting all linear layers")
    if curve is not None:
        kind = curve.kind
        (because if kind == "not learning" or still_falling(e) else against if kind in ("saturated", "over-fitted") else []).append(
            f"The curve is {kind}: {curve.reason}"
        )
    if probe is not None and probe.ci95 is not None:
        where = against if probe.ci95.low > 5 * probe.margin else because
        where.append(f"On text it was trained on the model gained {nats(probe.nats_per_token, probe.ci95)}")
    bits = capacity(e)
    if bits is not None and not bits.short:
        learned, room = max(0.0, bits.learned), bits.room
        against.append(
            f"A higher rank is not the cure: the trained parameters have room for about {room:,.0f} bits and have learned {learned:,.0f}"
        )
    kind = curve.kind if curve else "not determined"
    level = kind == "over-fitted" or (kind == "saturated" and steps >= FEW_STEPS)
    status: Status = "Supported" if kind == "not learning" or still_falling(e) else "Unlikely" if level else "Not settled"
    return Explanation(
        "Training was insufficient",
        status,
        because,
        against,
        "Train longer and watch held-out loss at each evaluation: if it goes on falling, this was it; if it rises or stays, it was not.",
    )


def too_small(e: Evidence) -> Explanation | None:
    test = e.test
    if test is None:
        return None
    because: list[str] = []
    against: list[str] = []
    detail = test.sensitivity
    needs = test.documents_needed_for_margin
    if test.verdict == "inconclusive":
        because = [detail, test.reason]
        if needs is not None:
            because.append(f"A change as large as the margin needs {needs}")
        status: Status = "Shown" if test.mde80_percent is None or test.mde80_percent > _margin_percent(test) else "Supported"
    else:
        against = [f"The verdict is {test.verdict}: {test.reason}", detail]
        status = "Excluded"
    if test.lag1_autocorrelation is not None:
        because += (
            [f"Gains of neighbouring documents correlate at {test.lag1_autocorrelation:+.2f}"]
            if test.lag1_autocorrelation > 0.2
            else []
        )
    need = "more text" if needs is None else f"{shown_count(needs.documents80)} documents"
    return Explanation(
        "The evaluation is too small to show it",
        status,
        because,
        against,
        f"Judge on {need}: a change as large as the margin is then seen with a chance of 80 %.",
    )


def _margin_percent(test: Gain) -> float:
    return 100 * test.margin


def already_suited(e: Evidence) -> Explanation | None:
    test, known = e.test, e.comparisons
    if test is None or known is None or known.bits is None:
        return None
    probe = known.probe
    because: list[str] = []
    against: list[str] = []
    gained = probe is not None and probe.ci95 is not None and probe.ci95.low > probe.margin
    if probe is not None:
        (against if gained else because).append(
            f"Even on the text it was trained on, the model gained {nats(probe.nats_per_token, probe.ci95)}"
        )
    if test.verdict == "improved":
        against.append(f"Held-out perplexity changed by {percent(test.perplexity_change_percent)}, so there was something to gain")
    status: Status = "Excluded" if test.verdict == "improved" else "Unlikely" if gained else "Not settled"
    settle = (
        f"Its perplexity of {test.base_perplexity:.2f} ({known.bits.base_bits_per_byte:.3f} bits per byte) cannot show this, high or low. "
        "Train at three learning rates: if no rate gains even on training text, the base has nothing left to learn from it."
    )
    return Explanation("The base was already suited to this text", status, because, against, settle)


def over_fitted(e: Evidence) -> Explanation | None:
    known = e.comparisons
    because: list[str] = []
    against: list[str] = []
    if known is None or known.test is None:
        return None
    if known.probe is not None and known.probe_minus_test is not None:
        apart = known.probe_minus_test
        text = (
            f"Training text gained {nats(known.probe.nats_per_token, known.probe.ci95)}, held-out text {nats(known.test.nats_per_token, known.test.ci95)}; "
            f"the difference is {nats(apart.value, apart.ci95)}"
        )
        (because if apart.ci95 is not None and apart.ci95.low > known.test.margin else against).append(text)
    kind = e.curve.kind if e.curve else None
    if e.curve is not None and kind == "over-fitted":
        because.append(e.curve.reason)
    elif e.curve is not None and e.curve.points and e.curve.best_step == e.curve.points[-1].step:
        against.append(f"Held-out loss was lowest at the last evaluation, step {e.curve.best_step}")
    status: Status = (
        "Shown"
        if kind == "over-fitted"
        else "Supported"
        if because and known.test.verdict == "worse"
        else "Not settled"
        if because
        else "Unlikely"
    )
    if not (because or against):
        status = "Not settled"
    return Explanation(
        "It was over-fitted: learned by heart",
        status,
        because,
        against,
        "Compare held-out loss at every evaluation; where it turns is where training should have stopped.",
    )


def unstable(e: Evidence) -> Explanation | None:
    if e.curve is None:
        return None
    norms = [row["gradient_norm"] for row in e.trace if isinstance(row.get("gradient_norm"), int | float)]
    if e.curve.kind == "unstable":
        return Explanation(
            "Training was unstable",
            "Supported",
            [e.curve.reason],
            [],
            "Train at a third of the learning rate: the curve falls smoothly if this was it.",
        )
    against = (
        [f"The largest gradient norm, {max(norms):.3g}, and the last loss are finite over {plural(len(norms), 'step')}"]
        if norms
        else []
    )
    return Explanation(
        "Training was unstable",
        "Unlikely",
        [],
        against,
        "Train at a third of the learning rate: the curve falls smoothly if this was it.",
    )


def leaked(e: Evidence) -> Explanation | None:
    """Only a gain can be inflated by text that test and training share."""
    pairs = [o for o in (e.audit or {}).get("overlaps", []) if {o.get("a"), o.get("b")} == {"train", "test"}]
    if not pairs:
        return None
    o = pairs[0]
    leaking = int(o.get("leaking") or 0)
    text = (
        f"The longest run of words that training and held-out text share has {int(o.get('longest_span_words') or 0)} "
        f"words; {plural(leaking, 'held-out document')} share 20 or more in a row"
    )
    return Explanation(
        "Held-out text leaked into "
            "training, so the gain is overstated", "Supported" if leaking else "Excluded", [text] if leaking else [], [] if leaking else [text],
        "Remove the shared passages from training and run again: the gain should stay.",
    )  # fmt: skip


def summary_of_bits(bits: BitsGain) -> str:
    """The headline where the tokenizers differ."""
    change = -bits.bits_per_byte
    interval = "interval not defined" if bits.ci95 is None else f"95 % interval {-bits.ci95.high:+.4f} to {-bits.ci95.low:+.4f}"
    return (
        f"Held-out text costs {bits.base_bits_per_byte:.4f} bits per byte under the base and {bits.tuned_bits_per_byte:.4f} under the tuned model, "
        f"{change:+.4f} ({interval}); perplexities per token are not comparable, because the tokenizers differ"
    )


def headline_of(e: Evidence) -> str | None:
    """The figures behind the verdict, in a sentence; None where the comparison is refused."""
    return summary_of(e.test) if e.test else summary_of_bits(e.bits) if e.bits else None


def summary_of(test: Gain) -> str:
    """The result in one sentence of figures."""
    verb = "fell" if test.nats_per_token > 0 else "rose" if test.nats_per_token < 0 else "stayed"
    return (
        f"Held-out perplexity {verb} from {test.base_perplexity:.2f} to {test.tuned_perplexity:.2f}, "
        f"{percent(test.perplexity_change_percent)} ({percent_interval(test.perplexity_change_ci95)})"
    )


EXPLANATIONS: tuple[Callable[[Evidence], Explanation | None], ...] = (
    not_applied, too_little_training, too_small, already_suited, over_fitted, unstable, leaked,
)  # fmt: skip
