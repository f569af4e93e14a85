"""From each kind of file to its payload, worked by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galvan import recipe
from galvan.data import files
from galvan.data.prepare import prepare, write
from galvan.data.read import read
from galvan.errors import DataError, RecipeError
from galvan.payload import Chat, Pair, Tokens, from_json, learned_text
from galvan.rundir import read_documents, to_json

USER, YES = {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
RESULT = {"role": "tool", "content": "42", "tool_call_id": "a"}

CASES = {
    "prompt and completion": ({"prompt": "Q: ", "completion": "A"}, Pair("Q: ", "A")),
    "a prompt that looks like messages": ({"prompt": "[{\"role\": 1}]", "completion": "A"}, Pair("[{\"role\": 1}]", "A")),
    "prompt and completion as messages": ({"prompt": [SYSTEM, USER], "completion": [YES]}, Chat((SYSTEM, USER, YES), None, 2)),
    "messages": ({"messages": [SYSTEM, USER, YES]}, Chat((SYSTEM, USER, YES))),
    "messages with tools": ({"messages": [USER, CALL, RESULT, YES], "tools": TOOLS}, Chat((USER, CALL, RESULT, YES), tuple(TOOLS))),
    "messages of pieces": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Really?"}]}, YES]}, Chat((USER, YES))),
    "messages beside a prompt": ({"prompt": "x", "completion": "y", "messages": [USER, YES]}, Chat((USER, YES))),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Really?"}, {"from": "gpt", "value": "Yes."}]}, Chat((USER, YES))),
    "sharegpt with system": ({"system": "Be brief.", "conversations": [{"from": "human", "value": "Really?"}, {"from": "gpt", "value": "Yes."}]}, Chat((SYSTEM, USER, YES))),
    "sharegpt by role": ({"conversations": [USER, YES]}, Chat((USER, YES))),
    "alpaca": ({"instruction": "Really?", "input": "", "output": "Yes."}, Chat((USER, YES), None, 0)),
    "alpaca with all": (
        {"instruction": "Translate.", "input": "oui", "output": "yes", "system": "Be brief.", "history": [["Really?", "Yes."]]},
        Chat((SYSTEM, USER, YES, {"role": "user", "content": "Translate.\n\noui"}, {"role": "assistant", "content": "yes"}), None, 3),
    ),
    "ids": ({"input_ids": [5, 6, 7]}, Tokens((5, 6, 7))),
    "ids and labels": ({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}, Tokens((5, 6, 7), (-100, -100, 7))),
}  # fmt: skip


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_each_shape_is_detected_by_its_keys(tmp_path: Path, name: str) -> None:
    record, payload = CASES[name]
    (row,) = read(jsonl(tmp_path / "a.jsonl", record))
    assert row.payload == payload
    assert row.text == learned_text(payload)
    assert from_json(json.loads(to_json(payload))) == payload


@pytest.mark.parametrize("name", CASES)
def test_parquet_gives_the_same_as_jsonl(tmp_path: Path, name: str) -> None:
    record, payload = CASES[name]
    if name in ("messages with tools", "messages of pieces"):
        pytest.skip("parquet has neither empty structs nor columns of two types")
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert [row.payload for row in read(str(tmp_path / "a.parquet"))] == [payload]


def test_csv_holds_pairs_as_texts_and_messages_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion,source\n"Q, ",A,book\n')
    (tmp_path / "b.csv").write_text('messages\n"' + json.dumps([USER, YES]).replace('"', '""') + '"\n')
    (row,) = read(str(tmp_path / "a.csv"))
    assert (row.payload, row.source) == (Pair("Q, ", "A"), "book")
    assert [row.payload for row in read(str(tmp_path / "b.csv"))] == [Chat((USER, YES))]


def test_a_text_column_wins_so_that_plain_text_stays_what_it_was(tmp_path: Path) -> None:
    (row,) = read(jsonl(tmp_path / "a.jsonl", {"text": "t", "prompt": "p", "completion": "c", "messages": [USER, YES]}))
    assert (row.text, row.payload) == ("t", None)


def test_a_mapping_of_columns_names_the_parts_and_decides_the_shape(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "a.jsonl", {"text": "t", "question": "p", "answer": "c"})
    (row,) = read(name, mapping={"prompt": "question", "completion": "answer"})
    assert row.payload == Pair("p", "c")
    with pytest.raises(DataError) as caught:
        list(read(name, mapping={"prompt": "question", "labels": "answer"}))
    assert caught.value.code == "data/columns" and "`prompt`, `labels`" in str(caught.value)


def test_the_recipe_knows_the_parts() -> None:
    asked = recipe.from_text("data: {columns: {prompt: question, completion: answer}}")
    assert asked.data.mapping == {"prompt": "question", "completion": "answer"}
    assert recipe.from_text(recipe.resolved(asked)) == asked
    assert recipe.from_text("", settings=["data.columns.prompt=question"]).data.mapping == {"prompt": "question"}
    with pytest.raises(RecipeError, match=r"data\.columns"):
        recipe.from_text("data: {columns: {promt: question}}")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "line 1: `messages` must be a conversation with an assistant's turn to learn, found []."),
        ({"messages": [USER]}, "must be a conversation with an assistant's turn to learn"),
        ({"messages": "no"}, "line 1: `messages` must be a list of messages, found 'no'."),
        ({"messages": [USER, "x"]}, "line 1: `messages` must be a list of messages, but message 2 is none, found 'x'."),
        ({"messages": [{"content": "x"}]}, "must be messages with `role`, but message 1 has none"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "must be messages of text, but message 1 is not"),
        ({"prompt": "a", "completion": 5}, "line 1: `completion` must be text, found 5."),
        (
            {"instruction": "a", "output": "b", "history": [["x"]]},
            "`history` must be a list of [user, assistant] pairs, found ['x'].",
        ),
        ({"input_ids": [1, True]}, "`input_ids` must be a list of token ids, found True."),
        ({"input_ids": []}, "`input_ids` must be a list of token ids, found ()."),
        ({"input_ids": [1, 2], "labels": [1]}, "`labels` must be as long as input_ids (2), found (1,)."),
    ],
)
def test_a_wrong_row_is_one_sentence_with_its_line(tmp_path: Path, record: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read(jsonl(tmp_path / "a.jsonl", record)))
    assert message in str(caught.value) and "a.jsonl line 1" in str(caught.value)


def test_a_row_of_another_shape_than_the_first_is_refused(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"text": "c"})
    with pytest.raises(DataError, match="line 2: there is no column `prompt`; found `text`"):
        list(read(name))


def test_documents_keep_their_shape_through_preparing_and_plain_ones_write_no_payload(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}: ", "completion": "Yes."} for n in range(20)]
    rows.append(rows[3])
    done = prepare(recipe.Data(source=jsonl(tmp_path / "a.jsonl", *rows)), 1, lambda text: [(0, len(text))])
    write(done, tmp_path / "run")
    documents = [d for part in ("train", "validation", "test") for d in read_documents(tmp_path / "run" / "data" / f"{part}.jsonl")]
    # Twenty different prompts with the same answer are no duplicates of each other, and an answer of one word is not too short.
    assert sorted(d.payload.prompt for d in documents) == sorted(f"Say {n}: " for n in range(20))
    assert {reason: removed.count for reason, removed in done.audit.removed.items()} == {"duplicate": 1}
    assert {d.text for d in documents} == {"Yes."}
    plain = prepare(recipe.Data(source="galvan/letters"), 1, lambda text: [(0, 1)])
    write(plain, tmp_path / "plain")
    assert "payload" not in (tmp_path / "plain" / "data" / "train.jsonl").read_text()


def test_ids_get_their_text_from_the_tokenizer(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "a.jsonl", *({"input_ids": [1, 2, n], "labels": [-100, 2, n]} for n in range(3, 13)))
    done = prepare(recipe.Data(source=name), 1, lambda text: [(0, 1)], decode=lambda ids: " ".join(map(str, ids)))
    assert {d.text for _, part in done.splits.items() for d in part} == {f"2 {n}" for n in range(3, 13)}


def test_zstd_and_gzip_tables_are_unpacked(tmp_path: Path) -> None:
    content = json.dumps({"prompt": "a", "completion": "b"}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.jsonl.zst").write_bytes(pa.compress(content, codec="zstd", asbytes=True))
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        assert [(row.payload, row.source) for row in read(str(tmp_path / name))] == [(Pair("a", "b"), name[0])]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_small_file_that_unpacks_into_a_huge_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(files, "SMALL_BYTES", 1_000_000)
    content = b"\n" * 5_000_000
    packed = gzip.compress(content) if suffix == "gz" else pa.compress(content, codec="zstd", asbytes=True)
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(packed)
    with pytest.raises(DataError) as caught:
        list(read(str(tmp_path / f"a.jsonl.{suffix}")))
    assert caught.value.code == "data/expansion"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_damaged_packed_file_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(b"not packed at all")
    with pytest.raises(DataError) as caught:
        list(read(str(tmp_path / f"a.jsonl.{suffix}")))
    assert caught.value.code == {"gz": "data/gzip", "zst": "data/zstd"}[suffix]


def test_a_pattern_reads_its_files_in_order_and_says_when_there_is_none(tmp_path: Path) -> None:
    for name in ("b", "a"):
        jsonl(tmp_path / f"{name}.jsonl", {"text": f"text {name}"})
    assert [(row.text, row.source) for row in read(str(tmp_path / "*.jsonl"))] == [("text a", "a"), ("text b", "b")]
    with pytest.raises(DataError, match="no file matches this pattern"):
        list(read(str(tmp_path / "*.csv")))


def test_ids_of_which_no_row_has_anything_to_learn_are_refused_as_d04(tmp_path: Path) -> None:
    """Position 0 is never a target: a label there alone teaches nothing."""
    for first in (-100, 1):
        name = jsonl(tmp_path / "a.jsonl", *({"input_ids": [1, 2, n], "labels": [first, -100, -100]} for n in range(3, 13)))
        with pytest.raises(DataError, match="None of the 10 rows of token ids has a token to learn") as stopped:
            prepare(recipe.Data(source=name), 1, lambda text: [(0, 1)], decode=lambda ids: " ".join(map(str, ids)))
        assert stopped.value.code == "D04"
