"""The catalogue's machinery: what a cause is, how it is registered, how a run's evidence is put to every cause.

A cause is one function in its family's file, registered where it is written by `@cause`. It answers present, absent or
unknown, always with what speaks for and against it. No torch: evidence comes as records (`galvan.measure.facts`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from galvan.diagnosis.outcome import Outcome
from galvan.diagnosis.run_facts import RunFacts, run_facts
from galvan.diagnosis.words import CERTAINTIES, Certainty, capped
from galvan.errors import ComparisonRefused, RecipeError
from galvan.measure.course import Course, course
from galvan.measure.facts import AdapterState, FileFacts, FunctionFacts, Integrity, LiveFacts, Recorded, integrity_from_json
from galvan.rundir import read_json, read_rows
from galvan.text import shown

Status = Literal["present", "absent", "unknown"]

FAMILIES = {
    "A": "The wrong thing was evaluated",
    "B": "Adapter file and keys",
    "C": "Scaling, merging, numerics",
    "D": "Training did nothing, or too little",
    "E": "Data, labels, tokens",
    "F": "Loss bookkeeping while training",
    "G": "Evaluation arithmetic and statistics",
    "H": "Generation",
    "I": "Outcome",
}
TOO_SMALL = "G10"  # what could not be seen comes after what was
_STATUSES = ("present", "unknown", "absent")


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """What the training half recorded. Any of it may be unknown: an adapter may come from anywhere."""

    trainable_parameters: int | None = None
    optimizer_parameters: int | None = None
    steps: int | None = None
    alpha: float | None = None
    adapter_sha256: str | None = None
    rank: float | None = None
    use_rslora: bool | None = None
    base_sha256: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """A summary of base against tuned on the user's documents: the largest difference of one token's NLL, in nats."""

    max_abs_token_difference_nats: float
    noise_floor_nats: float


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """All the evidence of one run; what is None was not gathered, and causes that need it answer unknown."""

    integrity: Integrity | None = None
    training: Training | None = None
    scores: Scores | None = None
    run: RunFacts | None = None
    outcome: Outcome | None = None
    trace: Course | None = None

    @classmethod
    def from_json(
        cls,
        integrity: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        scores: Mapping[str, Any] | None = None,
    ) -> Facts:
        """From the run's files; keys that no cause uses are ignored. DataError if integrity.json is damaged."""
        return cls(
            None if integrity is None else integrity_from_json(integrity),
            None if training is None else Training(**{f.name: training.get(f.name) for f in dataclasses.fields(Training)}),
            None if scores is None else Scores(**{f.name: scores[f.name] for f in dataclasses.fields(Scores)}),
        )

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """From a run's folder: what its files hold, where they are there; the outcome is known only to whoever compares."""
        found = [read_json(path) if path.is_file() else None for path in (folder / "integrity.json", folder / "training.json")]
        log = folder / "training.jsonl"
        trace = course(list(read_rows(log))) if found[1] is not None and log.is_file() else None
        return dataclasses.replace(cls.from_json(*found), run=run_facts(folder), trace=trace)

    @property
    def recorded(self) -> Recorded | None:
        """What lay beside the adapter's files."""
        return self.integrity.recorded if self.integrity else None

    @property
    def trained(self) -> Training | None:
        """The record of training: the run's own, else the one that lay beside the adapter."""
        if self.training is not None or self.recorded is None or self.recorded.by is None:
            return self.training
        return Training(**{f.name: getattr(self.recorded, f.name) for f in dataclasses.fields(Training)})

    @property
    def course(self) -> Course | None:
        """The course of training: the run's own log, else the one that lay beside the adapter."""
        return self.trace or (self.recorded.course if self.recorded else None)

    @property
    def files(self) -> FileFacts | None:
        return self.integrity.files if self.integrity else None

    @property
    def live(self) -> LiveFacts | None:
        return self.integrity.live if self.integrity else None

    @property
    def function(self) -> FunctionFacts | None:
        return self.integrity.function if self.integrity else None

    @property
    def adapter(self) -> AdapterState | None:
        """The adapter layers of the tuned object; None if it has none or was not looked at."""
        return self.live.tuned if self.live and self.live.tuned.layers else None

    def not_an_adapter(self) -> str | None:
        """The sentence that settles every cause about an adapter where there is none; None where there may be one."""
        if self.files is not None and self.files.kind == "full":
            return "The tuned model is a whole model, not an adapter."
        if self.files is None and self.live is not None and not self.live.tuned.layers:
            return "The tuned object holds no adapter layer."
        return None

    def arms_differ(self) -> str | None:
        """The sentence that base and tuned were seen to differ far beyond noise (METHODS topic 8); None if they were not."""
        seen = self.scores
        if seen is None or seen.max_abs_token_difference_nats <= 10 * seen.noise_floor_nats:
            return None
        difference, noise = seen.max_abs_token_difference_nats, seen.noise_floor_nats
        return f"In the scores one token differs by {difference:.3g} nats between base and tuned (noise {noise:.1g})."

    def arms_equal(self) -> str | None:
        """The sentence that not one token differs between base and tuned; None if that was not seen."""
        if self.scores is not None and self.scores.max_abs_token_difference_nats == 0:
            return "In the scores every token has exactly the same likelihood in both arms."
        if self.function is not None and self.function.on_base_nats == 0:
            return f"All {self.function.n_tokens} check tokens have exactly the same likelihood in both arms."
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a cause's function returns: `because` speaks for the cause (or says what is missing), `against` speaks against it."""

    status: Status
    certainty: Certainty
    because: list[str]
    against: list[str]


