"""What a run's folder tells beyond its adapter: tokens, splits, the training log, which documents were scored, the samples.

Plain records, no torch. A file that is not there is None, and the causes that need it answer unknown and say so. `trainer_state.json`
of a transformers Trainer, beside the run's files or in the adapter's folder, serves as the log where galvan did not train.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from galvan.diagnosis.reported import Reported, Sums, reported_from_json
from galvan.errors import DataError
from galvan.rundir import read_documents, read_json, read_rows
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.data.facts import Overlap

BASE, TUNED = "base", "tuned"
_COLUMNS = ["arm", "document", "split", "n_tokens", "nll_nats", "token_nll_nats"]


@dataclasses.dataclass(frozen=True, slots=True)
class Tokens:
    """`tokens.json`: the training rows as they were encoded; `masked_rows` of them hold no token to learn (None in older files).
    `notices` are sentences by the code of their cause."""

    shape: str
    rows: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    lost_supervised_tokens: int
    ends_survive_share: float | None
    first_token_rule: str
    notices: Mapping[str, list[str]]
    masked_rows: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOut:
    """Of the rows `read`, those that preparing left out because nothing is learned from them."""

    read: int
    empty: int


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """A training log. Losses in nats a token: `first_loss` of the first logged step, `first_eval` of the first evaluation after
    `first_eval_step` steps. `trained_tokens` counts targets over all epochs; `ours` says that galvan's loop wrote it."""

    ours: bool
    first_step: int | None = None
    first_loss: float | None = None
    first_eval_step: int | None = None
    first_eval: float | None = None
    trained_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Checks:
    """Live checks of the loss before the first step, as shares of it; None where one was not made.

    `loss_error`: distance from the definition, in one pass; `passes_error`: in separate passes; `padding_error`: of a logit, with
    padding; `contamination`: how far a packed document moves the next one's logits; `seams_learned`: labels on a document's first token.
    """

    loss_error: float | None = None
    passes_error: float | None = None
    padding_error: float | None = None
    contamination: float | None = None
    seams_learned: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """What `scores.parquet` holds of the test part: sums by arm, the documents of the file that an arm lacks, those it has twice, and
    those that have another number of tokens under the two arms. Standard errors of the gain in nats a token, computed as one should
    not: `token_se_nats` as if tokens were independent, `unpaired_se_nats` as if the arms had been given other documents."""

    arms: Mapping[str, Sums]
    in_file: int
    lacking: Mapping[str, Sequence[str]]
    twice: Sequence[str]
    unlike_tokens: Sequence[str] = ()
    token_se_nats: float | None = None
    unpaired_se_nats: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """`samples.jsonl`, base beside tuned. `unlike_seeds` of `paired` prompts were drawn with another seed or settings in the two arms;
    `unseeded` samples drew at random without one. `greedy` counts the pairs without chance, `greedy_differ` those that differ."""

    count: Mapping[str, int]
    stopped: Mapping[str, int]
    paired: int
    unlike_seeds: int
    unseeded: int
    greedy: int
    greedy_differ: int


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """What a generating function answered for one arm, beside logits computed without a cache: of `tokens` how many either model does
    not put first. Whoever answers greedily puts all of its own first."""

    tokens: int
    not_of_base: int
    not_of_tuned: int


@dataclasses.dataclass(frozen=True, slots=True)
class Repeats:
    """What a generating function did in a notebook, with one prompt: the same words from one model each time, or others? `tuned` is its
    first answer for the tuned model, asked before the base, and `base` that for the base, asked after it."""

    calls: int
    differ: bool
    base_vs_tuned_differ: bool | None = None
    tuned: Answered | None = None
    base: Answered | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RunFacts:
    """All of it. `settings` is the recipe, `provenance` which tokenizers, context and rules were used, `generation` and `export` what
    their stages wrote; each an empty mapping where there is none."""

    tokens: Tokens | None = None
    preflight: Mapping[str, Any] | None = None
    overlaps: Sequence[Overlap] | None = None
    left_out: LeftOut | None = None
    training: Mapping[str, Any] | None = None
    log: Log | None = None
    checks: Checks | None = None
    scored: Scored | None = None
    samples: Samples | None = None
    repeats: Repeats | None = None
    reported: Reported | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    export: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def setting(self, name: str) -> Any:
        """An option of the recipe by its dotted name; None where the recipe was not given."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def run_facts(folder: Path, settings: Mapping[str, Any] | None = None) -> RunFacts:
    """Read a run's folder; `settings` is its recipe as a plain mapping. DataError, naming the file, where one is damaged."""
    training = _mapping(folder / "training.json")
    audit = _mapping(folder / "audit.json")
    checks = training.get("checks") if training else None
    return RunFacts(
        tokens=_tokens(_mapping(folder / "tokens.json")),
        preflight=_mapping(folder / "preflight.json"),
        overlaps=None if audit is None else overlaps(audit),
        left_out=None if audit is None else _left_out(audit),
        training=training,
        log=_log(folder, training),
        checks=_record(Checks, checks) if isinstance(checks, Mapping) else None,
        scored=_scored(folder),
        samples=samples(list(read_rows(folder / "samples.jsonl"))) if (folder / "samples.jsonl").is_file() else None,
        reported=reported_from_json(_mapping(folder / "reported.json")),
        settings=settings or {},
        provenance=_mapping(folder / "provenance.json") or {},
        generation=_mapping(folder / "generation.json") or {},
        export=_mapping(folder / "export.json") or {},
    )


