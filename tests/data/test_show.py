"""The picture of a training row: what is learned, only read, and cut."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from chat_tokenizers import LLAMA, chat_tokenizer
from galvan import cli
from galvan.data.show import shown_row, to_html, to_terminal
from galvan.data.tokens import training_rows
from galvan.payload import Chat, Pair
from galvan.rundir import Document
from models_for_tests import byte_tokenizer, save_base, tiny_llama


def picture(tokenizer, payload, max_tokens=None):
    (whole,) = training_rows(tokenizer, [Document("d", "", "s", 1, payload=payload)], None, True)
    return [shown_row(tokenizer, whole, max_tokens)]


def test_without_colour_each_run_says_what_it_is():
    assert to_terminal(picture(byte_tokenizer(), Pair("Q:\n", "yes"), 6), colour=False) == (
        "d (completion): 8 tokens, 2 trained, 4 masked, 2 cut\n  masked  <s>|Q|:|\\n\n  trained y|e\n  cut     s|</s>"
    )


def test_in_colour_trained_is_green_masked_dim_and_cut_struck_through():
    line = to_terminal(picture(byte_tokenizer(), Pair("Q", "ab"), 3), colour=True).split("\n")[1]
    assert line == "  \x1b[2m<s>|Q\x1b[0m|\x1b[32ma\x1b[0m|\x1b[9;31mb|</s>\x1b[0m"


def test_a_conversation_shows_its_template():
    chat = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}))
    assert "\n  trained Y|o|<|eot|>" in to_terminal(picture(chat_tokenizer(LLAMA), chat), colour=False)


def test_nothing_in_the_data_reaches_a_terminal_or_a_page_unescaped():
    tokenizer, hostile = byte_tokenizer(), "\x1b[2J<script>alert(1)</script>\u202e\u200b&\"'"
    rows = picture(tokenizer, Pair(hostile, hostile))
    terminal = to_terminal(rows, colour=False)
    assert terminal.isprintable() or all(ch.isprintable() or ch == "\n" for ch in terminal)
    page = to_html(rows)
    assert "\x1b" not in page and "<script" not in page and page.count("<span") == page.count("</span>") == len(rows[0].tokens)
    assert '<span class="trained" title="27">&lt;</span>' in page


def test_prepare_shows_rows_and_ends_with_3_where_nothing_could_be_learned(tmp_path):
    folder = save_base(tmp_path / "base", tiny_llama())
    rows = [{"prompt": f"Question {n}, please: ", "completion": f"yes {n}"} for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(f"model: {{base: {folder}}}\ndata: {{source: {tmp_path / 'a.jsonl'}}}\n")

    def prepare(*more):
        return CliRunner().invoke(cli.app, ["prepare", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--quiet", *more])

    first = prepare("--show", "2")
    assert first.exit_code == 0
    lines = first.stdout.split("\n")
    assert lines[0] == "a:2 (completion): 27 tokens, 6 trained, 21 masked, 0 cut"
    assert lines[2] == "  trained y|e|s| |1|</s>" and "\x1b" not in first.stdout
    as_json = json.loads(prepare("--show", "1", "--json").stdout)
    assert as_json["rows"][0]["tokens"][-1] == {"text": "</s>", "id": 257, "kind": "trained"}
    assert as_json["tokens"]["shape"] == "prompts with completions"
    refused = prepare("--show", "1", "--set", "training.document_tokens=9")
    assert "  cut     " in refused.stdout and refused.exception.code == "D04" and refused.exception.exit_code == 3
