"""What the terminal shows at the end of a run: the verdict last, then the files. 80 columns, no colour needed, no markup read from data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from galvan.diagnosis.catalogue import not_excluded, spans
from galvan.diagnostic import Diagnostic
from galvan.report.analysis import HEADLINES
from galvan.report.copying import copying_line
from galvan.report.diagnostics import of_run, of_stage
from galvan.report.evidence import Evidence
from galvan.report.explanations import headline_of
from galvan.report.prose import CONTROL_NAMES, plural, recipe_line, sensitivity, sentence
from galvan.report.remedies import next_actions
from galvan.report.retention import retention_line
from galvan.report.style import style_line
from galvan.style.judge import Style
from galvan.style.normalise import unlike
from galvan.text import shown

COLOURS = {
    "improved": "bold green",
    "worse": "bold red",
    "equivalent": "bold yellow",
    "inconclusive": "bold yellow",
    "refused": "bold red",
}
LEVELS = {"error": "bold red", "warning": "bold yellow", "notice": "bold"}
_MOST_ACTIONS, _INDENT = 3, 14
_PLAIN = str.maketrans({"…": "...", "“": '"', "”": '"', "’": "'", "‘": "'", "–": "-", "—": "-"})


class Page:
    """Rows of a label and a text, wrapped beside it; every string is made safe and read as text, not as markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = console.options.ascii_only

    def safe(self, text: str) -> str:
        safe = shown(text)
        return safe.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii") if self.ascii else safe

    def row(self, label: str, text: str, style: str = "") -> None:
        label = self.safe(label)
        for number, line in enumerate(
            Text(self.safe(text), style=style).wrap(self.console, max(20, self.console.width - _INDENT), overflow="fold")
        ):
            line.rstrip()
            self.console.print(Text.assemble((f"{label if number == 0 else '':<{_INDENT}}", "bold"), line), soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        """One line that is never broken, such as a path or a command that is to be copied."""
        self.console.print(Text(self.safe(text).replace("\n", " "), style=style), soft_wrap=True)

    def diagnostic(self, found: Diagnostic) -> None:
        for number, line in enumerate(found.lines(self.console.width)):
            self.line(line, LEVELS[found.level] if number == 0 else "")


def show(e: Evidence, verdict: Mapping[str, Any], folder: Path, quiet: bool = False, console: Console | None = None) -> None:
    """Print the summary of a judged run on stdout."""
    page = Page(console or Console(highlight=False))
    if not quiet:
        _details(page, e)
        for found in of_run(e.findings, folder, e.refusal is not None):
            page.line("")
            page.diagnostic(found)
        page.line("")
        _actions(page, e, folder)
    word = str(verdict["verdict"])
    figures = headline_of(e)
    page.row(
        "Verdict",
        f"{word.upper()}. {HEADLINES[word]}. " + (f"{figures}. " if figures else "") + sentence(str(verdict["reason"])),
        COLOURS[word],
    )
    for name in ("report.html", "verdict.json", "analysis.md"):
        page.line(f"  {folder / name}")


def _details(page: Page, e: Evidence) -> None:
    page.line("")
    splits = e.splits
    page.row("Data", ", ".join(f"{splits[name].documents:,} {name}" for name in ("train", "validation", "test")) + " documents")
    if e.training is not None:
        kind = f"; learning curve {e.curve.kind}" if e.curve else ""
        page.row(
            "Training",
            f"{plural(int(e.training.get('steps') or 0), 'step')}, learning rate {e.recipe.training.learning_rate:g}{kind}",
        )
    if e.comparisons is not None:
        ran = [f"{CONTROL_NAMES[name]} {control.status}" for name, control in e.comparisons.controls.items() if control.status]
        page.row("Controls", ", ".join(ran) if ran else "none was run")
    test = e.test
    if test is not None:
        for number, line in enumerate(sensitivity(test)):
            page.row("Sensitivity" if number == 0 else "", sentence(line))
        for caution in test.cautions:
            page.row("Caution", caution)
    known = e.comparisons.recipe if e.comparisons else None
    if known is not None and len(known.seeds) > 1:
        page.row("Recipe", recipe_line(known))
    if e.style is not None and e.refusal is None:
        page.row("Style", style_line(e.style.style))
        for caution in e.style.style.cautions:
            page.row("Caution", caution)
    if e.refusal is None:
        if e.copying is not None and e.copying.originality is not None:
            page.row("Copying", copying_line(e.copying))
        if e.retention is not None and e.retention.answer is not None:
            page.row("Retention", retention_line(e.retention))
    counts = {status: sum(f.status == status for f in e.findings) for status in ("present", "unknown", "absent")}
    open_ = f": {spans(not_excluded(e.findings))}" if counts["unknown"] else ""
    page.row("Causes", f"{counts['present']} present, {counts['absent']} excluded, {counts['unknown']} not excluded{open_}")


def _actions(page: Page, e: Evidence, folder: Path) -> None:
    helped = {sentence(f.remedy): f.code for f in e.findings if f.status == "present"}
    actions = next_actions(e)[:_MOST_ACTIONS]
    for number, action in enumerate(actions, 1):
        code = helped.get(sentence(action.action))
        page.row("Next" if number == 1 else "", f"{number}. {f'Mend {code}: its help says how.' if code else action.action}")
        page.line(" " * (_INDENT + 3) + _in_place(action.command, folder))
    if actions:
        page.line("")


def _in_place(command: str, folder: Path) -> str:
    """The command with this run's own files where it says RECIPE and ADAPTER."""
    own = {"RECIPE": folder / "recipe.yaml", "ADAPTER": folder / "adapter"}
    return " ".join(shlex.quote(str(own[word])) if word in own and own[word].exists() else word for word in command.split(" "))


def show_style(found: Style, console: Console | None = None) -> None:
    """What `galvan style` found: counts, checks, guards, what moved, and the answer last."""
    page = Page(console or Console(highlight=False))
    for name, n in found.counts.items():
        short = f", {n.too_short:,} too short to count" if n.too_short else ""
        page.row(name.replace("_", "-"), f"{plural(n.units, 'text')} measured, cut to {found.common_words} words{short}")
    for word, listed in (
        ("Known", [(c.name, c.ok, c.says) for c in found.validity]),
        ("Guard", [(g.name, g.ok, g.says) for g in found.guards]),
    ):
        for name, ok, says in listed:
            page.row(word, f"{name}: {says}", "red" if ok is False else "")
    for marks in unlike(found.typography):
        page.row("Type", f"{marks}, per 1,000 words; made equal, not scored")
    for moved in found.moved:
        means = f"author {moved.author.mean:.2f}, base {moved.base.mean:.2f}, tuned {moved.tuned.mean:.2f}"
        page.row(
            "Moved",
            f"{moved.phrase}: {means} ({'toward' if moved.toward_author else 'away from'} the author, p {moved.p_adjusted:.3f})",
        )
    for caution in found.cautions:
        page.row("Caution", caution, "yellow")
    page.row("Style", style_line(found), {"yes": "bold green", "no": "bold red"}.get(found.closer, "bold yellow"))


def show_diagnostics(some: Sequence[Diagnostic], console: Console | None = None) -> None:
    """One after the other, an empty line after each."""
    page = Page(console or Console(highlight=False))
    for found in some:
        page.diagnostic(found)
        page.line("")


def show_stage(result: Mapping[str, Any], before: Sequence[str], console: Console | None = None) -> None:
    """What `galvan prepare` and `galvan train` did: documents by split, what was left out, `before` training, what was remarked, steps."""
    page = Page(console or Console(highlight=False))
    audit, training = result["audit"], result.get("training")
    page.row(
        "Text",
        f"{plural(audit['documents'], 'document')}, {audit['words']['total']:,} words, {audit['tokens']['total']:,} tokens "
        f"from {plural(audit['sources'], 'source')}",
    )
    for name, part in audit["splits"].items():
        if part["documents"]:
            page.row(f"  {name}", f"{plural(part['documents'], 'document')}, {part['tokens']['total']:,} tokens")
    for word, some in (("Left out", audit["removed"]), ("Changed", audit["changed"])):
        for number, (reason, those) in enumerate(some.items()):
            page.row(word if number == 0 else "", f"{those['count']:,}, {reason}")
    for number, line in enumerate(before):
        page.row("Training" if number == 0 else "", line)
    page.line("")
    show_diagnostics(of_stage(result), console)
    if training:
        page.row(
            "Trained",
            f"{training['trainable_parameters']:,} of {training['total_parameters']:,} parameters, {plural(training['steps'], 'step')}, {training['tokens']:,} tokens",
        )
    page.line(f"  {result['run']}")
