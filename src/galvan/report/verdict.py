"""`verdict.json`: the four answers of a run, for machines. Every block is one function; a figure that is null has its `reason`
beside it, and nothing in the file depends on the clock or on where the run lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from galvan import errors
from galvan.copying.originality import HUMAN, TUNED
from galvan.diagnosis.catalogue import causes
from galvan.errors import RecipeError
from galvan.report.evidence import Evidence
from galvan.report.remedies import next_actions
from galvan.rundir import SCHEMA_VERSION
from galvan.statistics.paired import Gain
from galvan.text import shown

VERDICTS = ("improved", "worse", "equivalent", "inconclusive", "refused")
NOT_COMPARABLE = "not comparable: the tokenizers differ, so that only bits per byte compare"
NOT_MEASURED = "not measured in this run"
NO_ORIGINALITY = ("excess_copying", "longest_span_words", "held_out_longest_span_words")
NO_RETENTION = ("kl_nats", "top1_agreement", "neutral_perplexity_change_percent", "forgot")


def verdict(e: Evidence) -> dict[str, Any]:
    """The content of verdict.json."""
    judged = e.judged
    word = judged.verdict if judged else "refused"
    blocks: dict[str, Any] = {"style": style(e), "originality": originality(e), "retention": retention(e)}
    worked = {"improved": not vetoes(blocks), "worse": False, "equivalent": False}.get(word)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": word,
        "worked": worked,
        "reason": judged.reason if judged else e.refusal,
        "fit": fit(e, e.test),
        **blocks,
        "controls": controls(e),
        "findings": list(e.findings),
        "next": next_actions(e),
        "provenance": provenance(e),
    }


def vetoes(verdict: Mapping[str, Any]) -> list[str]:
    """What forbids to call a likelier text a success: style's own vetoes, excess copying, forgetting."""
    copying = ["excess copying"] if verdict["originality"]["excess_copying"] else []
    return [*verdict["style"]["vetoes"], *copying, *(["forgetting"] if verdict["retention"]["forgot"] else [])]


def _block(reason: str | None, **fields: Any) -> dict[str, Any]:
    """`fields` and a `reason`, which is kept only where one of them is null."""
    return {**fields, "reason": (reason or "not defined") if None in fields.values() else None}


def fit(e: Evidence, test: Gain | None) -> dict[str, Any]:
    bits = e.comparisons.bits if e.comparisons else None
    apart = e.bits  # set only where the tokenizers differ
    why = test.reason if test else NOT_COMPARABLE if apart else e.refusal
    needed = test and (test.documents_needed_for_margin, test.documents_needed_for_observed)
    return _block(
        why,
        n_documents=test.n_documents if test else e.splits["test"].documents if apart else None,
        n_tokens=test and test.n_tokens,
        clusters=test.n_clusters if test else apart and apart.n_clusters,
        unit=test.unit if test else apart and apart.unit,
        base=_block(why, perplexity=test and test.base_perplexity, bits_per_byte=bits and bits.base_bits_per_byte),
        tuned=_block(why, perplexity=test and test.tuned_perplexity, bits_per_byte=bits and bits.tuned_bits_per_byte),
        gain=_block(
            why,
            nats_per_token=test and test.nats_per_token,
            ci95=test and test.ci95,
            perplexity_change_percent=test and test.perplexity_change_percent,
            perplexity_change_ci95=test and test.perplexity_change_ci95,
            bits_per_byte=bits and bits.bits_per_byte,
            bits_per_byte_ci95=bits and bits.ci95,
        ),
        recipe=recipe(e),
        mde80_percent=test and test.mde80_percent,
        documents_needed=_block(
            why,
            for_margin=needed and needed[0] and needed[0].documents80,
            for_observed=needed and needed[1] and needed[1].documents80,
        ),
        margin_nats=e.recipe.evaluation.margin_nats,
    )


def recipe(e: Evidence) -> dict[str, Any]:
    """The gain to expect from the recipe, whatever its seed; `gain` above is that of this adapter."""
    known = e.comparisons.recipe if e.comparisons else None
    gain = known and known.gain
    return _block(
        gain.reason if gain else known.reason if known else NOT_COMPARABLE if e.bits else e.refusal,
        training_seeds=list(known.seeds) if known else None,
        verdict=gain and gain.verdict,
        nats_per_token=gain and gain.nats_per_token,
        ci95=gain and gain.ci95,
        perplexity_change_percent=gain and gain.perplexity_change_percent,
        perplexity_change_ci95=gain and gain.perplexity_change_ci95,
    )


