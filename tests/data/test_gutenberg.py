"""Project Gutenberg: what is taken off a book, and how a book is fetched; the server is a loopback one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from galvan.data.gutenberg import strip
from galvan.data.read import read
from galvan.errors import EXIT_DATA, EXIT_RESOURCES, DataError, GalvanError, ResourceError

BODY = "Chapter I\n\nIt was a dark night.\n\nThe end of it."
NEW = (
    "The Project Gutenberg eBook of A Night\n\nTitle: A Night\n\n*** START OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\n\n"
    f"Produced by A. Volunteer and\nanother one.\n\n{BODY}\n\n*** END OF THE PROJECT GUTENBERG EBOOK A NIGHT ***\n\nUpdated editions will …\n"
)
WRAPPED = (
    "Header\n***START OF THIS PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE OF A NIGHT***\n\n"
    f"{BODY}\n\nEnd of Project Gutenberg's A Night, by Nobody\n\n***END OF THIS PROJECT GUTENBERG EBOOK***\nLicence"
)
OLD = (
    "**The Project Gutenberg Etext of A Night**\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nPlease read.\n"
    f"*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n{BODY}\n\nEnd of The Project Gutenberg Etext of A Night\n"
)


@pytest.mark.parametrize("book", [NEW, WRAPPED, OLD], ids=["new", "title over two lines", "small print of the nineties"])
def test_header_and_footer_are_taken_off(book: str) -> None:
    assert strip(book) == (BODY, True)


def test_small_print_at_the_end_is_taken_off_too() -> None:
    legal = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n" + BODY * 9 + "\n***START**THE SMALL PRINT! and so on"
    assert strip(legal) == (BODY * 9, True)


@pytest.mark.parametrize(
    "text", [BODY, "", "I read it on Project Gutenberg. *** Then it rained. ***", "The START OF THE PROJECT GUTENBERG fund"]
)
def test_text_without_markers_is_left_untouched(text: str) -> None:
    assert strip(text) == (text, False)


def test_a_book_that_only_has_an_end_keeps_its_beginning() -> None:
    assert strip(f"{BODY}\n*** END OF THE PROJECT GUTENBERG EBOOK ***\nLicence") == (BODY, True)


class _Mirror(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        number = self.path.split("/")[3]
        body = {"84": NEW.encode(), "5": b"<!DOCTYPE html><p>log in</p>", "6": NEW.encode(), "7": b"", "9": b"caf\xe9"}.get(number)
        if body is None:
            self.send_error(503 if number == "8" else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 1000 * (number == "6")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mirror", (_Mirror,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("GALVAN_GUTENBERG_URL", url + "/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield url, asked
    server.shutdown()
    server.server_close()


def failed(source: str, kind: type[GalvanError], *, offline: bool = False) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        list(read(source, offline=offline))
    return caught.value.code, str(caught.value)


def test_book_is_downloaded_once_and_read_from_the_cache_after(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    for offline in (False, False, True):
        rows = list(read("gutenberg:84", offline=offline))
        assert [(row.text, row.source, row.where) for row in rows] == [(NEW, "gutenberg-84", "gutenberg:84")]
    assert mirror[1] == ["/cache/epub/84/pg84.txt"]
    assert [path.name for path in (tmp_path / "cache" / "galvan" / "gutenberg").iterdir()] == ["84.txt"]


def test_what_goes_wrong_on_the_way_is_one_sentence_and_nothing_is_cached(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    url = mirror[0] + "/cache/epub"
    assert failed("gutenberg:999", DataError) == (
        "data/gutenberg-unknown",
        f"gutenberg:999: no plain text at {url}/999/pg999.txt; check the number.",
    )
    assert failed("gutenberg:5", DataError)[1] == f"gutenberg:5: {url}/5/pg5.txt answered with a web page, not a plain text."
    assert failed("gutenberg:7", DataError)[0] == "data/gutenberg-unknown"
    assert failed("gutenberg:8", ResourceError) == (
        "network/failed",
        f"gutenberg:8: {url}/8/pg8.txt answered 503; try again later.",
    )
    assert (
        failed("gutenberg:6", ResourceError)[1]
        == f"gutenberg:6: {url}/6/pg6.txt broke off after {len(NEW.encode()):,} bytes; try again."
    )
    assert not (tmp_path / "cache").exists()


def test_book_in_latin_1_is_refused_with_its_byte(mirror: tuple[str, list[str]]) -> None:
    assert failed("gutenberg:9", DataError)[1].startswith("gutenberg:9 line 1: byte 0xe9 at offset 3 is not UTF-8")


def test_offline_and_unreachable_and_misspelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GALVAN_GUTENBERG_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert failed("gutenberg:84", ResourceError, offline=True) == (
        "network/offline",
        f"gutenberg:84: there is no {tmp_path}/galvan/gutenberg/84.txt, and --offline forbids to download it.",
    )
    assert failed("gutenberg:84", ResourceError)[1] == (
        "gutenberg:84: http://127.0.0.1:9/cache/epub/84/pg84.txt cannot be reached ([Errno 111] Connection refused); give the book as a txt file."
    )
    said = "gutenberg:frank: write the number of a book, as in gutenberg:84."
    assert failed("gutenberg:frank", DataError) == ("data/gutenberg-number", said)
    assert DataError.exit_code == EXIT_DATA and ResourceError.exit_code == EXIT_RESOURCES
