"""The texts of tokens that the page colours: one a scored token, and together with the head the document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from galvan.measure.scoring import not_reproduced, score, write_pieces, write_scores
from galvan.payload import Pair
from galvan.rundir import Document
from models_for_tests import byte_tokenizer, tiny_llama

WITH, WITHOUT = byte_tokenizer(), byte_tokenizer(bos=False)


def rows(path: Path, tokenizer: Any, documents: list[Document], **more: bool) -> list[dict[str, Any]]:
    write_pieces(path / "pieces.parquet", tokenizer, documents, **more)
    found: list[dict[str, Any]] = pq.read_table(path / "pieces.parquet").to_pylist()
    return found


@pytest.mark.parametrize("tokenizer", [WITH, WITHOUT], ids=["bos", "no bos"])
@pytest.mark.parametrize("score_eos", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), min_size=3, max_size=30))
def test_head_and_pieces_are_the_text_and_one_a_scored_token(tmp_path: Path, tokenizer: Any, score_eos: bool, text: str) -> None:
    document = Document("a", text, "s", 0)
    row = rows(tmp_path, tokenizer, [document], score_eos=score_eos)[0]
    assert len(row["pieces"]) == len(text.encode()) - (tokenizer is WITHOUT)
    if tokenizer is WITH or len(text[0].encode()) == 1:  # else the first token is a part of a character
        assert row["head"] + "".join(row["pieces"]) == text


def test_pieces_are_as_many_as_the_scores_and_a_character_of_three_tokens_is_the_first_ones(tmp_path: Path) -> None:
    documents = [Document("a", "He said “no”.", "s", 0), Document("b", "Plain words.", "s", 1)]
    found = rows(tmp_path, WITH, documents)
    scored = score(tiny_llama(), WITH, documents, "base", "test", 512)
    assert [len(r["pieces"]) for r in found] == [s.n_tokens for s in scored] and [r["document"] for r in found] == ["a", "b"]
    assert found[0]["pieces"][8:11] == ["“", "", ""] and found[0]["head"] == ""


def test_of_a_document_with_a_prompt_the_prompt_is_the_head(tmp_path: Path) -> None:
    document = Document("a", "No.", "s", 0, payload=Pair("Say no.\n", "No."))
    row = rows(tmp_path, WITH, [document])[0]
    assert row["head"].endswith("Say no.\n") and "".join(row["pieces"]) == "No."


def test_blanks_before_a_full_stop_stay(tmp_path: Path) -> None:
    """Tokenizers of whole words would take them away when they decode, as in English print."""
    whole = Tokenizer(models.WordLevel({"Say": 0, "no": 1, ".": 2, "No": 3, "</s>": 4, "?": 5}, unk_token="?"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>", unk_token="?")
    (row,) = rows(tmp_path, words, [Document("a", "No .", "s", 0, payload=Pair("Say no . ", "No ."))])
    assert row["head"] == "Say no ." and row["pieces"] == ["No", "."]
    assert not_reproduced(words, [Document("a", "Say no .", "s", 0)]) == []


@pytest.mark.parametrize("name", ["pieces", "scores"])
def test_a_bit_of_a_page_that_changed_on_the_disk_changes_no_row(tmp_path: Path, name: str) -> None:
    """It is an error, or it stood where nothing is read from. The footer behind the pages has no checksum of its own."""
    path, documents = tmp_path / f"{name}.parquet", [Document("a", "The box holds 3 red bricks.", "s", 0)]
    write_pieces(path, WITH, documents) if name == "pieces" else write_scores(
        path, score(tiny_llama(), WITH, documents, "base", "test", 512)
    )
    right, whole, seen = pq.read_table(path).to_pylist(), path.read_bytes(), 0
    for at in range(4, len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert pq.read_table(path, page_checksum_verification=True).to_pylist() == right
        except (OSError, ValueError):
            seen += 1
    assert seen > 10
