"""For notebooks: is this pair of live models really a base and a tuned model? One call, nothing changed, the cause by name."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from galvan.diagnosis.catalogue import Facts, Finding, diagnose, liveness
from galvan.errors import DataError
from galvan.measure.facts import Integrity
from galvan.rundir import to_json
from galvan.text import shown

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Audit:
    """What an audit found. `alive`: the tuned model is really another model than the base; None where that was not shown."""

    alive: bool | None
    reason: str | None
    findings: list[Finding]
    integrity: Integrity

    @property
    def present(self) -> list[Finding]:
        """The causes that were found, the best supported first."""
        return [finding for finding in self.findings if finding.status == "present"]

    def to_json(self) -> str:
        """The document that `galvan check --json` prints."""
        return to_json({"schema_version": 1, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}})

    def _headline(self) -> str:
        said = {True: "Alive: the tuned model is another model than the base.", False: "Not alive", None: "Not shown"}[self.alive]
        return said if self.alive else f"{said}: {shown(self.reason or 'no reason known', 400)}."

    def to_text(self) -> str:
        """What `galvan check` prints: the answer, then each cause that was found, with evidence for and against."""
        lines = [self._headline().replace("..", ".")]
        for finding in self.present:
            lines += ["", f"{finding.code} ({finding.certainty}) {finding.title}"]
            lines += [f"  because  {shown(sentence)}" for sentence in finding.because]
            lines += [f"  against  {shown(sentence)}" for sentence in finding.against]
            lines.append(f"  remedy   {finding.remedy}")
        unknown = [finding.code for finding in self.findings if finding.status == "unknown"]
        if unknown:
            lines += ["", f"Unknown: {', '.join(unknown)}."]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_text())}</pre>"


def audit(*, base: nn.Module, tuned: nn.Module, tokenizer: Any, texts: Sequence[str] = ()) -> Audit:
    """Examine the two objects that are about to be compared, as they are; `texts` default to three bundled sentences.

    Mode, active adapter, switches, requires_grad and random states are left as they were, and so is every weight. Raises
    DataError if no text has a token that could be scored.
    """
    from galvan.measure import live as living
    from galvan.measure.integrity import LEARNED_PROMPT

    rows = living.encode(tokenizer, texts or living.CHECK_TEXTS)
    if not rows:
        raise DataError("data/too-short", "None of the texts has a token that could be scored; give longer ones.")
    live = living.live_facts(base, tuned)
    reason = None
    if living.learns_a_prompt(tuned) or living.learns_a_prompt(base):
        reason = LEARNED_PROMPT
    elif any(state.merged and state.enabled is not True for state in (live.base, live.tuned)):
        reason = "an adapter is merged and switched off, and a forward pass would unmerge it, not to the same bits"
    function = None
    if reason is None:
        with living.keep_random_state(), living.evaluation_mode(base, tuned):
            function = living.function_facts(tuned, living.alone_nll(base, rows), rows)
    integrity = Integrity(live=live, function=function, reason=reason)
    facts = Facts(integrity)
    findings = diagnose(facts)
    judged = liveness(facts, findings)
    return Audit(judged.alive, judged.reason, findings, integrity)
