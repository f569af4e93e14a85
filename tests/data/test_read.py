"""Readers: what each kind of file means, worked by hand."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from galvan.data import files
from galvan.data.columns import Columns
from galvan.data.read import read
from galvan.data.rows import Row, make_row, make_rows
from galvan.errors import DataError, GalvanError


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_csv_rows_know_the_line_on_which_they_begin_and_keep_quoted_newlines(tmp_path: Path) -> None:
    name = written(tmp_path / "a.csv", 'text,n\n"one\ntwo",1\n"said ""no"", he",2\n')
    assert list(read(name)) == [
        Row("one\ntwo", "a", 1, f"{name} line 2"),
        Row('said "no", he', "a", 2, f"{name} line 4"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_any_line_end_change_nothing(tmp_path: Path, end: str, mark: bytes) -> None:
    table = written(tmp_path / "a.csv", mark + end.join(["text,source", "é one,s", "two,s", ""]).encode())
    assert [(row.text, row.source, row.where[-6:]) for row in read(table)] == [("é one", "s", "line 2"), ("two", "s", "line 3")]
    book = written(tmp_path / "b.txt", mark + end.join(["one", "two"]).encode())
    assert [row.text for row in read(book)] == ["one\ntwo"]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert [row.text for row in read(written(tmp_path / "a.tsv", "id\ttext\n1\ta, b\n2\tc\n"))] == ["a, b", "c"]


def test_jsonl_takes_objects_and_strings_and_passes_over_blank_lines(tmp_path: Path) -> None:
    name = written(tmp_path / "a.jsonl", '{"text": "one"}\n\n"two"\n{"text": null}\n')
    assert [(row.text, row.position, row.where) for row in read(name)] == [
        ("one", 1, f"{name} line 1"),
        ("two", 2, f"{name} line 3"),
        ("", 3, f"{name} line 4"),
    ]


@pytest.mark.parametrize("content", ['[{"text": "one"}, {"text": "two"}]', '["one", "two"]', '{"data": [{"text": "one"}, "two"]}'])
def test_json_takes_a_list_of_objects_or_texts_also_under_data(tmp_path: Path, content: str) -> None:
    name = written(tmp_path / "a.json", content)
    assert [(row.text, row.where) for row in read(name)] == [("one", f"{name} item 1"), ("two", f"{name} item 2")]


def test_parquet_reads_plain_and_dictionary_columns(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["one", "two", None]).dictionary_encode(), "source": ["s", "s", "t"], "other": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = list(read(str(tmp_path / "a.parquet")))
    assert [(row.text, row.source, row.where[-5:]) for row in rows] == [
        ("one", "s", "row 1"),
        ("two", "s", "row 2"),
        ("", "t", "row 3"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".txt"])
def test_gz_is_unpacked(tmp_path: Path, suffix: str) -> None:
    content = {".csv": "text\none\n", ".jsonl": '"one"\n', ".json": '["one"]', ".txt": "one"}[suffix]
    rows = list(read(written(tmp_path / f"a{suffix}.gz", gzip.compress(content.encode()))))
    assert [(row.text, row.source) for row in rows] == [("one", "a")]


def test_source_and_position_columns_are_used_where_present(tmp_path: Path) -> None:
    name = written(tmp_path / "a.csv", "position,source,text,who\n7,Letter I,one,x\n,,two,y\n")
    assert [(row.source, row.position, row.group) for row in read(name, group="who")] == [("Letter I", 7, "x"), ("a", 2, "y")]
    rows = read(written(tmp_path / "b.jsonl", '{"text": "t", "source": 84, "position": "3"}'))
    assert [(row.source, row.position) for row in rows] == [("84", 3)]


def test_another_column_may_hold_the_text_even_one_named_source(tmp_path: Path) -> None:
    assert [(row.text, row.source) for row in read(written(tmp_path / "a.csv", "source,n\none,1\n"), "source")] == [("one", "a")]


def test_folder_is_read_below_in_sorted_order_and_each_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "vol").mkdir()
    for name in ("b.txt", "vol/a.txt", "a.TXT", ".hidden.txt", "notes.md"):
        written(tmp_path / name, f"text of {name}")
    rows = list(read(str(tmp_path)))
    assert [(row.source, row.text) for row in rows] == [
        ("a", "text of a.TXT"),
        ("b", "text of b.txt"),
        ("vol/a", "text of vol/a.txt"),
    ]
    assert rows[2].where == f"{tmp_path}/vol/a.txt"


def test_folder_linked_into_itself_is_read_once(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "one")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [row.source for row in read(str(tmp_path))] == ["a"]


def test_a_book_of_twelve_megabytes_is_one_row(tmp_path: Path) -> None:
    assert [len(row.text) for row in read(written(tmp_path / "a.txt", b"word " * 2_400_000))] == [12_000_000]


def test_a_table_row_of_four_megabytes_is_read_whole(tmp_path: Path) -> None:
    text = "word " * 800_000
    assert [row.text for row in read(written(tmp_path / "a.csv", f'text\n"{text}"\n'))] == [text]
    assert [row.text for row in read(written(tmp_path / "a.jsonl", json.dumps({"text": text})))] == [text]


PIECES = st.sampled_from(
    [
        b"text",
        b"source",
        b"position",
        b",",
        b"\t",
        b'"',
        b"\n",
        b"\r",
        b"\r\n",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"null",
        b"1e999",
        b"\\ud800",
        b"\\u0000",
        b"PAR1",
        b"\x1f\x8b\x08",
        b"9" * 30,
        "é".encode(),
        b'{"text": "a"}\n',
        b'{"text": ',
        b"text\n",
        b"text,source\n",
    ]
)
RUBBISH = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(b"".join))
SUFFIXES = [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt", ".csv.gz", ".jsonl.gz", ".txt.gz", ".json.gz"]


def only_our_errors(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"fuzz{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") and len(content) % 2 else content)
    try:
        for row in read(os.fspath(path)):
            row.text.encode(), row.source.encode(), row.where.encode()
            assert "\0" not in row.text
    except GalvanError as error:
        assert error.code.startswith("data/")
        assert str(path) in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=RUBBISH)
@example(content=b'{"text": "' + b"[" * 5)
def test_arbitrary_bytes_raise_nothing_but_our_errors(tmp_path: Path, suffix: str, content: bytes) -> None:
    only_our_errors(tmp_path, suffix, content)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=RUBBISH)
def test_ten_thousand_arbitrary_files_raise_nothing_but_our_errors(tmp_path: Path, suffix: str, content: bytes) -> None:
    only_our_errors(tmp_path, suffix, content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=40), min_size=1))
def test_what_is_written_to_csv_and_jsonl_is_what_is_read(tmp_path: Path, texts: list[str]) -> None:
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [row.text for row in read(str(tmp_path / "a.csv"))] == texts
    assert [row.text for row in read(str(tmp_path / "a.jsonl"))] == texts


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.sampled_from(["\n", "\r", "\r\n", "a", "é", "\u2028", "\x0b", "\x85", "\ufeff", "\U0001f600", ""]), max_size=30
    ),
    size=st.integers(1, 9),
)
def test_lines_read_in_pieces_are_those_of_the_standard_library(tmp_path: Path, pieces: list[str], size: int) -> None:
    content = "".join(pieces).encode()
    (tmp_path / "a").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_PIECE", size)
        found = [line for turn in files.line_turns(tmp_path / "a", "a") for line in turn]
    assert found == list(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))


def test_of_two_faults_the_earlier_one_is_named(tmp_path: Path) -> None:
    sound = b'{"text": "sound"}\n'
    for bad, code in ((b'{"text": 3}\n', "data/not-text"), (b"{\n", "data/json"), (b'{"text": "a\0"}\n', "data/nul")):
        (tmp_path / "a.jsonl").write_bytes(sound * 100 + bad + sound * 30 + b'{"text": "\xff"}\n')
        with pytest.raises(DataError, match=r"line 101\b") as caught:
            list(read(str(tmp_path / "a.jsonl")))
        assert caught.value.code == code


CELLS = st.one_of(st.none(), st.integers(-3, 2**60), st.floats(), st.sampled_from(["", " b ", "x", "a\0", "\ud800", "7"]))
RECORDS = st.lists(
    st.fixed_dictionaries({}, optional={"text": st.one_of(st.just("a text"), CELLS), "source": CELLS, "position": CELLS}),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(records=RECORDS)
def test_rows_made_together_are_those_made_one_by_one(records: list[dict[str, object]]) -> None:
    placed = [(f"line {number}", values) for number, values in enumerate(records, 1)]

    def one_by_one() -> list[Row]:
        return [make_row(v, Columns(), f"a {place}", "stem", number) for number, (place, v) in enumerate(placed, 5)]

    try:
        expected = one_by_one()
    except DataError as error:
        with pytest.raises(DataError) as caught:
            if make_rows(placed, Columns(), "a", "stem", 4) is None:
                one_by_one()
        assert str(caught.value) == str(error)
    else:
        assert make_rows(placed, Columns(), "a", "stem", 4) in (expected, None)
