"""`analysis.md`: the origin's write-up as it should have been. Prose made of the run's figures; no claim without one.

A refused comparison shows no perplexity and no gain: it says what is wrong first, and how to mend it. One function a section, in
order in `SECTIONS`; each returns Markdown or an empty string, and everything that comes from data passes through `md` or `code`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from galvan.diagnosis.catalogue import Finding, not_excluded, spans
from galvan.report.copying import copying_section
from galvan.report.evidence import Evidence
from galvan.report.explanations import explanations, summary_of, summary_of_bits
from galvan.report.glance import against, glance
from galvan.report.limits import limits
from galvan.report.markdown import code, commands, md, table
from galvan.report.names import base_name, data_name, went_on_from
from galvan.report.picture import power_line
from galvan.report.prose import (
    CONTROL_NAMES,
    bullets,
    control_line,
    epochs,
    nats,
    percent,
    percent_interval,
    plural,
    recipe_line,
    sensitivity,
    sentence,
)
from galvan.report.ratings import ratings_section
from galvan.report.remedies import Action, next_actions
from galvan.report.retention import retention_section
from galvan.report.style import HEADLINES as STYLE
from galvan.report.style import style_section
from galvan.statistics.paired import Gain

HEADLINES = {
    "improved": "The fine-tune worked on held-out text",
    "worse": "The fine-tune made held-out text less likely",
    "equivalent": "Base and tuned are equivalent on held-out text",
    "inconclusive": "It cannot be told from these documents whether the fine-tune helped",
    "refused": "The comparison is refused",
}
_MOST_ROWS = 8
_EXCLUDED = re.compile(r"([A-I]\d\d) is excluded: (.*)")


def analysis(e: Evidence) -> str:
    """The whole page."""
    title = f"# Analysis of {code(e.recipe.name)}: " + (
        "the comparison is refused" if e.judged is None else "did the fine-tune work?"
    )
    sections = [text for section in SECTIONS if (text := section(e))]
    return "\n\n".join([title, *sections]) + "\n"


# ---- sections ----


def summary(e: Evidence) -> str:
    test = e.test
    if e.bits is not None:
        bits = e.bits
        lines = [f"**Result: {bits.verdict}.** {HEADLINES[bits.verdict]}. {md(summary_of_bits(bits))}. {md(bits.reason)}"]
        return "## Summary\n\n" + "\n\n".join([*lines, *(f"Caution: {md(caution)}" for caution in bits.cautions)])
    if test is None:
        why = f"**Result:** {HEADLINES['refused']}. {md(sentence(e.refusal or ''), 1200)}"
        first = next_actions(e)
        mend = f"\n\n**First:** {md(first[0].action)}" if first else ""
        return (
            f"## Summary\n\n{why}{mend}\n\nUntil this is mended the numbers "
            "of the two arms say nothing about the fine-tune, so none are shown here."
        )
    lines = [f"**Result: {test.verdict}.** {HEADLINES[test.verdict]}. {md(summary_of(test))}. {md(test.reason)}"]
    lines.append(md(test.sensitivity))
    lines += [f"Caution: {md(caution)}" for caution in test.cautions]
    if stands := against(e):
        lines.insert(1, f"**It is not called a success all the same: {md(' and '.join(stands))} stands against it.**")
    lines.append(table(["Question", "Answer"], [[question, md(answer, 1500)] for question, answer in glance(e)], figures=False))
    return "## Summary\n\n" + "\n\n".join(lines)


def training_details(e: Evidence) -> str:
    return "## Training details\n\n" + "\n".join(f"- **{name}:** {text}" for name, text in _training_lines(e)) + _loss_tables(e)


def _training_lines(e: Evidence) -> list[tuple[str, str]]:
    settings, splits, origin = e.recipe.training, e.splits, e.provenance
    counts = ", ".join(
        f"{plural(part.documents, 'document')} ({part.words:,} words) for {use}"
        for use, part in zip(
            ("training", "validation", "test"), (splits["train"], splits["validation"], splits["test"]), strict=True
        )
    )
    device, dtype = origin.get("device") or {}, origin.get("dtype") or {}
    lines = [
        (
            "Data",
            f"{code(data_name(e.recipe.data.source))}: {counts}; the test documents come from {plural(splits['test'].sources, 'source')}",
        ),
        (
            "Base model",
            code(base_name(e))
            + (f" at revision {code(origin['base_revision'])}" if origin.get("base_revision") else "")
            + (f", {md(device.get('value'))}, {md(dtype.get('value'))}" if device and dtype else ""),
        ),
    ]
    if e.training is None:
        return [
            *lines,
            ("Training", f"elsewhere: {code(data_name(str(origin.get('adapter') or 'the adapter')))} came without a training log"),
        ]
    steps, rows = int(e.training.get("steps") or 0), int(e.training.get("rows") or 0)
    batch = settings.batch_size * settings.accumulation
    lines.append(
        (
            "Duration",
            f"{epochs(settings.epochs)}, {plural(steps, 'step')} of {batch} documents "
            f"at most, {int(e.training.get('tokens') or 0):,} tokens; {rows:,} documents "
            f"/ {batch} x {settings.epochs:g} = {rows / batch * settings.epochs:.1f}",
        )
    )
    trainable, total = int(e.training.get("trainable_parameters") or 0), int(e.training.get("total_parameters") or 0)
    share = f" of {total:,} ({100 * trainable / total:.2f} %)" if total else ""
    if settings.method == "lora":
        targets = ", ".join(code(name, 60) for name in e.training.get("targets") or [])
        lines.append(
            (
                "Adapter",
                f"rank {settings.lora.rank}, alpha {settings.lora.alpha:g} (scale {settings.lora.alpha / settings.lora.rank:g}), "
                f"dropout {settings.lora.dropout:g}, on {targets or 'no layer that is recorded'}",
            )
        )
    lines += [("Goes on from", before)] if (before := went_on_from(e)) else []
    lines += [
        ("Trained parameters", f"{trainable:,}{share}"),
        (
            "Learning rate",
            f"{settings.learning_rate:g} at its peak, {settings.schedule} after {100 * settings.warmup_ratio:g} % warm-up, {settings.optimizer}",
        ),
        (
            "Batch",
            f"{settings.batch_size} x {settings.accumulation} accumulated = {batch} documents a step; seed {e.recipe.training_seed}",
        ),
    ]
    if cut := int(e.training.get("truncated_rows") or 0):
        lines.append(
            (
                "Truncated",
                f"{plural(cut, 'document')} lost {plural(int(e.training.get('truncated_tokens') or 0), 'token')} at their ends",
            )
        )
    return [*lines, *_first_loss(e)]


def _first_loss(e: Evidence) -> list[tuple[str, str]]:
    """Before the first update B is zero, so the first training loss is the base's own: the log can be held against the base's score."""
    if not e.trace or not isinstance(e.trace[0].get("loss_nats"), int | float):
        return []
    first, last = e.trace[0], e.trace[-1]
    losses = [float(row["loss_nats"]) for row in e.trace if isinstance(row.get("loss_nats"), int | float)]
    text = (
        f"{first['loss_nats']:.4f} nats a token at step {first['step']}, {losses[-1]:.4f} "
        f"at step {last['step']}, {sum(losses) / len(losses):.4f} on average over all steps"
    )
    probe = e.comparisons.probe if e.comparisons else None
    lines = [("Loss", text)]
    if probe is not None:
        eos = " (the log also counts the end-of-text token)" if e.recipe.training.learn_eos else ""
        lines.append(
            (
                "Loss before the first update",
                f"{first['loss_nats']:.4f} in the log, made by the untouched base on "
                f"one batch; the base of record has {math.log(probe.base_perplexity):.4f} "
                f"on {plural(probe.n_documents, 'training document')}. One and the same model, they should be near each other{eos}",
            )
        )
    return lines


def _loss_tables(e: Evidence) -> str:
    parts = []
    if e.trace:
        every = _spread(list(e.trace))
        rows = [
            [str(r["step"]), f"{r['tokens']:,}", f"{r['learning_rate']:.2e}", _figure(r["loss_nats"]), _figure(r["gradient_norm"])]
            for r in every
        ]
        parts.append(
            "Loss progression (one batch each, so it jumps about):\n\n"
            + table(["Step", "Tokens", "Learning rate", "Loss, nats a token", "Gradient norm"], rows)
        )
    if e.curve is not None and e.curve.points and e.refusal is None:
        columns = {"Validation": [p.validation for p in e.curve.points], "Training probe": [p.probe for p in e.curve.points]}
        known = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        rows = [[str(p.step), *(_figure(column[i]) for column in known.values())] for i, p in enumerate(e.curve.points)]
        parts.append(
            "The same documents at every evaluation, in evaluation mode (nats a token):\n\n" + table(["Step", *known], rows)
        )
    return "".join("\n\n" + part for part in parts)


def _spread(rows: list[Any]) -> list[Any]:
    if len(rows) <= _MOST_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (_MOST_ROWS - 1))] for i in range(_MOST_ROWS)]


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not a number"


def key_findings(e: Evidence) -> str:
    found = _refused_findings(e) if e.judged is None else _bits_findings(e) if e.test is None else _findings(e)
    return "## Key findings\n\n" + "\n\n".join(f"### {number}. {title}\n\n{text}" for number, (title, text) in enumerate(found, 1))


def _refused_findings(e: Evidence) -> list[tuple[str, str]]:
    found = _present(e)
    if e.comparisons is not None:
        failed = [control_line(name, c) for name, c in e.comparisons.controls.items() if c.status == "failed"]
        if failed:
            found.append(("A control failed", bullets(failed)))
        if e.comparisons.identity.status == "identical":
            found.append(("Base and tuned agree on every token", md(e.comparisons.identity.reason)))
    return found or [("Nothing could be compared", md(sentence(e.refusal or "")))]


def _bits_findings(e: Evidence) -> list[tuple[str, str]]:
    """Two tokenizers: what is left to say without a token."""
    known, bits = e.comparisons, e.bits
    assert known is not None and bits is not None
    lines = [f"{summary_of_bits(bits)}; over {bits.n_bytes:,.0f} bytes, the interval counts {plural(bits.n_clusters, bits.unit)}"]
    lines += [known.comparable.reason] if known.comparable else []
    controls = [known.identity.reason, *(control_line(n, c) for n, c in known.controls.items())]
    return [
        (f"Held-out text: {bits.verdict}", bullets(lines)),
        ("Can the measurement be trusted?", bullets(controls)),
        *_present(e),
    ]


def _present(e: Evidence) -> list[tuple[str, str]]:
    return [
        (f"{f.code}: {md(f.title)} ({f.certainty})", _for_and_against(list(f.because), list(f.against)) + _left(f, e.findings))
        for f in e.findings
        if f.status == "present"
    ]


def _left(finding: Finding, findings: Sequence[Finding]) -> str:
    """What remains possible, and the cheapest experiment."""
    return f"\n\nNot excluded: {spans(not_excluded(findings))}. To settle it: {md(sentence(finding.settle), 1200)}"


def _this_adapter_and_the_recipe(e: Evidence, test: Gain) -> list[tuple[str, str]]:
    known = e.comparisons.recipe if e.comparisons else None
    if known is None or len(known.seeds) < 2:
        return []
    lines = [
        f"This adapter, of training seed {known.seeds[0]}: {test.verdict}, {nats(test.nats_per_token, test.ci95)}, on other documents"
    ]
    lines.append(recipe_line(known))
    if known.gain is not None:
        each = ", ".join(f"{seed}: {g.nats_per_token:+.4f}" for seed, g in zip(known.seeds, known.gain.adapters, strict=True))
        lines.append(f"Gains by training seed, nats a token: {each}")
        lines += list(known.gain.cautions)
    return [("This adapter, and the recipe", bullets(lines))]


def _findings(e: Evidence) -> list[tuple[str, str]]:
    known, test = e.comparisons, e.test
    assert known is not None and test is not None
    unit = (
        f"{plural(test.n_clusters, test.unit)}, weighing like {test.n_effective:.1f} equal ones"
        if test.unit != "document"
        else f"documents, weighing like {test.n_effective:.1f} equal ones"
    )
    bits = known.bits
    lines = [
        f"{summary_of(test)}: {nats(test.nats_per_token, test.ci95)}, over {test.n_tokens:,.0f} "
        f"tokens of {plural(test.n_documents, 'document')}; the interval counts {unit}",
        *(
            [
                f"Bits per byte, which do not depend on the tokenizer: {bits.base_bits_per_byte:.4f} "
                f"for the base, {bits.tuned_bits_per_byte:.4f} for the tuned model"
            ]
            if bits
            else []
        ),
        f"Margin fixed beforehand: {test.margin:g} nats a token"
        + (
            f"; the smallest margin that these data could support is {test.smallest_margin:.4f}"
            if test.smallest_margin is not None
            else ""
        ),
    ]
    found = [(f"Held-out text: {test.verdict}", bullets(lines)), ("What could not have been seen", _sensitivity(e, test))]
    found += _this_adapter_and_the_recipe(e, test)
    found.append(("Training text beside held-out text", _train_against_test(e)))
    if e.curve is not None:
        ahead = [f"Training twice as long: {e.curve.twice_as_long}"] if e.curve.twice_as_long else []
        found.append((f"Learning curve: {e.curve.kind}", bullets([e.curve.reason, *ahead])))
    found.append(
        (
            "Can the measurement be trusted?",
            bullets([known.identity.reason, *(control_line(n, c) for n, c in known.controls.items())]),
        )
    )
    return found + _present(e)


def _sensitivity(e: Evidence, test: Gain) -> str:
    lines = sensitivity(test)
    spread = e.comparisons.bottleneck if e.comparisons else None
    if spread is not None and spread.advice:
        lines.append(f"What would help most is {spread.advice}: {spread.reason}")
    legend = "`:` would usually go unseen, `=` is below the margin, `o` the result and `-` its interval, `|` no change; left is better. As a picture: `power.svg`."
    return f"{bullets(lines)}\n\n```text\n{power_line(test)}\n```\n\n{legend}"


def _train_against_test(e: Evidence) -> str:
    known = e.comparisons
    if known is None or known.probe is None or known.test is None or known.probe_minus_test is None:
        return md(known.probe_reason or "Not measured.") if known else ""
    probe, apart = known.probe, known.probe_minus_test
    rows = [
        [
            name,
            f"{g.n_documents:,}",
            f"{g.base_perplexity:.2f}",
            f"{g.tuned_perplexity:.2f}",
            nats(g.nats_per_token, g.ci95),
            percent(g.perplexity_change_percent),
        ]
        for name, g in (("Training probe", probe), ("Held-out", known.test))
    ]
    line = f"Training text gained {nats(apart.value, apart.ci95)} more than held-out text"
    if apart.ci95 is not None and apart.ci95.low <= 0:
        line += ", a difference that chance can explain"
    return (
        table(["Documents", "Number", "Base perplexity", "Tuned perplexity", "Gain (95 % interval)", "Change"], rows)
        + f"\n\n{line}."
    )


def _for_and_against(because: list[str], against: list[str]) -> str:
    return (
        "For it:\n\n"
        + (bullets(because) if because else "- Nothing that was measured.")
        + "\n\nAgainst it:\n\n"
        + (bullets(against) if against else "- Nothing that was measured.")
    )


def possible_explanations(e: Evidence) -> str:
    letters, titles = "ABCDEFGHIJ", {f.code: f.title for f in e.findings}
    parts = []
    for i, x in enumerate(explanations(e)):
        excluded = [found for line in x.against if (found := _EXCLUDED.match(line))]
        evidence = _for_and_against(x.because, [line for line in x.against if not _EXCLUDED.match(line)])
        if excluded:
            rows = [[f"{found[1]} {md(titles.get(found[1], ''))}", md(found[2])] for found in excluded]
            evidence += "\n\nKnown causes of it that are excluded:\n\n" + table(["Cause", "What excludes it"], rows, figures=False)
        parts.append(f"### {letters[i]}. {x.title}: {x.status.lower()}\n\n{evidence}\n\nTo settle it: {md(x.settle)}")
    return "## Possible explanations\n\n" + "\n\n".join(parts)


def recommendations(e: Evidence) -> str:
    actions = next_actions(e)
    if not actions:
        return "## Recommendations\n\nNone: the gain was shown, and nothing that was measured stands against it."
    hint = "In the commands, `RECIPE` stands for this run's recipe (`recipe.yaml` beside this file), and `ADAPTER` for the adapter's folder."
    return "## Recommendations\n\n" + hint + "\n\n" + "\n\n".join(_recommendation(i, a) for i, a in enumerate(actions, 1))


def _recommendation(number: int, action: Action) -> str:
    return (
        f"{number}. **{md(action.action)}** {md(sentence(action.why))} What "
        f"would confirm it: {md(action.expected)}\n\n{commands([action.command])}"
    )


def next_steps(e: Evidence) -> str:
    excluded = sum(f.status == "absent" for f in e.findings)
    controls = e.comparisons.controls if e.comparisons else {}
    passed = [CONTROL_NAMES[n] for n, c in controls.items() if c.status == "ok"]
    done = [
        (
            bool(e.findings),
            f"Check the adapter's files, its place in the model and its effect ({excluded} of {plural(len(e.findings), 'cause')} excluded)",
        ),
        (bool(passed), f"Run the controls (passed: {', '.join(passed) or 'none'})"),
        (e.judged is not None, "Compare base and tuned on the same held-out documents, with an interval"),
        *(
            (yes, f"{what}{'' if yes else ' (not measured, or not measurable, in this run)'}")
            for yes, what in (
                (
                    e.style is not None and e.style.style.closer != "not measurable",
                    "Compare style with held-out text of the author",
                ),
                (
                    e.copying is not None and e.copying.originality is not None,
                    "Look for copies of the training text in what was written",
                ),
                (e.retention is not None and e.retention.answer is not None, "Measure on neutral text what was forgotten"),
            )
        ),
        *((False, action.action) for action in next_actions(e)),
        *(
            (False, f"Settle whether this was it: {x.title[0].lower()}{x.title[1:]}. {x.settle}")
            for x in (explanations(e) if e.refusal is None else [])
            if x.status == "Not settled"
        ),
    ]
    return "## Next steps\n\n" + "\n".join(f"- [{'x' if yes else ' '}] {md(text)}" for yes, text in done)


def how_measured(e: Evidence) -> str:
    origin = e.provenance
    rule = f" First token: {md(origin['first_token_rule'])}." if origin.get("first_token_rule") else ""
    context = (
        f" Documents longer than {origin['context_tokens']:,} tokens go through half-overlapping windows."
        if isinstance(origin.get("context_tokens"), int)
        else ""
    )
    floor = (
        f" Two measurements of one model may differ by {e.comparisons.noise_floor_nats:.2g} nats a token: {md(e.comparisons.noise_floor_reason)}"
        if e.comparisons
        else ""
    )
    hashes = "".join(
        f"\n- {name}: {code(origin[key])}"
        for name, key in (
            ("base", "base_sha256"),
            ("adapter", "adapter_sha256"),
            ("tokenizer", "tokenizer_sha256"),
            ("data", "data_sha256"),
        )
        if origin.get(key)
    )
    versions = ", ".join(f"{name} {version}" for name, version in (origin.get("versions") or {}).items())
    return (
        "## How it was measured\n\nThe base of record is scored from an object that never "
            "held an adapter; base and tuned see the same tokens, every document and every token once. "
        "The gain is the sum over documents of the base's negative log-likelihood less the tuned "
            "model's, divided by all scored tokens, so that exp(-gain) is the ratio of the two perplexities. "
        "Its interval is a jackknife over documents, runs of neighbouring documents or sources, "
            "whichever is the more careful, with Student's t at the effective number of units."
        + rule + context + floor + ("\n\nSha256 of what was measured:\n" + hashes if hashes else "") + (f"\n\nVersions: {md(versions)}." if versions else "")
    )  # fmt: skip


def limits_section(e: Evidence) -> str:
    return "## Limits\n\n" + bullets(limits(e))


def files(e: Evidence) -> str:
    known = [
        ("report.html", "this result to look at: opens offline, in any browser", True), ("verdict.json", "this result for machines", True), ("findings.json", "every cause with its evidence", True),
        ("comparisons.json", "gains, intervals and controls", e.comparisons is not None), ("scores.parquet", "likelihoods "
            "by document and token", e.comparisons is not None),
        ("integrity.json", "what the check "
            "of the adapter found", e.integrity is not None), ("training.jsonl", "every training step", bool(e.trace)),
        ("power.svg", "the result and what could have been seen, as a picture", e.test is not None),
        ("curves.jsonl", "every evaluation, by document", e.curve is not None), ("recipe.yaml", "the resolved recipe", True),
        ("adapter/README.md", "the adapter's model card", e.training is not None and e.recipe.training.method == "lora"),
        ("samples.jsonl", "what base and tuned wrote", e.style is not None), ("style.json", "how it is written, with every check", e.style is not None),
        ("originality.json", "copies and their sources, by text", e.copying is not None), ("retention.json", "what was kept and forgotten", e.retention is not None),
        ("retention.parquet", "both distributions compared, by document", e.retention is not None and e.retention.neutral is not None),
    ]  # fmt: skip
    return "## Files\n\n" + "\n".join(f"- `{name}`: {what}" for name, what, there in known if there)


def conclusion(e: Evidence) -> str:
    test, actions = e.test, next_actions(e)
    priority = f"\n\n**Priority:** {md(actions[0].action)}" if actions else ""
    if e.bits is not None:
        return f"## Conclusion\n\n{HEADLINES[e.bits.verdict]}. {md(summary_of_bits(e.bits))}.{priority}"
    if test is None:
        return f"## Conclusion\n\nNothing is known yet about the fine-tune itself: {md(sentence(e.refusal or ''), 1200)}{priority}"
    listed = explanations(e)
    likely = [x.title[0].lower() + x.title[1:] for x in listed if x.status in ("Shown", "Supported")]
    ruled = [x.title[0].lower() + x.title[1:] for x in listed if x.status == "Excluded"]
    text = f"{HEADLINES[test.verdict]}: perplexity {percent(test.perplexity_change_percent)}, {percent_interval(test.perplexity_change_ci95)}."
    text += f" What the evidence supports: {'; '.join(map(md, likely))}." if likely else ""
    text += f" What it excludes: {'; '.join(map(md, ruled))}." if ruled else ""
    stands = against(e)
    text += f" It is not called a success all the same: {md(' and '.join(stands))} stands against it." if stands else ""
    told = [f"style: {STYLE[e.style.style.closer]}"] if e.style else []
    told += [f"excess copying: {e.copying.originality.excess.answer}"] if e.copying and e.copying.originality else []
    told += [f"forgetting: {e.retention.answer}"] if e.retention and e.retention.answer else []
    text += f" The other answers: {md('; '.join(told))}." if told else ""
    return f"## Conclusion\n\n{text}{priority}"


SECTIONS: tuple[Callable[[Evidence], str], ...] = (
    summary, training_details, key_findings, style_section, copying_section, retention_section, ratings_section, possible_explanations, recommendations, next_steps, how_measured, limits_section, files, conclusion,
)  # fmt: skip
