"""Questions that several families put to the same evidence, answered once."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from galvan.diagnosis.catalogue import Answer, Facts, present
from galvan.diagnosis.reported import Reading, read
from galvan.diagnosis.run_facts import RunFacts
from galvan.diagnosis.words import Certainty

if TYPE_CHECKING:
    from galvan.statistics.paired import Gain

EMPTY = RunFacts()
NO_TOKENS = "how the training rows were encoded; there is no tokens.json, as after `galvan prepare`."


def run(facts: Facts) -> RunFacts:
    """What the folder told, or a record that knows nothing."""
    return facts.run or EMPTY


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


def near(value: float, target: float, share: float) -> bool:
    return abs(value - target) <= share * abs(target)


def supported(share: float, decisive: float) -> Certainty:
    """The word for a share that is above its threshold: certain from `decisive` on."""
    return "certain" if share >= decisive else "very likely"
