"""Pictures: well-formed, accessible, honest about their figures, and harmless whatever the text says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from galvan.data import pictures
from galvan.data.split import Splits
from galvan.rundir import Document

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script> & \u202e\x1b[31m\x00"


def of(source: str, *positions: int) -> list[Document]:
    return [Document(f"{source}:{n}", "text", source, n) for n in positions]


SPLITS = Splits(of("book", 1, 2, 3, 6, 7), of("book", 4), of("book", 5) + of(HOSTILE, 1))


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"] and all(child.text for child in root[:2])
    assert not root.findall(f".//{SVG}script")
    assert {mark.get("fill") for mark in root.iter() if mark.get("fill")} <= {"currentColor"}
    return root


def test_the_bars_of_the_histogram_count_every_document() -> None:
    root = parsed(pictures.lengths([*range(1, 101), 500]))
    said = [title.text or "" for title in root.iterfind(f".//{SVG}rect/{SVG}title")]
    assert sum(int(text.split(": ")[1].split()[0]) for text in said) == 101
    assert root[1].text == "101 documents of 1 to 500 tokens, half of them of 51 or more."


def test_the_map_shows_where_each_split_lies() -> None:
    root = parsed(pictures.split_map(SPLITS))
    said = [title.text for title in root.iterfind(f".//{SVG}rect/{SVG}title")]
    assert said[:4] == [
        "train: documents 1 to 3",
        "validation: documents 4 to 4",
        "test: documents 5 to 5",
        "train: documents 6 to 7",
    ]


def test_text_from_outside_cannot_leave_its_place() -> None:
    for svg in (pictures.split_map(SPLITS), pictures.top_duplicates([(HOSTILE, 9), ("a < b", 2)])):
        parsed(svg)
        assert "<script" not in svg and "\u202e" not in svg and "\x1b" not in svg


def test_nothing_is_a_picture_too() -> None:
    for svg in (pictures.lengths([]), pictures.lengths([7]), pictures.split_map(Splits([], [], [])), pictures.top_duplicates([])):
        parsed(svg)


def test_the_most_repeated_come_first() -> None:
    root = parsed(pictures.top_duplicates([("a", 2), ("b", 12)]))
    assert [text.text for text in root.iterfind(f"{SVG}text")] == ["b", "12 times", "a", "2 times"]
