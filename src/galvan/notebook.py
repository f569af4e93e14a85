"""For notebooks: is this pair of live models really a base and a tuned model? One call, nothing changed, the cause by name."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from galvan.diagnosis.catalogue import Facts, Finding, diagnose, liveness, not_excluded, phrase, spans
from galvan.diagnosis.outcome import Outcome
from galvan.diagnosis.reported import Reported, Sums, read, reported_from_json
from galvan.diagnosis.run_facts import Answered, Repeats, RunFacts, Scored
from galvan.errors import DataError
from galvan.measure.facts import Integrity
from galvan.rundir import to_json
from galvan.text import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from galvan.statistics.paired import Gain

_PROMPT_WORDS = 8
_PROMPTS = 3


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
            said = [*phrase(finding, self.findings), ("Remedy", finding.remedy)]
            lines += ["", *(f"{label + ':':<13} {shown(text, 2000)}" for label, text in said)]
        unknown = not_excluded(self.findings)
        if unknown and not self.present:
            lines += ["", f"Not excluded: {spans(unknown)}."]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_text())}</pre>"


def audit(
    *,
    base: nn.Module,
    tuned: nn.Module,
    tokenizer: Any,
    texts: Sequence[str] = (),
    reported: Mapping[str, float] | None = None,
    generate: Callable[[Any, str], object] | None = None,
    prompt: str | None = None,
    max_tokens: int | None = None,
    adapter: str | Path | None = None,
    loaded: Any = None,
) -> Audit:
    """Examine the two objects that are about to be compared, as they are; `texts` default to three bundled sentences.

    `reported` are the perplexities that the notebook found on `texts`, {"base": 7.95, "tuned": 7.95}, best with all their digits: which
    way of computing gives them is looked for. `max_tokens` is what the notebook cut texts to. `generate(model, prompt)` returns a text; it
    is called four times with one `prompt` (default: how the first text begins), to see whether chance makes its words, and whether a greedy
    answer is that of the model asked: not so if a server did not take the adapter's name, or a cache serves several models. One prompt may
    not show that: where its answers are right, both models are asked how two more texts go on. `adapter` is
    the folder that `tuned` should hold, `loaded` what load_state_dict returned when it was loaded so.

    Mode, active adapter, switches, requires_grad and random states are left as they were, and so is every weight. Raises DataError if no
    text has a token that could be scored, `reported` names no arm, or an object's last adapter was deleted.
    """
    from galvan.measure import by_hand
    from galvan.measure import live as living
    from galvan.measure.integrity import LEARNED_PROMPT
    from galvan.models import Located, weight_files

    for name, model in (("base", base), ("tuned", tuned)):
        if getattr(model, "peft_config", None) == {}:  # PEFT itself cannot run such an object
            raise DataError(
                "audit/no-adapter",
                f"{name}: a PEFT model whose last adapter was deleted; load the adapter into a fresh base again.",
            )
    told = None if reported is None else _reported(reported)
    chosen = texts or living.CHECK_TEXTS
    rows = living.encode(tokenizer, chosen)
    if not rows:
        raise DataError("data/too-short", "None of the texts has a token that could be scored; give longer ones.")
    saved = None if adapter is None else living.read_tensors(weight_files(Located(str(adapter), Path(adapter)), "adapter_model"))
    live = living.live_facts(base, tuned, adapter_file=saved, unexpected=_unexpected(loaded))
    reason = None
    if living.learns_a_prompt(tuned) or living.learns_a_prompt(base):
        reason = LEARNED_PROMPT
    elif any(state.merged and state.enabled is not True for state in (live.base, live.tuned)):
        reason = "an adapter is merged and switched off, and a forward pass would unmerge it, not to the same bits"
    function, run, gain = None, RunFacts(), None
    if reason is None:
        with living.keep_random_state(), by_hand.as_found(base, tuned):
            with living.evaluation_mode(base, tuned):
                function = living.function_facts(tuned, living.alone_nll(base, rows), rows)
                if told is not None:
                    run, gain = _figures(
                        told, base, tuned, tokenizer, living.encode(tokenizer, chosen, max_tokens or _positions(base))
                    )
            if generate is not None:
                begun = [" ".join(text.split()[:_PROMPT_WORDS]) for text in chosen[:_PROMPTS]]
                given = [prompt, *begun[1:]] if prompt else begun
                run = dataclasses.replace(run, repeats=_answers(generate, base, tuned, tokenizer, given))
    integrity = Integrity(live=live, function=function, reason=reason)
    facts = Facts(integrity, run=run, outcome=Outcome(test=gain, one_tokenizer=True) if gain else None)
    findings = diagnose(facts)
    judged = liveness(facts, findings)
    return Audit(judged.alive, judged.reason, findings, integrity)


def _answers(
    generate: Callable[[Any, str], object], base: nn.Module, tuned: nn.Module, tokenizer: Any, prompts: Sequence[str]
) -> Repeats:
    """Ask, and hold the answers against both models' own logits, unless chance chose the words; further prompts while nothing is wrong."""
    from galvan.measure import by_hand

    def held(prompt: str, answers: Mapping[str, str]) -> dict[str, Answered]:
        found: dict[str, Answered] = {}
        for arm, answer in answers.items():
            tokens, (not_of_base, not_of_tuned) = by_hand.not_first((base, tuned), tokenizer, prompt, answer)
            found |= {arm: Answered(tokens, not_of_base, not_of_tuned)} if tokens else {}
        return found

    asked = by_hand.ask(generate, base, tuned, prompts[0])
    found = {} if asked.differ else held(prompts[0], {"tuned": asked.tuned[0], "base": asked.base})
    calls = len(asked.tuned) + 1
    for prompt in prompts[1:]:
        if len(found) < 2 or found["tuned"].not_of_tuned or found["base"].not_of_base:
            break
        more = held(prompt, {"tuned": str(generate(tuned, prompt)), "base": str(generate(base, prompt))})
        found, calls = (more if len(more) == 2 else found), calls + 2
    return Repeats(calls, asked.differ, asked.base not in asked.tuned, **found)


