"""What the judging half concluded before the causes are asked: the paired gain, the controls, the curve, seeds, style, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galvan.compare import Control
    from galvan.compare_seeds import SeedsCompared
    from galvan.statistics.compare_sets import Difference
    from galvan.statistics.paired import Gain


@dataclasses.dataclass(frozen=True, slots=True)
class CurveSeen:
    """The class of the learning curve, why, and the step of the lowest validation loss among all evaluations."""

    kind: str
    reason: str
    best_step: int | None
    last_step: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Gains in nats a token, None where nothing was compared or the comparison is refused. `one_tokenizer` is False where the two arms
    cut text otherwise. `style`, `originality` and `retention` are the blocks of verdict.json, None where they were not measured."""

    test: Gain | None = None
    probe: Gain | None = None
    probe_minus_test: Difference | None = None
    controls: Mapping[str, Control] = dataclasses.field(default_factory=dict)
    one_tokenizer: bool | None = None
    curve: CurveSeen | None = None
    recipe: SeedsCompared | None = None
    style: Mapping[str, Any] | None = None
    originality: Mapping[str, Any] | None = None
    retention: Mapping[str, Any] | None = None
