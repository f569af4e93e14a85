"""The judging half: from a run's files to comparisons.json, findings.json, analysis.md, report.html and verdict.json. No torch, seconds, repeatable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from galvan import errors
from galvan.app.ratings import ratings as ratings_of
from galvan.compare import Comparisons, Control, compare
from galvan.compare_seeds import compare_seeds
from galvan.copying.run import Copying, judge_copying
from galvan.diagnosis.catalogue import Finding, diagnose, refusal
from galvan.diagnostic import Diagnostic, Level
from galvan.forgetting import judge_retention
from galvan.report import figures, page
from galvan.report import verdict as verdicts
from galvan.report.analysis import HEADLINES, analysis
from galvan.report.card import card
from galvan.report.diagnostics import of_run
from galvan.report.evidence import Evidence, gather
from galvan.report.explanations import headline_of
from galvan.report.picture import power_svg
from galvan.report.prose import sentence
from galvan.rundir import read_documents, remove, require_unchanged, write_json, write_text
from galvan.style.run import RunStyle, style_of_run

__all__ = ["Judged", "judge"]

NOT_SCORED = "scores.parquet is not there, so nothing was compared."


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A judged run: `verdict` is the content of verdict.json before it became JSON, `evidence` all that it rests on."""

    folder: Path
    verdict: Mapping[str, Any]
    evidence: Evidence

    def exit_code(self, fail_on: str | None = None) -> int:
        return verdicts.exit_code(self.verdict, fail_on)

    def diagnostics(self, fail_on: str | None = None) -> list[Diagnostic]:
        """The causes that are present, and last the verdict, at the level of its exit code."""
        levels: dict[int, Level] = {errors.EXIT_DONE: "notice", errors.EXIT_INCONCLUSIVE: "warning"}
        level = levels.get(self.exit_code(fail_on), "error")
        e, word = self.evidence, self.verdict["verdict"]
        said = f"{HEADLINES[word]}. {sentence(headline_of(e) or '')} {sentence(str(self.verdict['reason']))}"
        verdict = Diagnostic(level, word, " ".join(said.split()), str(self.folder / "verdict.json"))
        return [*of_run(e.findings, self.folder, e.refusal is not None), verdict]

    def show(self, quiet: bool = False) -> None:
        from galvan.report import terminal

        terminal.show(self.evidence, self.verdict, self.folder, quiet)


def judge(folder: Path) -> Judged:
    """Judge a run from its files and write what was found; verdict.json last, so that its presence means that all is there.

    Raises DataError where a file is damaged, ComparisonRefused where the arms were not scored on the same tokens.
    """
    for name in (
        "verdict.json",
        "power.svg",
        "style.json",
        "originality.json",
        "retention.json",
        "report.html",
        "pictures/curves.svg",
    ):
        remove(folder / name)
    require_unchanged(folder)
    e = gather(folder)
    comparisons = None
    if (folder / "scores.parquet").is_file():
        comparisons = _compared(folder, e)
    copying = _copying(folder, e, comparisons)
    excess = copying.originality.excess.answer if copying.originality else "not measurable"
    style = style_of_run(folder, None if excess == "not measurable" else excess == "excess copying")
    if comparisons is not None and style is not None:
        known = {**comparisons.controls, "shuffled_author": _shuffled_author(style)}
        comparisons = dataclasses.replace(comparisons, controls=known)
    e = dataclasses.replace(
        e,
        comparisons=comparisons,
        style=style,
        copying=copying,
        retention=judge_retention(folder, e.recipe.evaluation.forgetting_percent),
        ratings=ratings_of(folder),
    )
    blocks = {"style": verdicts.style(e), "originality": verdicts.originality(e), "retention": verdicts.retention(e)}
    findings = diagnose(e.facts(blocks))
    e = dataclasses.replace(e, findings=findings, **_refused(comparisons, _stop(findings)))
    verdict = verdicts.verdict(e)
    if e.comparisons is not None:
        write_json(folder / "comparisons.json", e.comparisons)
    write_json(folder / "findings.json", findings)
    if e.style is not None and e.refusal is None:
        write_json(folder / "style.json", e.style)
    for name, found in (("originality.json", e.copying), ("retention.json", e.retention)):
        if found is not None and e.refusal is None:
            write_json(folder / name, found)
    write_text(folder / "analysis.md", analysis(e))
    if e.test is not None:
        write_text(folder / "power.svg", power_svg(e.test))
    if e.refusal is None and e.curve is not None and e.curve.points:
        write_text(folder / "pictures" / "curves.svg", figures.curves(e.curve))
    write_text(folder / "report.html", page.page(page.gather(folder, e, verdict)))
    for name in ("adapter", "model"):
        if (folder / name).is_dir():
            write_text(folder / name / "README.md", card(folder, e, verdict))
    write_json(folder / "verdict.json", verdict)
    return Judged(folder, verdict, e)


def _shuffled_author(style: RunStyle) -> Control:
    """Style's own check on the author's words shuffled. Where they are not vetoed style is not measurable, which refuses no likelihoods."""
    asked = [check for check in style.style.validity if check.name == "shuffled words"]
    if not asked:
        return Control(None, f"Style was not measurable, so its check on shuffled text was not made. {style.style.reason}")
    return Control("ok" if asked[0].ok else None, f"{asked[0].says}.")


def _copying(folder: Path, e: Evidence, comparisons: Comparisons | None) -> Copying:
    documents = {
        name: read_documents(path) if (path := folder / "data" / f"{name}.jsonl").is_file() else [] for name in ("train", "test")
    }
    return judge_copying(folder, documents, comparisons, e.recipe.evaluation.margin_nats, e.recipe.seed)


def _compared(folder: Path, e: Evidence) -> Comparisons:
    found = compare(folder / "scores.parquet", e.recipe.evaluation.margin_nats, e.integrity, e.comparable())
    if found.refusal is not None or found.test is None:
        return found
    return dataclasses.replace(found, recipe=compare_seeds(folder, e.recipe, found.noise_floor_nats))


def _stop(findings: Sequence[Finding]) -> str | None:
    """The sentence for the cause that forbids the comparison, without its remedy, which stands under what to do next."""
    error = refusal(findings)
    if error is None:
        return None
    finding = next(f for f in findings if f.code == error.code)
    return f"{finding.code}: {finding.title}. {finding.because[0]}"


def _refused(comparisons: Comparisons | None, stop: str | None) -> dict[str, Any]:
    """Why the comparison is refused, if it is, and the comparisons without the gains that it then may not show."""
    if comparisons is None:
        return {"refusal": stop or NOT_SCORED}
    reason = stop or comparisons.refusal
    return {"refusal": reason, "comparisons": comparisons if reason is None else comparisons.withheld(reason)}
