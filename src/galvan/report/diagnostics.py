"""The causes that are present, as diagnostics: code, place, because, against, how to settle it, help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from galvan.diagnosis.catalogue import Finding, explain
from galvan.diagnostic import Diagnostic, Level
from galvan.report.prose import told

EVIDENCE = {
    "A": "integrity.json", "B": "integrity.json", "C": "integrity.json", "D": "training.jsonl", "E": "tokens.json", "F": "training.jsonl",
    "G": "scores.parquet", "H": "samples.jsonl", "I": "comparisons.json",
}  # fmt: skip
"""By family the file of a run that its evidence comes from."""
OTHER_NAME = "A10"


def of_run(findings: Sequence[Finding], folder: Path, refused: bool) -> list[Diagnostic]:
    """Those of a judged run; of a refused comparison no sentence that gives a perplexity."""
    return [_diagnostic(f, _place(folder / EVIDENCE[f.code[0]], folder), refused) for f in findings if f.status == "present"]


def of_adapter(findings: Sequence[Finding], adapter: str) -> list[Diagnostic]:
    """Those of an adapter that was looked at without a run."""
    return [
        *(_diagnostic(f, adapter, False) for f in findings if f.status == "present"),
        *(_open(f, adapter) for f in findings if f.code == OTHER_NAME and f.status == "unknown" and len(f.because) > 1),
    ]


def _open(f: Finding, adapter: str) -> Diagnostic:
    """Not shown, and yet to be read: an adapter that works, on what may be another base than its own."""
    missing, *seen = f.because
    return Diagnostic(
        "notice", f.code, told(seen, False), adapter, [("open", missing), ("to settle it", f.settle), ("help", f.remedy)]
    )


def of_stage(result: Mapping[str, Any]) -> list[Diagnostic]:
    """What was remarked while preparing: by the audit of the text, of its tokens, and before training; `result` as `--json` prints it."""
    folder = Path(result["run"])
    audit = [("warning", "audit.json", one) for one in result["audit"]["warnings"]]
    tokens = [(one["level"], "tokens.json", one) for one in result["tokens"]["notices"] if one["level"] == "warning"]
    before = [(level, "preflight.json", one) for level in ("warning", "error") for one in result["preflight"][f"{level}s"]]
    return [Diagnostic(level, one["code"], one["message"], str(folder / name)) for level, name, one in [*audit, *tokens, *before]]


def _place(path: Path, folder: Path) -> str:
    return str(path if path.exists() else folder)


def _diagnostic(f: Finding, place: str, refused: bool) -> Diagnostic:
    notes = [
        (f"{f.certainty}, because", told(f.because, refused)),
        ("against", told(f.against, refused)),
        ("help", f.remedy),
        ("to settle it", f.settle),
    ]
    level: Level = "error" if explain(f.code).refuses else "warning"
    return Diagnostic(level, f.code, f.title, place, [(label, text) for label, text in notes if text])
