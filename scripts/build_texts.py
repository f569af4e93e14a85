"""Build the bundled texts `galvan/letters` and `galvan/plain`, and `hands.jsonl`, from their sources in `assets-src/`.

Letters: files A to F, each by one hand; blocks are separated by blank lines, a block that begins with `## ` names the source of
those that follow, each other block is one snippet. Plain: files of `=== id` lines, each followed by its text. Hands: further papers of
five of the six hands, no part of `galvan/letters`: with them each of the five has sixty passages of 150 words (METHODS S4.7).

    python scripts/build_texts.py
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "assets-src"
ASSETS = ROOT / "src" / "galvan" / "assets"
REGISTERS = ("encyclopaedic", "dialogue", "instructions")


def letters() -> list[tuple[str, str, int]]:
    """Rows of (text, source, position); a source's snippets are numbered from 1."""
    rows: list[tuple[str, str, int]] = []
    seen: set[str] = set()
    for hand in "ABCDEF":
        source, position = "", 0
        for block in re.split(r"\n\s*\n", (SOURCES / "letters" / f"{hand}.txt").read_text(encoding="utf-8").strip()):
            text = " ".join(block.split())
            if text.startswith("## "):
                source, position = text.removeprefix("## "), 0
                if source in seen:
                    raise SystemExit(f"{hand}.txt: the heading {source!r} is there twice")
                seen.add(source)
            elif not source:
                raise SystemExit(f"{hand}.txt: text before the first heading")
            else:
                position += 1
                rows.append((text, source, position))
    return rows


def plain() -> list[dict[str, str]]:
    """Rows of id, register and text."""
    rows = []
    for register in REGISTERS:
        for block in (SOURCES / "plain" / f"{register}.txt").read_text(encoding="utf-8").split("=== ")[1:]:
            name, text = block.split("\n", 1)
            rows.append({"id": name.strip(), "register": register, "text": text.strip()})
    return rows


def hands() -> list[dict[str, str]]:
    """Rows of hand (as the letters' files are named), source and text."""
    rows = []
    for path in sorted((SOURCES / "hands").glob("*.txt")):
        heading, *blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
        rows += [{"hand": path.stem, "source": heading.removeprefix("## "), "text": " ".join(block.split())} for block in blocks]
    return rows


def built() -> dict[str, str]:
    """The bundled files by name."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["text", "source", "position"])
    writer.writerows(letters())
    return {
        "letters.csv": table.getvalue(),
        "plain.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain()),
        "hands.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in hands()),
    }


def main() -> None:
    ASSETS.mkdir(parents=True, exist_ok=True)
    for name, content in built().items():
        (ASSETS / name).write_text(content, encoding="utf-8", newline="")
    print(f"letters.csv: {len(letters())} snippets; plain.jsonl: {len(plain())} documents; hands.jsonl: {len(hands())} paragraphs")


if __name__ == "__main__":
    main()
