"""What to do next, in the order of METHODS S7.5: mend what is broken, learning rate, all linear layers, number of steps, batch,
data, and only then rank. Each action says why, what would confirm it, and the command. RECIPE stands for the run's recipe.yaml.

One function a remedy, in order in `REMEDIES`; it looks at the evidence and returns its actions, none where it does not apply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from galvan.diagnosis.catalogue import Finding
from galvan.diagnosis.run_facts import behind
from galvan.recipe import CONTINUE
from galvan.report.evidence import Evidence
from galvan.report.prose import percent, plural, sentence
from galvan.statistics.power import shown_count

LEARNING_RATES = {"lora": (1e-4, 3e-4, 1e-3), "full": (1e-5, 3e-5, 1e-4)}  # low, usual, high: METHODS 7
ATTENTION = frozenset(
    ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn", "query_key_value", "Wqkv", "query", "key", "value"]
)
FEW_STEPS, ENOUGH_STEPS, MOST_REPEATS = 50, 100, 4
LARGE_BATCH, USUAL_BATCH = 32, 16
BITS_PER_PARAMETER = 2
OWN_REMEDY = frozenset(["D05", "D06", "D07", "D11", "D12", "G08", "G09", "G10", "I01"])  # a function below knows more of these
AFTERWARDS = frozenset(["G12", "I02", "I03"])  # judgements of the outcome, which the remedies before them may change
_COMMAND = re.compile(r"`(galvan [^`]+)`")  # a remedy names its own where it has one
_ON_BOTH = re.compile(r"`(galvan \w+ BASE [^`]+)`")  # of a refused comparison only what looks at both arms again
_PLAIN_NAME = re.compile(r"[\w][\w.-]*(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Action:
    """One entry of verdict.json's `next`."""

    action: str
    why: str
    expected: str
    command: str


def next_actions(e: Evidence) -> list[Action]:
    """The actions for this run, the first first. A refused comparison has only its mending: nothing else is known yet."""
    if e.refusal is not None:
        return _mend(e, e.findings)
    first = [f for f in e.findings if f.code not in OWN_REMEDY and f.code not in AFTERWARDS]
    later = [f for f in e.findings if f.code in AFTERWARDS]
    return _mend(e, first) + [action for remedy in REMEDIES for action in remedy(e)] + _mend(e, later)


def _wanting(e: Evidence) -> bool:
    """Held-out text was not shown to have become likelier, or only by less than matters, or training text hardly became so."""
    test = e.test
    idle = e.curve is not None and e.curve.kind == "not learning"
    return test is not None and (idle or test.verdict != "improved" or test.nats_per_token < test.margin)


def _mend(e: Evidence, findings: Sequence[Finding]) -> list[Action]:
    """What to do about the causes that are present; for a refused comparison there is always something."""
    base = portable(e.provenance.get("base"), "BASE")
    check = f"galvan check {base} ADAPTER"
    command = _COMMAND if e.refusal is None else _ON_BOTH
    found = [
        Action(
            sentence(f.remedy),
            sentence(f"{f.code} is present: {f.because[0] if f.because else f.title}"),
            sentence(f.settle),
            named[1].replace("BASE", base) if (named := command.search(f.remedy)) else check,
        )
        for f in findings
        if f.status == "present"
    ]
    if e.refusal is None or found:
        return found
    failed = e.comparisons and any(control.status == "failed" for control in e.comparisons.controls.values())
    if failed:
        return [
            Action(
                "Score both arms again in float32, without quantisation, and look at the control that failed.", sentence(e.refusal),
                "All controls pass, and the verdict is another than refused.",
                "galvan run RECIPE --set model.dtype=float32 --set model.quantization=none",
            )
        ]  # fmt: skip
    return [
        Action(
            "Find out why the tuned model is the base.",
            sentence(e.refusal),
            "The check names a cause, or says that the adapter is alive.",
            check,
        )
    ]


def _learning_rate(e: Evidence) -> list[Action]:
    settings = e.recipe.training
    low, usual, high = LEARNING_RATES[settings.method]
    rate, kind = settings.learning_rate, e.curve.kind if e.curve else None
    outside, unstable, idle = not low <= rate <= high, kind == "unstable", kind == "not learning" and rate < high
    if e.training is None or not (unstable or (_wanting(e) and (outside or idle))):
        return []
    target = usual if outside else rate / 3 if unstable else high
    direction = "Raise" if target > rate else "Lower"
    usually = f"{settings.method} training usually works best between {low:g} and {high:g}"
    why = (
        f"{e.curve.reason} Here {usually}."
        if e.curve and not outside
        else f"{usually[0].upper()}{usually[1:]}; {rate:g} lies outside."
    )
    return [
        Action(
            f"{direction} the learning rate from {rate:g} to {target:.2g}.", why,
            "Held-out loss falls further, at every evaluation, than it did in this run.",
            f"galvan run RECIPE --set training.learning_rate={target:.2g}",
        )
    ]  # fmt: skip


