"""What data, bases and paths may be called in public: never by a place on the machine."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from galvan.report.evidence import Evidence

BUNDLED = "galvan/"
_PATH = re.compile(r"(?<![\w:/.\\])(?:~?/|[A-Za-z]:[/\\])(?:[^\s/\\`\"']+[/\\])+([^\s/\\`\"']*)")


def without_paths(text: str) -> str:
    """`text` with every absolute path reduced to its last part."""
    return _PATH.sub(lambda match: match[1] or "a folder", text)


def data_name(source: str) -> str:
    """Hub, Gutenberg and bundled sources whole, a file or folder by its name alone."""
    if source.startswith(("hub:", "gutenberg:", BUNDLED)):
        return source
    return PurePosixPath(source.replace("\\", "/")).name or "a folder"


def went_on_from(e: Evidence) -> str | None:
    """The adapter that training went on from, by its bytes and what lay behind it; None where it began afresh."""
    before = (e.training or {}).get("continued")
    if not before:
        return None
    steps = f", which had {before['steps']:,} steps behind it" if before.get("steps") else ""
    return f"an adapter with the sha256 {before['sha256']}{steps}; optimizer and learning rate began anew"


def base_id(e: Evidence, known_as: str | None = None) -> str | None:
    """The id of the base where it is one that others can load by: `known_as`, of the Hub, or bundled; None where it was a folder here."""
    name = str(e.provenance.get("base") or e.recipe.model.base).partition("@")[0]
    return known_as or (name if name.startswith(BUNDLED) or e.provenance.get("base_revision") else None)


def base_name(e: Evidence, known_as: str | None = None) -> str:
    """The base as people may read it: its id, or the name of its folder."""
    name = str(e.provenance.get("base") or e.recipe.model.base)
    return base_id(e, known_as) or PurePosixPath(name.replace("\\", "/")).name