def _mapping(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError("run/damaged", f"{shown(path.name)}: not a JSON object; delete the file and run again.")
    return value


def _record(kind: Any, value: Mapping[str, Any]) -> Any:
    return kind(**{f.name: value.get(f.name) for f in dataclasses.fields(kind)})


def _tokens(value: Mapping[str, Any] | None) -> Tokens | None:
    if value is None:
        return None
    notices: dict[str, list[str]] = {}
    for notice in value.get("notices") or []:
        notices.setdefault(str(notice.get("code")), []).append(str(notice.get("message")))
    try:
        plain = {f.name: value[f.name] for f in dataclasses.fields(Tokens) if f.name not in ("notices", "masked_rows")}
    except KeyError as error:
        raise DataError("run/damaged", f"tokens.json: {error} is missing; delete the file and run again.") from None
    return Tokens(**plain, notices=notices, masked_rows=value.get("masked_rows"))


def overlaps(audit: Mapping[str, Any]) -> list[Overlap]:
    """The pairs of splits that `audit.json` compares; a figure that an older file lacks is nothing shared."""
    from galvan.data.facts import Overlap

    nothing: dict[str, Any] = {
        "a": "", "b": "", "longest_span_words": 0, "longest_span": "", "longest_span_in": None, "leaking": 0, "leaking_documents": [],
        "contained_13_grams": None, "duplicates": 0,
    }  # fmt: skip
    known = {f.name for f in dataclasses.fields(Overlap)}
    rows = [row for row in audit.get("overlaps") or [] if isinstance(row, Mapping)]
    return [Overlap(**{**nothing, **{k: v for k, v in row.items() if k in known}}) for row in rows]


def _left_out(audit: Mapping[str, Any]) -> LeftOut | None:
    removed, read = audit.get("removed"), _int(audit.get("rows_read"))
    empty = removed.get("empty") if isinstance(removed, Mapping) else None
    count = _int(empty.get("count")) if isinstance(empty, Mapping) else 0
    return None if read is None or count is None else LeftOut(read, count)


def behind(training: Mapping[str, Any] | None, what: str) -> float:
    """Steps or epochs of the trainings that this one went on from, by training.json; 0 where it began afresh or they are not known."""
    before = (training or {}).get("continued") or {}
    return before.get(what) or 0


def _log(folder: Path, training: Mapping[str, Any] | None) -> Log | None:
    if training is not None:
        trace = list(read_rows(folder / "training.jsonl")) if (folder / "training.jsonl").is_file() else []
        curves = list(read_rows(folder / "curves.jsonl")) if (folder / "curves.jsonl").is_file() else []
        first = [row for row in curves if row.get("set") == "probe" and row.get("step") == 0]
        tokens = sum(int(row["n_tokens"]) for row in first)
        return Log(
            ours=True,
            first_step=int(trace[0]["step"]) if trace else None,
            first_loss=_number(trace[0].get("loss_nats")) if trace else None,
            first_eval_step=0 if tokens else None,
            first_eval=sum(float(row["nll_nats"]) for row in first) / tokens if tokens else None,
            trained_tokens=int(trace[-1]["tokens"]) if trace else None,
        )
    state = _mapping(folder / "trainer_state.json") or _mapping(folder / "adapter" / "trainer_state.json")
    return None if state is None else trainer_log(state)


def trainer_log(state: Mapping[str, Any]) -> Log:
    """The log of a transformers Trainer (`trainer_state.json`). Its first line is a mean over the steps up to it."""
    history = [row for row in state.get("log_history") or [] if isinstance(row, Mapping)]
    losses = [row for row in history if _number(row.get("loss")) is not None]
    evals = [row for row in history if _number(row.get("eval_loss")) is not None]
    return Log(
        ours=False,
        first_step=_int(losses[0].get("step")) if losses else None,
        first_loss=_number(losses[0].get("loss")) if losses else None,
        first_eval_step=_int(evals[0].get("step")) if evals else None,
        first_eval=_number(evals[0].get("eval_loss")) if evals else None,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _scored(folder: Path) -> Scored | None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path, file = folder / "scores.parquet", folder / "data" / "test.jsonl"
    if not path.is_file() or not file.is_file():
        return None
    try:
        table = pq.read_table(path, columns=_COLUMNS, filters=[("split", "==", "test"), ("arm", "in", [BASE, TUNED])])
    except (pa.ArrowException, OSError, ValueError):
        return None  # `compare` names what is wrong with it
    wanted = [document.id for document in read_documents(file)]
    arms, lacking, twice, flat = {}, {}, set(), {}
    for arm in (BASE, TUNED):
        part = table.filter(pc.equal(table.column("arm"), arm)).combine_chunks()
        names = [str(name) for name in part.column("document").to_pylist()]
        twice |= {name for name, count in Counter(names).items() if count > 1}
        lacking[arm] = sorted(set(wanted) - set(names))
        if names:
            nll, n = (part.column(c).to_numpy().astype(t) for c, t in (("nll_nats", np.float64), ("n_tokens", np.int64)))
            arms[arm] = Sums(names, nll, n)
            flat[arm] = part.column("token_nll_nats").combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    if len(arms) < 2:
        return Scored(arms, len(wanted), lacking, sorted(twice))
    counts = [dict(zip(sums.documents, sums.n_tokens.tolist(), strict=True)) for sums in arms.values()]
    unlike = [name for name in counts[0] if counts[1].get(name, counts[0][name]) != counts[0][name]]
    base, tuned = arms[BASE], arms[TUNED]
    aligned = list(base.documents) == list(tuned.documents) and not unlike and len(flat[BASE]) == len(flat[TUNED]) > 1
    token_se = float((flat[BASE] - flat[TUNED]).std(ddof=1)) / len(flat[BASE]) ** 0.5 if aligned else None
    return Scored(arms, len(wanted), lacking, sorted(twice), unlike, token_se, _unpaired_se(base, tuned))


def _unpaired_se(*arms: Sums) -> float | None:
    if min(len(arm.n_tokens) for arm in arms) < 2:
        return None
    return float(sum((arm.nll_nats / arm.n_tokens).var(ddof=1) / len(arm.n_tokens) for arm in arms) ** 0.5)


def samples(rows: Sequence[Mapping[str, Any]]) -> Samples:
    """Counts over the rows of `samples.jsonl`; a pair is one prompt, way of sampling and sample number under base and tuned."""
    arms: dict[str, dict[Any, Mapping[str, Any]]] = {BASE: {}, TUNED: {}}
    for row in rows:
        if row.get("arm") in arms:
            settings = row.get("settings")
            way = settings.get("name") if isinstance(settings, Mapping) else settings
            arms[str(row["arm"])][row.get("prompt_id"), way, row.get("sample")] = row
    pairs = [(row, arms[TUNED][key]) for key, row in arms[BASE].items() if key in arms[TUNED]]
    chance = [row for arm in arms.values() for row in arm.values() if not _greedy(row)]
    greedy = [(base, tuned) for base, tuned in pairs if _greedy(base) and _greedy(tuned)]
    return Samples(
        count={arm: len(some) for arm, some in arms.items()},
        stopped={arm: sum(str(row.get("stop")) in ("eos", "end", "stop") for row in some.values()) for arm, some in arms.items()},
        paired=len(pairs),
        unlike_seeds=sum(
            not _greedy(base) and (base.get("seed") != tuned.get("seed") or base.get("settings") != tuned.get("settings"))
            for base, tuned in pairs
        ),
        unseeded=sum(row.get("seed") is None for row in chance),
        greedy=len(greedy),
        greedy_differ=sum(base.get("text") != tuned.get("text") for base, tuned in greedy),
    )


def _greedy(row: Mapping[str, Any]) -> bool:
    settings = row.get("settings")
    if not isinstance(settings, Mapping):
        return settings == "greedy"
    return settings.get("do_sample") is False or settings.get("temperature") == 0 or settings.get("name") == "greedy"