def _reported(given: Mapping[str, float]) -> Reported:
    told = reported_from_json(dict(given))
    if told is None or not told.figures:
        raise DataError(
            "audit/reported", f'reported: {shown(str(dict(given)), 80)} has no perplexity; give {{"base": 7.95, "tuned": 7.95}}.'
        )
    return told


def _figures(
    told: Reported, base: nn.Module, tuned: nn.Module, tokenizer: Any, rows: Sequence[Tensor]
) -> tuple[RunFacts, Gain | None]:
    """The sums of both arms on the whole texts, beside which the reported figures are held, and the paired gain."""
    from galvan.data.tokens import first_token_rule
    from galvan.measure import by_hand
    from galvan.statistics import paired_gain

    names, n = [str(i) for i in range(len(rows))], np.array([row.shape[1] - 1 for row in rows])
    arms = {
        name: Sums(names, np.array(by_hand.sums(model, rows)), n) for name, model in (("base", base), ("tuned", tuned))
    }  # fmt: skip
    seen = read(told, arms)
    if seen.right is False and not seen.codes:
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        ways = {
            name: by_hand.wrong_ways(model, rows, tokenizer.bos_token_id, int(padding), _positions(base))
            for name, model in (("base", base), ("tuned", tuned))
        }
        told = dataclasses.replace(told, live=ways)
    gain = paired_gain(arms["base"].nll_nats, arms["tuned"].nll_nats, n)
    scored = Scored(arms, len(rows), {"base": [], "tuned": []}, [])
    return RunFacts(scored=scored, reported=told, provenance={"first_token_rule": first_token_rule(tokenizer)}), gain


def _unexpected(loaded: Any) -> tuple[str, ...] | None:
    """The names that load_state_dict had no place for; None where nothing was given."""
    if loaded is None:
        return None
    names = getattr(loaded, "unexpected_keys", None)
    if not isinstance(names, list | tuple):
        raise DataError("audit/loaded", "loaded: give what load_state_dict returned; it has no unexpected_keys.")
    return tuple(map(str, names))


def _positions(model: nn.Module) -> int:
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 1 else 1 << 20