def attention_only(e: Evidence) -> bool:
    """True if the run adapted attention layers and nothing else."""
    targets = {str(name).rsplit(".", 1)[-1] for name in (e.training or {}).get("targets") or ()}
    return bool(targets) and targets <= ATTENTION


def _all_linear(e: Evidence) -> list[Action]:
    some_layers = e.recipe.training.lora.layers is not None
    if not (_wanting(e) and e.recipe.training.method == "lora" and (attention_only(e) or some_layers)):
        return []
    return [
        Action(
            "Adapt all linear layers of all blocks." if some_layers else "Adapt all linear layers, not attention alone.",
            f"{'Some blocks alone learn' if some_layers else 'Attention alone learns'} less, and a higher rank does not make up for it.",
            "The gain on training documents grows at the same number of steps.",
            "galvan run RECIPE --set training.lora.targets=all-linear" + (" --set training.lora.layers=null" if some_layers else ""),
        )
    ]  # fmt: skip


def still_falling(e: Evidence) -> bool:
    """True if the curves ask for more steps: under-trained, or falling at the end by more than the margin without a forecast."""
    finding = e.curve.finding if e.curve else None
    return finding is not None and (
        finding.kind == "under-trained"
        or (finding.kind == "not determined" and finding.falling_by(e.recipe.evaluation.margin_nats))
    )


def _more_steps(e: Evidence) -> list[Action]:
    kind = e.curve.kind if e.curve else None
    steps = (e.training or {}).get("steps")
    short = (
        _wanting(e)
        and isinstance(steps, int)
        and steps + behind(e.training, "steps") < FEW_STEPS
        and kind not in ("over-fitted", "unstable")
    )
    if not isinstance(steps, int) or not steps or not (short or still_falling(e)):
        return []
    epochs = e.recipe.training.epochs
    longer = epochs * min(MOST_REPEATS, max(2, math.ceil(ENOUGH_STEPS / steps)))
    falls = e.curve is not None and still_falling(e)
    why = (
        e.curve.reason
        if e.curve and falls
        else f"{plural(steps, 'step')} are few; below {FEW_STEPS} a LoRA has hardly begun to move."
    )
    expected = "Held-out loss goes on falling after the step at which this run stopped; if it rises, stop there."
    again = f"galvan run RECIPE --set training.epochs={longer:g}"
    anew = Action(f"Train for {longer:g} epochs instead of {epochs:g}.", why, expected, again)
    more, lora = longer - epochs, e.recipe.training.lora
    if not falls or e.recipe.training.method != "lora" or lora.start != "default":
        return [anew]
    cheaper = f"{sentence(why)} It costs {more:g} epochs where starting over costs {longer:g}; the learning rate begins anew."
    command = f"galvan run RECIPE --set {CONTINUE}=ADAPTER --set training.epochs={more:g} --out FOLDER"
    return [Action(f"Go on training this adapter for {more:g} epochs more.", cheaper, expected, command), anew]


def _earlier_stop(e: Evidence) -> list[Action]:
    curve, steps = e.curve, (e.training or {}).get("steps")
    if curve is None or curve.kind != "over-fitted" or not curve.best_step or not isinstance(steps, int):
        return []
    epochs = e.recipe.training.epochs * curve.best_step / steps
    return [
        Action(
            f"Stop earlier: after {epochs:.2g} epochs, where held-out loss was lowest (step {curve.best_step} of {steps}).", curve.reason,
            "Held-out loss at the end equals its lowest value.", f"galvan run RECIPE --set training.epochs={epochs:.2g}",
        )
    ]  # fmt: skip


def _smaller_batch(e: Evidence) -> list[Action]:
    settings = e.recipe.training
    batch = settings.batch_size * settings.accumulation
    if not (e.training and _wanting(e) and settings.method == "lora" and batch >= LARGE_BATCH):
        return []
    return [
        Action(
            f"Take {USUAL_BATCH} documents a step instead of {batch}.", f"Steps of {batch} documents leave few "
                "updates, and large batches suit LoRA badly.",
            "Loss falls further in the same number of epochs.",
            f"galvan run RECIPE --set training.batch_size={USUAL_BATCH} --set training.accumulation=1",
        )
    ]  # fmt: skip


