"""What was kept and what was forgotten, for people: one section of analysis.md, one line of the terminal."""

from __future__ import annotations

from galvan.forgetting import Change, Figure, Item, Retention
from galvan.report.evidence import Evidence
from galvan.report.markdown import md, table
from galvan.report.prose import percent, sentence

NOT_SHOWN = "neither forgetting nor its absence was shown"
KINDS = {"neutral": "Neutral text", "author": "The author's held-out text"}


def retention_line(found: Retention) -> str:
    """The answer, how far the distribution moved, and the band that KL falls into."""
    if found.answer is None or found.neutral is None:
        return sentence(found.reason)
    n = found.neutral
    return (
        f"{sentence(NOT_SHOWN if found.answer == 'not shown' else found.answer)} {sentence(found.reason)} KL {n.kl_nats.value:.4f} nats a token ({n.band}), the same "
        f"likeliest token in {100 * n.top1_agreement.value:.1f} %."
    )


def retention_section(e: Evidence) -> str:
    """`## What was forgotten?`, or nothing where nothing was measured or the comparison is refused."""
    found = e.retention
    if found is None or e.refusal is not None or (found.answer is None and not found.tasks):
        return ""
    parts = [f"## What was forgotten?\n\n{md(retention_line(found), 800)}"]
    changes = [c for c in (found.neutral, found.author) if c is not None]
    if changes:
        parts.append(
            "Base against tuned over the whole vocabulary, a mean over tokens with its 95 % interval by document:\n\n"
            + table(["", *(KINDS[c.kind] for c in changes)], _rows(changes))
        )
    if found.neutral and found.neutral.registers:
        said = ", ".join(f"{md(name)} {value:.4f}" for name, value in found.neutral.registers.items())
        parts.append(f"KL by kind of neutral text: {said}.")
    if found.tasks:
        parts.append(
            "Tasks, the same items asked of both:\n\n"
            + table(["Task", "Items", "Base", "Tuned", "Difference"], [_task(t) for t in found.tasks])
        )
    return "\n\n".join([*parts, *(f"Caution: {md(caution)}" for caution in found.cautions)])


def _rows(changes: list[Change]) -> list[list[str]]:
    return [
        ["Documents (tokens)", *(f"{c.n_documents:,} ({c.n_tokens:,})" for c in changes)],
        ["KL(base, tuned), nats", *(_figure(c.kl_nats) for c in changes)],
        ["KL(tuned, base), nats", *(_figure(c.reverse_kl_nats) for c in changes)],
        ["Change of entropy, nats", *(_figure(c.entropy_change_nats, "+.4f") for c in changes)],
        ["Same likeliest token", *(_figure(c.top1_agreement, ".3f") for c in changes)],
        ["Perplexity", *(f"{c.base_perplexity:.2f} to {c.tuned_perplexity:.2f}, {percent(c.perplexity_change_percent.value)}" for c in changes)],
        ["In words", *(md(c.band) for c in changes)],
    ]  # fmt: skip


def _figure(figure: Figure, form: str = ".4f") -> str:
    interval = "" if figure.ci95 is None else f" ({figure.ci95.low:{form}} to {figure.ci95.high:{form}})"
    return f"{figure.value:{form}}{interval}"


def _task(t: Item) -> list[str]:
    return [f"{md(t.task)}, {md(t.metric)}", f"{t.n_items:,}", f"{t.base:.3f}", f"{t.tuned:.3f}", _figure(t.difference, "+.3f")]