def evidence(*sentences: str | None) -> list[str]:
    """The sentences that there are."""
    return [sentence for sentence in sentences if sentence]


def present(because: list[str], against: Sequence[str] = (), certainty: Certainty = "certain") -> Answer:
    return Answer("present", certainty, because, list(against))


def absent(against: list[str], because: Sequence[str] = (), certainty: Certainty = "certain") -> Answer:
    return Answer("absent", certainty, list(because), against)


def unknown(missing: str, because: Sequence[str] = (), against: Sequence[str] = ()) -> Answer:
    """`missing` says what would have to be known."""
    return Answer("unknown", "cannot tell", [f"Not known: {missing}", *because], list(against))


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """One row of the catalogue. A code never changes its meaning.

    `symptom` is what a person sees, `proof` what shows or excludes it, `remedy` and `settle` say what to do, with the command.
    `refuses`: while it is present, base and tuned may not be compared. `judges`: it is a judgement of the outcome, which has no
    meaning while such a cause is present.
    """

    code: str
    title: str
    symptom: str
    proof: str
    remedy: str
    settle: str
    sources: tuple[str, ...]
    refuses: bool
    judges: bool = False

    @property
    def family(self) -> str:
        return FAMILIES[self.code[0]]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One cause's answer on one run, with exactly the keys of verdict.json."""

    code: str
    status: Status
    certainty: Certainty
    title: str
    because: list[str]
    against: list[str]
    remedy: str
    settle: str


Ask = Callable[[Facts], Answer]
_REGISTERED: dict[str, tuple[Cause, Ask]] = {}


def cause(
    code: str, *, title: str, symptom: str, proof: str, remedy: str, settle: str, sources: Sequence[str], refuses: bool = False,
    judges: bool = False,
) -> Callable[[Ask], Ask]:  # fmt: skip
    """Register the decorated function as the one that answers for `code`."""

    def register(ask: Ask) -> Ask:
        assert code not in _REGISTERED and code[0] in FAMILIES, code
        _REGISTERED[code] = Cause(code, title, symptom, proof, remedy, settle, tuple(sources), refuses, judges), ask
        return ask

    return register


def causes() -> list[Cause]:
    """Every cause, in order of code."""
    return [_REGISTERED[code][0] for code in sorted(_REGISTERED)]


def explain(code: str) -> Cause:
    """One cause by its code, in either case; RecipeError if there is none."""
    found = _REGISTERED.get(code.strip().upper())
    if found is None:
        raise RecipeError("cause/unknown", f"There is no cause {shown(code, 40)}; the codes are {', '.join(sorted(_REGISTERED))}.")
    return found[0]


