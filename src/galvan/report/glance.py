"""The four questions of a run, each with its answer in a line, and what stands against calling it a success."""

from __future__ import annotations

from galvan.report.copying import copying_line
from galvan.report.evidence import Evidence
from galvan.report.explanations import headline_of
from galvan.report.prose import CONTROL_NAMES, plural
from galvan.report.retention import retention_line
from galvan.report.style import style_line
from galvan.report.verdict import originality, retention, style, vetoes


def against(e: Evidence) -> list[str]:
    """The vetoes of a run that is judged."""
    return vetoes({"style": style(e), "originality": originality(e), "retention": retention(e)})


def glance(e: Evidence) -> list[tuple[str, str]]:
    """Questions with their answers, plain text; empty where the comparison is refused."""
    if e.judged is None or e.comparisons is None:
        return []
    controls = e.comparisons.controls
    passed = [CONTROL_NAMES[name] for name, control in controls.items() if control.status == "ok"]
    rows = [
        ("Is the adapter really in the model?", f"{e.comparisons.identity.reason} Controls passed: {', '.join(passed) or 'none was run'}."),
        ("Is held-out text likelier?", f"{e.judged.verdict}: {headline_of(e)}."),
    ]  # fmt: skip
    rows += [("Could it have been seen?", e.test.sensitivity)] if e.test else []
    if e.style is not None:
        rows.append(("Does it write like the author?", style_line(e.style.style)))
    if e.copying is not None and e.copying.originality is not None:
        rows.append(("Does it copy?", copying_line(e.copying)))
    if e.retention is not None and e.retention.answer is not None:
        rows.append(("What did it forget?", retention_line(e.retention)))
    present = [f"{f.code}: {f.title}" for f in e.findings if f.status == "present"]
    counts = f"{plural(sum(f.status == 'absent' for f in e.findings), 'known cause')} of a false result excluded, {sum(f.status == 'unknown' for f in e.findings)} not decided."
    return [*rows, ("What was found?", " ".join(f"{line}." for line in present) or counts)] if e.findings else rows