def _more_held_out(e: Evidence) -> list[Action]:
    test = e.test
    if test is None or test.verdict != "inconclusive":
        return []
    wanted = test.documents_needed_for_margin
    if wanted is None:
        action, share = "Judge on at least 25 held-out documents.", None
    else:
        total = sum(part.documents for part in e.splits.values())
        action = (
            f"Judge on {shown_count(wanted.documents80)} held-out documents, "
            f"about {wanted.tokens80:,} tokens, instead of {test.n_documents:,}."
        )
        share = math.ceil(100 * wanted.documents80 / total) / 100 if e.audit and total else None
    spread = e.comparisons.bottleneck if e.comparisons else None
    usable = share is not None and share <= 0.5
    return [
        Action(
            action, test.sensitivity + (f" {spread.reason}" if spread and spread.advice else ""),
            f"A change of {abs(percent_of(test.margin)):.1f} % of perplexity, the margin, is then seen with a chance of 80 %.",
            f"galvan run RECIPE --set data.split.test={share:g}" if usable else f"galvan evaluate {portable(e.provenance.get('base'), 'BASE')} "
                "ADAPTER --data MORE-HELD-OUT-TEXT",
        )
    ]  # fmt: skip


def percent_of(nats: float) -> float:
    return 100 * math.expm1(nats)


def _more_data(e: Evidence) -> list[Action]:
    kind, train = e.curve.kind if e.curve else None, e.splits["train"]
    long_enough = int((e.training or {}).get("steps") or 0) >= FEW_STEPS
    if not (kind == "over-fitted" or (kind == "saturated" and long_enough and _wanting(e))):
        return []
    return [
        Action(
            "Bring more text by the same author to train on.", f"{plural(train.documents, 'training document')} of {train.words:,} "
                f"words were used up: {e.curve.reason if e.curve else ''}",
            "The gain on held-out documents comes nearer to the gain on training documents.", "galvan run RECIPE --set data.source=MORE-TEXT",
        )
    ]  # fmt: skip


class Capacity(NamedTuple):
    """Bits in the training text under the base, bits of them that training has saved, and bits that the trained parameters hold."""

    text: float
    learned: float
    room: float

    @property
    def short(self) -> bool:
        """True if the parameters may be full: the text holds more than they do, and much of their room is used."""
        return self.room < self.text and self.learned > 0.5 * self.room


def capacity(e: Evidence) -> Capacity | None:
    """Room at 2 bits a parameter (METHODS 7); None where training text or parameters were not counted."""
    probe, parameters = e.comparisons.probe if e.comparisons else None, (e.training or {}).get("trainable_parameters")
    tokens = (e.audit or {}).get("splits", {}).get("train", {}).get("tokens", {}).get("total")
    if probe is None or not isinstance(parameters, int) or not isinstance(tokens, int):
        return None
    return Capacity(
        tokens * math.log2(probe.base_perplexity),
        tokens * probe.nats_per_token / math.log(2),
        float(BITS_PER_PARAMETER * parameters),
    )


def _rank(e: Evidence) -> list[Action]:
    """The last resort: only where the adapter may be full."""
    bits, rank = capacity(e), e.recipe.training.lora.rank
    if bits is None or not bits.short or e.recipe.training.method != "lora" or not _wanting(e):
        return []
    return [
        Action(
            f"Raise the rank from {rank} to {2 * rank}.", f"The adapter has room for about {bits.room:,.0f} bits and "
                f"has learned {bits.learned:,.0f} of the text's {bits.text:,.0f}.",
            "The gain on training documents grows.", f"galvan run RECIPE --set training.lora.rank={2 * rank}",
        )
    ]  # fmt: skip


def _confirm(e: Evidence) -> list[Action]:
    test = e.test
    if test is None or test.verdict != "improved" or e.splits["test"].sources != 1:
        return []
    return [
        Action(
            "Confirm the gain on another work by the same author.", "All held-out documents come from one "
                "source, so the result speaks about that source.",
            f"Perplexity falls there as well; here it changed by {percent(test.perplexity_change_percent)}.",
            f"galvan evaluate {portable(e.provenance.get('base'), 'BASE')} ADAPTER --data ANOTHER-WORK",
        )
    ]  # fmt: skip


REMEDIES: tuple[Callable[[Evidence], list[Action]], ...] = (
    _learning_rate, _all_linear, _more_steps, _earlier_stop, _smaller_batch, _more_held_out, _more_data, _rank, _confirm,
)  # fmt: skip


def portable(name: object, placeholder: str) -> str:
    """A model's name where it means the same on every machine (a Hub id, a bundled model), else `placeholder`."""
    return name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else placeholder