def diagnose(facts: Facts) -> list[Finding]:
    """Put the evidence to every cause: the present first, the best supported of them first, equals in order of code.

    A certain cause that forbids the comparison stops the judgements of its outcome, not their figures (METHODS S8.1). A judgement of the
    outcome, sure as it may be, comes after the causes that are very likely: they are why.
    """
    answers = {code: ask(facts) for code, (_, ask) in sorted(_REGISTERED.items())}
    stop = next(
        (c for c, a in answers.items() if a.status == "present" and a.certainty == "certain" and _REGISTERED[c][0].refuses), None
    )
    findings = [_finding(_REGISTERED[code][0], answer, stop) for code, answer in answers.items()]
    return sorted(findings, key=_rank)


def _rank(finding: Finding) -> tuple[int, int, bool, bool]:
    word, judges = CERTAINTIES.index(finding.certainty), _REGISTERED[finding.code][0].judges
    return _STATUSES.index(finding.status), max(word, 1) if judges else word, judges, finding.code == TOO_SMALL


def _finding(row: Cause, answer: Answer, stop: str | None) -> Finding:
    if stop is not None and row.judges and answer.status == "present":
        answer = unknown(f"whether this holds once {stop} is mended.", answer.because, answer.against)
    word = capped(row.code, answer.certainty) if answer.status == "present" else answer.certainty
    return Finding(row.code, answer.status, word, row.title, answer.because, answer.against, row.remedy, row.settle)


def not_excluded(findings: Sequence[Finding]) -> list[str]:
    """The codes that remain possible: neither shown nor excluded."""
    return sorted(finding.code for finding in findings if finding.status == "unknown")


def spans(codes: Sequence[str]) -> str:
    """Codes in order, neighbours of a family joined: A02-A04, B01; "none" where there is none."""
    said: list[list[str]] = []
    for code in sorted(codes):
        last = said[-1][-1] if said else ""
        if last[:1] == code[0] and int(last[1:]) + 1 == int(code[1:]):
            said[-1].append(code)
        else:
            said.append([code])
    return ", ".join(f"{some[0]}-{some[-1]}" if len(some) > 2 else ", ".join(some) for some in said) or "none"


def phrase(finding: Finding, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """A finding as people read it, a label and a text a line (METHODS topic 8)."""
    first = {"certain": "Found", "cannot tell": "Possibly"}.get(finding.certainty, "Most likely")
    return [
        (first, f"{finding.title} ({finding.code}, {finding.certainty})."),
        ("Because", " ".join(finding.because) or "Nothing that was measured."),
        ("Against it", " ".join(finding.against) or "Nothing that was measured."),
        ("Not excluded", f"{spans(not_excluded(findings))}."),
        ("To settle it", finding.settle),
    ]


def refusal(findings: Sequence[Finding]) -> ComparisonRefused | None:
    """The error that stops a comparison, made of the first well supported finding whose cause forbids one; None if none does."""
    for finding in findings:
        shown_well = finding.status == "present" and finding.certainty in ("certain", "very likely")
        if shown_well and _REGISTERED[finding.code][0].refuses:
            return ComparisonRefused(
                finding.code, f"{finding.code} {finding.title}: {finding.because[0].rstrip('.')}; {finding.remedy}"
            )
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Liveness:
    """Whether the tuned model is really another model than the base: True, False, or None where that was not shown."""

    alive: bool | None
    reason: str | None


def liveness(facts: Facts, findings: Sequence[Finding]) -> Liveness:
    """Judge from the findings and, if none of them decides, from the largest change of one token's likelihood."""
    stop = refusal(findings)
    if stop is not None:
        return Liveness(False, str(stop))
    function = facts.function
    if function is None:
        why = facts.integrity.reason if facts.integrity else None
        return Liveness(None, why or "nothing was loaded, and nothing in the files is wrong")
    change = function.on_base_nats if function.on_off_nats is None else function.on_off_nats
    if change is None:
        return Liveness(None, "the tuned model could not be compared with its base")
    if change == 0:
        return Liveness(False, f"not one of {function.n_tokens} tokens changes its likelihood, and no known cause was found")
    if change <= function.noise_floor_nats:
        return Liveness(
            None, f"the largest change of a token, {change:.1g} nats, is within the noise of {function.noise_floor_nats:.1g}"
        )
    return Liveness(True, None)
