"""`report.html`: a run for people who would rather look than read. One file, no script, nothing fetched, a pure function of the run's files.

Sections (`galvan.report.sections`) return blocks of plain text; the template escapes every string of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from galvan.data.show import ShownRow, ShownToken
from galvan.errors import DataError
from galvan.report import figures
from galvan.report.analysis import HEADLINES
from galvan.report.blocks import Block
from galvan.report.evidence import Evidence
from galvan.report.passages import passages
from galvan.report.sections import PICTURES, SECTIONS, Section, Seen
from galvan.report.verdict import vetoes
from galvan.rundir import read_json
from galvan.text import shown


def gather(folder: Path, e: Evidence, verdict: Mapping[str, Any]) -> Seen:
    """Read what only the page shows. DataError where a file is damaged."""
    paths = {name: folder / "pictures" / f"{name}.svg" for name in PICTURES}
    found = {
        name: figures.trusted(path.read_text(encoding="utf-8", errors="replace")) for name, path in paths.items() if path.is_file()
    }
    return Seen(
        e, verdict, passages(folder) if e.test is not None else None, {name: svg for name, svg in found.items() if svg},
        _rows(folder / "rows.json"),
    )  # fmt: skip


def _rows(path: Path) -> list[ShownRow]:
    if not path.is_file():
        return []
    try:
        return [
            ShownRow(str(row["document"]), str(row["way"]), [ShownToken(shown(str(t["text"])), int(t["id"]), t["kind"]) for t in row["tokens"]])
            for row in read_json(path)
            if all(t["kind"] in ("trained", "masked", "cut") for t in row["tokens"])
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise DataError("run/damaged", f"{path.name}: not rows of ours; delete the file and run again.") from None


def _plain(value: object) -> object:
    """Every value of the template goes through the sanitiser; the template escapes what is left."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else shown(value)


def coded(text: str) -> Markup:
    """`text` escaped, what stands between two backticks as code: our own sentences name commands so."""
    parts = shown(text).split("`")
    if len(parts) % 2 == 0:
        return escape(shown(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def page(seen: Seen) -> str:
    """The whole page of a run as HTML."""
    parts = [(part, blocks) for part in SECTIONS if (blocks := part.blocks(seen))]
    word = seen.verdict["verdict"]
    return rendered(seen.e.recipe.name, word, vetoes(seen.verdict), HEADLINES[word], parts)


def rendered(name: str, word: str, against: Sequence[str], headline: str, parts: Sequence[tuple[Section, list[Block]]]) -> str:
    """A page of sections in the one template: `word` is its mark, `against` what vetoes it."""
    loader = PackageLoader("galvan.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_plain
    )
    environment.filters["coded"] = coded
    return environment.get_template("report.html").render(name=name, word=word, vetoes=against, headline=headline, parts=parts)
