"""What is wrong with a file, in one sentence with file and line: the exact words are the product."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galvan.data import rows as rows_module
from galvan.data.read import read
from galvan.errors import EXIT_DATA, DataError


def refused(source: Path | str, column: str = "text", group: str | None = None) -> tuple[str, str]:
    """Code and message, with the folder left out."""
    with pytest.raises(DataError) as caught:
        list(read(str(source), column, group=group))
    assert caught.value.exit_code == EXIT_DATA
    folder = f"{Path(source).parent}/" if isinstance(source, Path) else "\0"
    return caught.value.code, str(caught.value).replace(folder, "")


CASES = [
    ("empty.csv", b"", "data/empty", "empty.csv: the file is empty (0 bytes)."),
    ("head.csv", b"text\n", "data/empty", "head.csv: no row of text was found in it."),
    ("blank.json", b" \n", "data/empty", "blank.json: no row of text was found in it."),
    ("nothing.json", b"[]", "data/empty", "nothing.json: no row of text was found in it."),
    (
        "a.csv",
        b"Text,source\nx,y\n",
        "data/no-column",
        "a.csv line 1: there is no column `text`; found `Text`, `source`; did you mean `Text`? Set data.column.",
    ),
    (
        "a.jsonl",
        b'{"text": "x"}\n{"txt": "x", "n": 1}\n',
        "data/no-column",
        "a.jsonl line 2: there is no column `text`; found `txt`, `n`; did you mean `txt`? Set data.column.",
    ),
    ("a.json", b"[{}]", "data/no-column", "a.json item 1: there is no column `text`; found none; Set data.column."),
    ("a.csv", b"text,text\nx,y\n", "data/twin-columns", "a.csv line 1: there are 2 columns `text`; rename all but one."),
    (
        "a.csv",
        b"text\nwell, then\n",
        "data/ragged",
        "a.csv line 2: 2 fields, but the header has 1; put a text that holds the separator or a line break in double quotes.",
    ),
    (
        "a.csv",
        b'text\nfine\n"open\nand\n',
        "data/csv",
        "a.csv line 3: not well-formed csv: a quote is not closed; inside a quoted field, write a quote twice.",
    ),
    (
        "a.csv",
        b'text\n"a"b\n',
        "data/csv",
        "a.csv line 2: not well-formed csv: ',' expected after '\"'; inside a quoted field, write a quote twice.",
    ),
    (
        "latin.csv",
        b"text\nfine\ncaf\xe9 noir\n",
        "data/encoding",
        "latin.csv line 3: byte 0xe9 at offset 13 is not UTF-8; if the file is Windows or Latin-1 text, "
        "`iconv -f WINDOWS-1252 -t UTF-8` converts it.",
    ),
    (
        "cut.txt",
        b"one\r\ntwo\r\nthr\xc3",
        "data/encoding",
        "cut.txt line 3: byte 0xc3 at offset 13 is not UTF-8; if the file is Windows or Latin-1 text, "
        "`iconv -f WINDOWS-1252 -t UTF-8` converts it.",
    ),
    (
        "wide.csv",
        "text\nx\n".encode("utf-16"),
        "data/encoding",
        "wide.csv line 1: the file is UTF-16, not UTF-8; `iconv -f UTF-16 -t UTF-8` converts it.",
    ),
    ("a.csv", b"text\nx\0y\n", "data/nul", "a.csv line 2: holds a NUL byte; this is no text file, or not in UTF-8."),
    ("a.txt", b"one\ntwo\0\n", "data/nul", "a.txt line 2: holds a NUL byte; this is no text file, or not in UTF-8."),
    (
        "a.jsonl",
        b'{"text": "x\\u0000y"}\n',
        "data/nul",
        "a.jsonl line 1: holds a NUL character; this is no text, or text in another encoding than UTF-8.",
    ),
    (
        "a.jsonl",
        b'{"text": "fine"}\n{"text": "x\\ud83dy"}\n',
        "data/surrogate",
        "a.jsonl line 2: holds \\ud83d, half of a character; write the file again.",
    ),
    (
        "a.jsonl",
        b'{"text": "x"}\n{"text": "x"\n',
        "data/json",
        "a.jsonl line 2: not valid JSON: Expecting ',' delimiter at column 13.",
    ),
    ("a.json", b'[\n{"text": "x"},\n]', "data/json", "a.json line 3: not valid JSON: Expecting value at column 1."),
    ("bomb.jsonl", b"[" * 200_000, "data/json", "bomb.jsonl line 1: not usable JSON: nested too deep."),
    ("bomb.json", b'{"a":' * 200_000, "data/json", "bomb.json: not usable JSON: nested too deep."),
    ("a.jsonl", b"[1]\n", "data/json-shape", "a.jsonl line 1: must be an object or a text, found a list."),
    ("a.json", b"[3]", "data/json-shape", "a.json item 1: must be an object or a text, found a number."),
    (
        "a.json",
        b'{"rows": []}',
        "data/json-shape",
        'a.json: must be a list of objects or of texts, or {"data": [...]}; found an object with the keys `rows`.',
    ),
    ("a.jsonl", b'{"text": 7}\n', "data/not-text", "a.jsonl line 1: `text` must be text, found int 7."),
    ("a.jsonl", b'{"text": ["a"]}\n', "data/not-text", "a.jsonl line 1: `text` must be text, found list ['a']."),
    ("a.jsonl", b'{"text": "a", "source": [1]}\n', "data/not-text", "a.jsonl line 1: `source` must be a name, found list [1]."),
    (
        "a.csv",
        b"text,position\nx,first\n",
        "data/position",
        "a.csv line 2: `position` must be a whole number, the text's place in its source; found 'first'. "
        "Rename the column if it means something else.",
    ),
    ("a.txt.gz", b"no gzip", "data/gzip", "a.txt.gz: not a whole gzip file: Not a gzipped file (b'no'); fetch it again."),
    (
        "cut.csv.gz",
        gzip.compress(b"text\n" + os.urandom(4000).hex().encode())[:900],
        "data/gzip",
        "cut.csv.gz: not a whole gzip file: Compressed file ended before the end-of-stream marker was reached; fetch it again.",
    ),
    (
        "letter.docx",
        b"PK",
        "data/unsupported",
        "letter.docx: galvan reads .csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt, these with .gz or .zst, and folders of .txt; save it as one.",
    ),
]


@pytest.mark.parametrize(("name", "content", "code", "message"), CASES, ids=[f"{case[2]}-{n}" for n, case in enumerate(CASES)])
def test_a_bad_file_is_one_sentence_with_file_and_line(tmp_path: Path, name: str, content: bytes, code: str, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name) == (code, message)


def test_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "letters.csv").write_text("text\nx\n")
    assert refused(tmp_path / "leters.csv") == (
        "data/missing",
        "leters.csv: there is no such file or folder; did you mean `letters.csv`?",
    )
    assert refused(tmp_path / "unlike.json")[1] == "unlike.json: there is no such file or folder; check data.source."
    assert (
        refused("no-such/folder/a.csv")[1]
        == "no-such/folder/a.csv: there is no such file or folder, and no folder `no-such/folder`."
    )
    assert refused("galvan/leters")[1] == "galvan/leters: there is no such bundled text; there are galvan/letters and galvan/plain."
    assert refused("a\0b.csv")[1] == "a\\u0000b.csv: not a possible file name."


def test_folder_without_txt_says_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    assert refused(folder) == (
        "data/no-txt",
        "texts: the folder has no .txt file (it is empty); give the file itself, or a folder of .txt.",
    )
    (folder / "a.csv").write_text("text\nx\n")
    assert refused(folder)[1] == "texts: the folder has no .txt file (it holds a.csv); give the file itself, or a folder of .txt."


def test_link_to_itself_is_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert refused(tmp_path / "loop.csv") == ("data/unreadable", "loop.csv: cannot be read: Too many levels of symbolic links.")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "loop.txt").symlink_to("loop.txt")
    assert refused(tmp_path / "texts") == ("data/unreadable", "texts/loop.txt: cannot be read: Too many levels of symbolic links.")


def test_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert refused(tmp_path / "pipe.csv") == ("data/unreadable", "pipe.csv: neither a plain file nor a folder.")


def test_row_beyond_the_limit_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rows", "files", "tables"):
        monkeypatch.setattr(f"galvan.data.{module}.ROW_LIMIT", 1_000_000)
    said = "the row that begins here is longer than 1 MB; is a quote left open? A whole book belongs in a txt file."
    (tmp_path / "a.jsonl").write_text('"fine"\n"' + "x" * 1_000_001 + '"\n')
    assert refused(tmp_path / "a.jsonl") == ("data/row-too-long", f"a.jsonl line 2: {said}")
    (tmp_path / "a.csv").write_text("text\nfine\n" + '"open\n' + "some words\n" * 200_000)
    assert refused(tmp_path / "a.csv") == ("data/row-too-long", f"a.csv line 3: {said}")
    pq.write_table(pa.table({"text": ["x" * 1_000_001]}), tmp_path / "a.parquet")
    assert refused(tmp_path / "a.parquet") == ("data/row-too-long", f"a.parquet row 1: {said}")
    (tmp_path / "a.txt").write_text("x" * 1_000_001)
    assert len(list(read(str(tmp_path / "a.txt")))) == 1
    assert rows_module.ROW_LIMIT == 1_000_000


def test_parquet_that_is_none_or_damaged_or_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    code, message = refused(tmp_path / "a.parquet")
    assert code == "data/parquet" and message.startswith("a.parquet: not readable as parquet: ")
    pq.write_table(pa.table({"text": [b"bytes"], "n": [1]}), tmp_path / "b.parquet")
    assert refused(tmp_path / "b.parquet") == ("data/not-text", "b.parquet row 1: `text` must be text, found bytes b'bytes'.")
    assert refused(tmp_path / "b.parquet", "m")[1] == ("b.parquet: there is no column `m`; found `text`, `n`; Set data.column.")


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_a_file_that_unpacks_without_end_is_refused(suffix: str, tmp_path: Path) -> None:
    """101 MB of one letter in a few kilobytes, in rows that are each short enough."""
    path, row = tmp_path / f"bomb.{suffix}", "x" * 900_000
    if suffix == "parquet":
        pq.write_table(pa.table({"text": [row] * 113}), path, compression="zstd", use_dictionary=False)
    else:
        content = (json.dumps({"text": row}) + "\n").encode() * 113
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else pa.compress(content, "zstd", asbytes=True))
    code, message = refused(path)
    assert code == "data/expansion" and message.endswith(
        " bytes unpack to more than 100,000,000; if that is right, unpack the file yourself."
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [("a.json", "data/nul"), ("a.txt", "data/nul"), ("a.csv", "data/row-too-long"), ("a.jsonl", "data/row-too-long")],
)
def test_a_terabyte_of_nothing_is_refused_before_it_is_read(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 1 << 40)
    assert refused(tmp_path / name)[0] == code


@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_a_file_that_is_read_whole_has_a_largest_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galvan.data.files.LARGEST_WHOLE", 1000)
    (tmp_path / name).write_text("word\n" * 201)
    assert refused(tmp_path / name) == (
        "data/too-large",
        f"{name}: longer than 1,000 characters, and such a file is read whole; save it as JSON Lines, which is not.",
    )


@pytest.mark.parametrize("column", ["text", "messages"])
def test_a_parquet_whose_dictionary_holds_one_long_value_for_every_row_is_refused_before_it_is_unpacked(
    column: str, tmp_path: Path
) -> None:
    """2 GB of one letter, of which the file itself says 100 KB: nothing near that may be in memory at any time."""
    path, rows = tmp_path / "bomb.parquet", 20_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 100_000]))
    if column == "messages":
        turns = pa.StructArray.from_arrays([pa.array(["user"] * rows), texts], ["role", "content"])
        texts = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), turns)
    pq.write_table(pa.table({column: texts}), path, compression="zstd")
    assert path.stat().st_size < 10_000 and pq.ParquetFile(path).metadata.row_group(0).total_byte_size < 1_000_000
    before = pa.default_memory_pool().max_memory()
    assert refused(path, column)[0] == "data/expansion"
    assert pa.default_memory_pool().max_memory() - before < 100_000_000


def test_group_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,author\nx,y\n")
    assert refused(tmp_path / "a.csv", group="autor") == (
        "data/no-column",
        "a.csv line 1: there is no column `autor`; found `text`, `author`; did you mean `author`? Set data.split.group.",
    )
    (tmp_path / "a.txt").write_text("x")
    assert refused(tmp_path / "a.txt", group="author")[1] == "a.txt: txt has no column `author`; set data.split.group to source."


def test_escape_characters_of_a_file_never_reach_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\x1b[31mred\nx\n")
    assert refused(tmp_path / "a.csv")[1] == "a.csv line 1: there is no column `text`; found `\\u001b[31mred`; Set data.column."


def test_a_line_break_in_a_name_does_not_break_the_message(tmp_path: Path) -> None:
    (tmp_path / "a\nb.csv").write_text('"one\ntwo"\nx\n')
    assert refused(tmp_path / "a\nb.csv")[1] == "a\\nb.csv line 1: there is no column `text`; found `one\\ntwo`; Set data.column."