def style(e: Evidence) -> dict[str, Any]:
    if e.style is None or e.refusal is not None:
        return _block(e.refusal or NOT_MEASURED, closer="not measurable", gap_closed=None, ci95=None, vetoes=[])
    found = e.style.style
    closed = found.gap_closed
    return {
        "closer": found.closer, "gap_closed": closed and closed.value, "ci95": closed and closed.ci95, "vetoes": list(found.vetoes),
        "reason": found.reason + (f" {closed.reason}" if closed and closed.reason else ""),
    }  # fmt: skip


def originality(e: Evidence) -> dict[str, Any]:
    found = e.copying
    if found is None or found.originality is None or e.refusal is not None:
        return _block(e.refusal or (found and found.reason) or NOT_MEASURED, **dict.fromkeys(NO_ORIGINALITY))
    excess, human = found.originality.excess, found.originality.of(HUMAN)
    tuned = found.originality.of(TUNED)
    return _block(
        excess.reason,
        excess_copying=None if excess.answer == "not measurable" else excess.answer == "excess copying",
        longest_span_words=tuned and tuned.longest_of_all,
        held_out_longest_span_words=human and human.longest_max,
    )


def retention(e: Evidence) -> dict[str, Any]:
    found = e.retention
    if found is None or found.neutral is None or e.refusal is not None:
        return _block(e.refusal or (found and found.reason) or NOT_MEASURED, **dict.fromkeys(NO_RETENTION))
    neutral = found.neutral
    return _block(
        found.reason,
        kl_nats=neutral.kl_nats.value,
        top1_agreement=neutral.top1_agreement.value,
        neutral_perplexity_change_percent=neutral.perplexity_change_percent.value,
        forgot=found.forgot,
    )


CONTROLS = ("base_vs_base", "zero_adapter", "random_b", "shuffled_text", "shuffled_author")


def controls(e: Evidence) -> dict[str, Any]:
    found = e.comparisons.controls if e.comparisons else {}
    missing = [f"{name}: {found[name].reason}" for name in CONTROLS if name in found and found[name].status is None]
    reason = " ".join(missing) or "Nothing was scored, so no control was run."
    return _block(reason, **{name: found[name].status if name in found else None for name in CONTROLS})


def provenance(e: Evidence) -> dict[str, Any]:
    known = e.provenance
    base = known.get("base", e.recipe.model.base)
    return _block(
        "not recorded by the tool that wrote this run",
        base=PurePath(base).name if PurePath(base).is_absolute() else base,
        base_sha256=known.get("base_sha256"),
        adapter_sha256=known.get("adapter_sha256"),
        tokenizer_sha256=known.get("tokenizer_sha256"),
        data_sha256=known.get("data_sha256"),
        versions=known.get("versions", {}),
    )


def exit_code(verdict: Mapping[str, Any], fail_on: str | None = None) -> int:
    """What the process ends with.

    By default: 0 improved and nothing vetoed, 4 refused, 6 inconclusive, 1 anything else. `fail_on` moves the gate: a
    comma-separated list of verdicts and cause codes (`worse,inconclusive,A09`); then 1 if the verdict is named or a named
    cause is present, else 0. `veto` in the list stands for any veto. A refused comparison ends with 4 all the same.
    RecipeError if a word is neither.
    """
    word = verdict["verdict"]
    named = None if fail_on is None else _gate(fail_on)
    if word == "refused":
        return errors.EXIT_MODEL
    if named is not None:
        present = {_field(finding, "code") for finding in verdict["findings"] if _field(finding, "status") == "present"}
        return (
            errors.EXIT_GATE_NOT_MET
            if word in named or named & present or ("veto" in named and vetoes(verdict))
            else errors.EXIT_DONE
        )
    if word == "inconclusive":
        return errors.EXIT_INCONCLUSIVE
    return errors.EXIT_DONE if word == "improved" and not vetoes(verdict) else errors.EXIT_GATE_NOT_MET


def _field(finding: Any, name: str) -> Any:
    return finding[name] if isinstance(finding, Mapping) else getattr(finding, name)


def _gate(fail_on: str) -> set[str]:
    known = {word.lower(): word for word in (*VERDICTS, "veto", *(cause.code for cause in causes()))}
    named: Sequence[str] = [word.strip().lower() for word in fail_on.split(",")]
    for word in named:
        if word not in known:
            raise RecipeError(
                "usage/fail-on",
                f"--fail-on: `{shown(word, 40)}` is neither a verdict ({', '.join(VERDICTS)}), `veto`, nor a cause code.",
            )
    return {known[word] for word in named}
