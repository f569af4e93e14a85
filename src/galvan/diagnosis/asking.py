"""Questions that several families put to the same evidence, answered once."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from galvan.diagnosis.catalogue import Answer, Facts, present
from galvan.diagnosis.reported import Reading, read
from galvan.diagnosis.run_facts import Log, RunFacts
from galvan.diagnosis.thresholds import LOG_FELL
from galvan.diagnosis.words import Certainty

if TYPE_CHECKING:
    from galvan.statistics.paired import Gain

EMPTY = RunFacts()
NO_TOKENS = "how the training rows were encoded; there is no tokens.json, as after `galvan prepare`."


def run(facts: Facts) -> RunFacts:
    """What the folder told, or a record that knows nothing."""
    return facts.run or EMPTY


def log(facts: Facts) -> Log | None:
    """The log of the run's own folder, else the one that a Trainer left beside the adapter."""
    recorded = facts.recorded
    seen = recorded.course if recorded and recorded.by == "transformers" else None
    if run(facts).log is not None or seen is None:
        return run(facts).log
    return Log(False, seen.first_step, seen.first_loss, seen.first_eval_step, seen.first_eval)


def kept_step(facts: Facts) -> int | None:
    """The step whose weights galvan kept; None where it did not say."""
    step = (run(facts).training or {}).get("kept_step")
    return step if isinstance(step, int) else None


def notices(facts: Facts, code: str) -> list[str]:
    """What the checks of the tokens said under a code."""
    tokens = run(facts).tokens
    return list(tokens.notices.get(code, [])) if tokens else []


@dataclasses.dataclass(frozen=True, slots=True)
class Prompts:
    """Of `checked` prompts of generation, whose ids begin their document's training row, and which begin with BOS twice."""

    checked: int
    prefix_of_training: int
    double_bos: int


def prompts(facts: Facts) -> Prompts | None:
    """What generation.json says about its prompts; None where nothing was generated or none was checked."""
    told = run(facts).generation.get("prompt_ids")
    values = [told.get(f.name) for f in dataclasses.fields(Prompts)] if isinstance(told, dict) else []
    known = [v for v in values if isinstance(v, int)]
    return Prompts(*known) if len(known) == len(dataclasses.fields(Prompts)) and known[0] else None


def test_gain(facts: Facts) -> Gain | None:
    return facts.outcome.test if facts.outcome else None


def practically_equal(gain: Gain | None) -> bool:
    """The whole interval lies within the margin, whichever verdict that has."""
    return gain is not None and gain.ci95 is not None and -gain.margin < gain.ci95.low and gain.ci95.high < gain.margin


def reading(facts: Facts) -> Reading:
    """What the reported perplexities turn out to be; nothing where none was reported or nothing was scored."""
    here = run(facts)
    if here.reported is None or here.scored is None:
        return Reading(None, {})
    return read(here.reported, here.scored.arms)


def reported_is_right(facts: Facts) -> str | None:
    return "The reported perplexities are what exp(sum of NLL / number of targets) gives here." if reading(facts).right else None


def reported_by(facts: Facts, code: str) -> Answer | None:
    """Present if this cause's way of computing, and not the right one, gives the reported figures; None if that was not seen."""
    seen = reading(facts).codes
    if code not in seen:
        return None
    others = [other for other in seen if other != code]
    against = [f"So do the ways of {', '.join(others)}; these figures cannot tell them apart."] if others else []
    return present(seen[code], against, "likely" if others else "certain")


def base_nats(facts: Facts) -> tuple[float, str] | None:
    """The base's mean NLL in nats a token and on what: training documents if they were scored, else the test documents."""
    if facts.outcome and facts.outcome.probe:
        return math.log(facts.outcome.probe.base_perplexity), "training documents"
    scored = run(facts).scored
    if scored and "base" in scored.arms:
        return math.log(scored.arms["base"].perplexity()), "held-out documents"
    return None


def learned_elsewhere(facts: Facts) -> str | None:
    """A10 without a record of the base: by the log training succeeded, and on this base the adapter makes text less likely than training
    found it before its first step. None where the log or the text does not say so, or galvan itself recorded the training.

    Over-fitting cannot do that to training text; to held-out text it can, so there the config must name another base too.
    """
    recorded = facts.integrity.recorded if facts.integrity else None
    course, files = recorded.course if recorded else None, facts.files
    if recorded is None or recorded.by != "transformers" or course is None or course.first_loss is None or course.last_loss is None:
        return None
    outcome = facts.outcome
    gain, what = (outcome.probe, "training") if outcome and outcome.probe else (outcome.test if outcome else None, "held-out")
    if gain is None or gain.verdict != "worse" or course.last_loss > (1 - LOG_FELL) * course.first_loss:
        return None
    if what == "held-out" and not (files is not None and files.recorded_base_matches is False):
        return None
    base, tuned = math.log(gain.base_perplexity), math.log(gain.tuned_perplexity)
    if tuned <= course.first_loss:
        return None
    return (
        f"By its log the training loss fell from {course.first_loss:.4f} to {course.last_loss:.4f} nats a token, yet on this base the adapter "
        f"makes {what} text less likely: {tuned:.4f} nats a token, the base alone {base:.4f}."
    )


def near(value: float, target: float, share: float) -> bool:
    return abs(value - target) <= share * abs(target)


def supported(share: float, decisive: float) -> Certainty:
    """The word for a share that is above its threshold: certain from `decisive` on."""
    return "certain" if share >= decisive else "very likely"
