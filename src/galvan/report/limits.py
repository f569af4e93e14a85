"""What a result does not say: one list, for the page, the analysis and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from galvan.report.evidence import Evidence
from galvan.report.prose import plural
from galvan.statistics.windows import LITTLE_CONTEXT
from galvan.text import shown

MUCH = 0.5  # of the scored tokens; in texts of 230 tokens it is a good quarter


def limits(e: Evidence) -> list[str]:
    """Sentences, the widest limit first. Of a refused comparison only that nothing is known."""
    sources = e.splits["test"].sources
    if e.refusal is not None:
        return ["Nothing is known yet about the fine-tune itself."]
    lines = [
        f"The result speaks of text like the {plural(e.splits['test'].documents, 'held-out document')} from {plural(sources, 'source')}, in one language and by one author."
    ]
    lines += list(_texts(e.provenance.get("texts") or {}))
    unknown = sum(f.status == "unknown" for f in e.findings)
    lines += [f"{plural(unknown, 'cause')} could not be decided from what this run holds."] if unknown else []
    answered = (
        ("style", e.style is not None and e.style.style.closer != "not measurable"),
        ("copying", bool(e.copying and e.copying.originality and e.copying.originality.excess.answer != "not measurable")),
        ("forgetting", bool(e.retention and e.retention.answer)),
    )
    missing = [what for what, there in answered if not there]
    lines += [f"Not measured: {', '.join(missing)}."] if missing else []
    seeds = e.comparisons.recipe.seeds if e.comparisons and e.comparisons.recipe else ()
    lines += (
        ["One training seed: another adapter from the same recipe may gain more or less."] if e.training and len(seeds) < 2 else []
    )
    return lines


def _texts(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the tokenizer and the context did to the scored texts, where it is not nothing."""
    if altered := facts.get("n_not_reproduced"):
        names = ", ".join(shown(name) for name in facts["not_reproduced"][:3])
        yield f"The tokenizer does not give back {plural(altered, 'test document')} as written (first: {names}): bits per byte count other bytes there."
    if (share := facts.get("little_context_share") or 0.0) >= MUCH:
        yield f"{share:.0%} of the scored tokens have fewer than {LITTLE_CONTEXT} tokens before them: short texts are judged mostly by their beginnings."
