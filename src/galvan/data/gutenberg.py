"""Project Gutenberg: fetch a book once, and take its licence header and footer off the text."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from galvan.data.rows import one_line
from galvan.errors import DataError, ResourceError
from galvan.rundir import write_bytes

PREFIX = "gutenberg:"
URL = "https://www.gutenberg.org"
_BYTES_LIMIT = 50_000_000
_TIMEOUT_SECONDS = 30

_START = re.compile(r"^[ \t]*\*\*\*[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,400}\*\*\*[^\n]*\n?", re.I | re.M)
_END = re.compile(
    r"^[ \t]*(?:\*\*\*[ \t]*END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:The |This )?Project Gutenberg(?:['’]s|[ \t]+e(?:text|book)))",
    re.I | re.M,
)
_SMALL_PRINT = re.compile(r"\*END ?\*?[ \t]*THE SMALL PRINT![^\n]*\*END\*[^\n]*\n?", re.I)
_SMALL_PRINT_START = re.compile(r"^[ \t]*\*+START\*+[ \t]*THE SMALL PRINT!", re.I | re.M)
_CREDIT = re.compile(
    r"\s*(?:Produced by|E-?text prepared by|This e-?(?:text|book) was produced by)\b.{0,600}?(?:\n[ \t]*\n|\Z)", re.I | re.S
)


class Stripped(NamedTuple):
    """The text without what Project Gutenberg put around it, and whether anything was found."""

    text: str
    found: bool


def strip(text: str) -> Stripped:
    """Remove header and footer by their markers, new (`*** START OF`) and old ("THE SMALL PRINT!"); no marker, no change."""
    if not is_named(text):  # the patterns below are far slower than this
        return Stripped(text, False)
    begin, end = 0, len(text)
    start = _START.search(text)
    if start:
        begin = start.end()
    small = _SMALL_PRINT.search(text)
    if small and small.start() < len(text) / 2:
        begin = max(begin, small.end())
    footer = _END.search(text, begin)
    if footer:
        end = footer.start()
    legal = _SMALL_PRINT_START.search(text, begin)
    if legal and legal.start() >= len(text) / 2:
        end = min(end, legal.start())
    if begin == 0 and end == len(text):
        return Stripped(text, False)
    credit = _CREDIT.match(text, begin, end) if begin else None
    return Stripped(text[credit.end() if credit else begin : end].strip(), True)


def is_named(text: str) -> bool:
    """Does "gutenberg" stand in `text`, in letters of either case?"""
    return b"gutenberg" in text.encode("utf-8", "surrogatepass").lower()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "galvan" / "gutenberg"


def fetch(source: str, *, offline: bool = False) -> Path:
    """The file that holds the book `gutenberg:NUMBER`, downloaded if it is not there yet.

    GALVAN_GUTENBERG_URL names another mirror. Raises DataError for a book that does not exist, ResourceError without a network.
    """
    number = source.removeprefix(PREFIX)
    if not re.fullmatch(r"[1-9][0-9]{0,6}", number):
        raise DataError("data/gutenberg-number", f"{one_line(source)}: write the number of a book, as in gutenberg:84.")
    path = cache_folder() / f"{number}.txt"
    if not path.is_file():
        if offline:
            raise ResourceError(
                "network/offline", f"{source}: there is no {one_line(str(path))}, and --offline forbids to download it."
            )
        write_bytes(path, _download(source, number))
    return path


def _download(source: str, number: str) -> bytes:
    url = f"{os.environ.get('GALVAN_GUTENBERG_URL', URL).rstrip('/')}/cache/epub/{number}/pg{number}.txt"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "galvan"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read(_BYTES_LIMIT + 1)
            promised = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DataError("data/gutenberg-unknown", f"{source}: no plain text at {one_line(url)}; check the number.") from None
        raise ResourceError("network/failed", f"{source}: {one_line(url)} answered {error.code}; try again later.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ResourceError(
            "network/failed",
            f"{source}: {one_line(url)} cannot be reached ({one_line(str(reason), 120)}); give the book as a txt file.",
        ) from None
    if promised is not None and promised.isdigit() and len(content) < min(int(promised), _BYTES_LIMIT):
        raise ResourceError("network/failed", f"{source}: {one_line(url)} broke off after {len(content):,} bytes; try again.")
    if len(content) > _BYTES_LIMIT:
        raise DataError(
            "data/gutenberg-unknown", f"{source}: {one_line(url)} has over {_BYTES_LIMIT // 1_000_000} MB; that is no book."
        )
    if not content.strip() or content.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        raise DataError("data/gutenberg-unknown", f"{source}: {one_line(url)} answered with a web page, not a plain text.")
    return content
